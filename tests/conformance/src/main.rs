//! `kermode-conformance CORPUS_DIR [--suite NAME]`: runs a corpus and prints what came of it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use kermode_conformance::{corpus, deviation, report, suite};

/// Runs a conformance corpus through the product's own code.
#[derive(Parser)]
struct Arguments {
    /// The corpus: a folder with one folder per suite, each with a cases.json.
    corpus: PathBuf,
    /// Run this suite only.
    #[arg(long)]
    suite: Option<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut documents = corpus::read(&arguments.corpus)?;
    if let Some(name) = &arguments.suite {
        documents.retain(|document| document.name == *name);
        if documents.is_empty() {
            bail!("{} has no suite {name:?}", arguments.corpus.display());
        }
    }
    let (suites, deviations) = (suite::registered(), deviation::known()?);
    let mut out = std::io::stdout().lock();
    let mut failed = false;
    for document in &documents {
        let report = report::run(document, &suites, &deviations);
        report.write(&mut out)?;
        failed |= !report.failed.is_empty();
    }
    out.flush()?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
