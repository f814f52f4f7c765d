//! `kermode-e2e [--filter TEXT] [--long]`: brings a cluster up, runs the tests in order, and takes the cluster down again,
//! unless `KERMODE_KEEP` is set.
//!
//! The tests share one installation and one application (module `fixture`). They run in the order of `cases::all`:
//! tests that need an empty cluster come first, tests that stop the control plane last.

mod cases;
mod config;
mod fixture;
mod harness;
mod pods;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;

use crate::config::Config;
use crate::fixture::Fixture;
use crate::harness::cluster::Cluster;
use crate::harness::{diagnosis, runner};

/// End-to-end tests on a real Kubernetes.
#[derive(Parser)]
struct Arguments {
    /// Run only the tests whose name contains this text. Each test sets up what it needs, so each can run alone.
    #[arg(long)]
    filter: Option<String>,
    /// Name of the cluster. If the cluster is already running, the objects of earlier tests are removed first.
    #[arg(long, default_value = "e2e")]
    cluster: String,
    /// Also run the long tests. Without this flag, they run only if the filter matches no other test.
    #[arg(long)]
    long: bool,
    /// List the tests without running them. Long tests are marked.
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let filter = arguments.filter.as_deref();
    let tests = runner::select(cases::all(), filter, arguments.long || arguments.list);
    if let Some(text) = filter.filter(|_| tests.is_empty()) {
        bail!("no test has {text:?} in its name: run with --list to see all names");
    }
    if arguments.list {
        let mut out = std::io::stdout().lock();
        for test in &tests {
            let mark = if test.is_long { " (long)" } else { "" };
            writeln!(out, "{}{mark}", test.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::read()?;
    let _lock = config.lock(&arguments.cluster)?;
    let cluster = Cluster::up(&arguments.cluster, &config).await?;
    let report = tokio::select! {
        report = run(cluster, &tests, &config) => report,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("SIGINT interrupted the tests")),
    };
    if config.keep_cluster {
        runner::print_line(&format!(
            "KERMODE_KEEP is set: cluster {} stays up",
            arguments.cluster
        ));
    } else {
        Cluster::down(&arguments.cluster, &config).await?;
    }
    let report = report?;
    runner::print_line(&report.to_string());
    Ok(if report.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn run(cluster: Cluster, tests: &[runner::Test], config: &Config) -> Result<runner::Report> {
    diagnosis::remove_old_files(config);
    let fixture = Fixture::new(cluster, config).context("the tests cannot start")?;
    fixture
        .uninstall_and_delete_test_objects()
        .await
        .context("objects of an earlier run cannot be deleted")?;
    Ok(runner::run(&fixture, tests).await)
}
