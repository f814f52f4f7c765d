//! The corpus beside the repository, when it is there: every case passes or is a known deviation.

use std::path::Path;

use kermode_conformance::{corpus, deviation, report, suite};

#[test]
fn the_corpus_passes_or_deviates_as_decided() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    if !folder.is_dir() {
        println!("SKIPPED: there is no corpus at {}", folder.display());
        return;
    }
    let (suites, deviations) = (suite::registered(), deviation::known().unwrap());
    let mut out = Vec::new();
    let mut failed = 0;
    for document in corpus::read(&folder).unwrap() {
        let report = report::run(&document, &suites, &deviations);
        report.write(&mut out).unwrap();
        failed += report.failed.len();
    }
    let text = String::from_utf8(out).unwrap();
    println!("{text}");
    assert_eq!(failed, 0, "{text}");
}
