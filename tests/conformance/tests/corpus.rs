//! Runs the conformance corpus, an optional folder beside the checkout.

use std::path::Path;

use kermode_conformance::{corpus, deviation, report, suite};

#[test]
fn every_case_passes_or_is_a_known_deviation() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    if !folder.is_dir() {
        println!("SKIPPED: no corpus at {}", folder.display());
        return;
    }
    let (runners, deviations) = (suite::all_runners(), deviation::read_all().unwrap());
    let mut out = Vec::new();
    let mut failed = 0;
    for suite in corpus::read(&folder).unwrap() {
        let report = report::run(&suite, &runners, &deviations);
        report.write(&mut out).unwrap();
        failed += report.failed.len();
    }
    let text = String::from_utf8(out).unwrap();
    println!("{text}");
    assert_eq!(failed, 0, "{text}");
}
