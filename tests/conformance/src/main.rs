//! `kermode-conformance CORPUS_DIR [--suite NAME]`: runs a corpus and prints the results.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use kermode_conformance::{corpus, deviation, report, suite};

/// Runs a conformance corpus through the product's own code.
#[derive(Parser)]
struct Arguments {
    /// Folder of the corpus, with one folder for each suite, which contains a cases.json.
    corpus: PathBuf,
    /// Run only this suite.
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
    let (runners, deviations) = (suite::registered(), deviation::known()?);
    let mut out = std::io::stdout().lock();
    let mut failed = false;
    for document in &documents {
        let report = report::run(document, &runners, &deviations);
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
