//! `kermode-conformance CORPUS [--suite NAME]`: runs the cases of a corpus and prints the results.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use kermode_conformance::{corpus, deviation, report, suite};

/// Runs the cases of a conformance corpus with the product's code.
#[derive(Parser)]
struct Arguments {
    /// Folder of the corpus. It contains a folder for each suite, with a file cases.json.
    corpus: PathBuf,
    /// Run only this suite.
    #[arg(long)]
    suite: Option<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut suites = corpus::read(&arguments.corpus)?;
    if let Some(name) = &arguments.suite {
        suites.retain(|suite| suite.name == *name);
        if suites.is_empty() {
            bail!("corpus {} has no suite {name:?}", arguments.corpus.display());
        }
    }
    let (runners, deviations) = (suite::all_runners(), deviation::read_all()?);
    let mut out = std::io::stdout().lock();
    let mut has_failures = false;
    for suite in &suites {
        let report = report::run(suite, &runners, &deviations);
        report.write(&mut out)?;
        has_failures |= !report.failed.is_empty();
    }
    out.flush()?;
    Ok(if has_failures {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
