//! `kermode-e2e [--filter TEXT] [--cluster NAME] [--long]`: brings clusters up, runs the tests in order, and takes the
//! clusters down again, unless `KERMODE_KEEP` is set.
//!
//! The tests of replicas and faults run on a cluster of their own, at the same time as the others, because a test spends
//! most of its time waiting. The tests of a cluster share one installation and one application (module `fixture`). They
//! run in the order of `cases::all`: tests that need an empty cluster come first, tests that stop the control plane last.

mod cases;
mod config;
mod fixture;
mod harness;
mod pods;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use futures::future::join_all;

use crate::config::Config;
use crate::fixture::Fixture;
use crate::harness::cluster::Cluster;
use crate::harness::diagnosis;
use crate::harness::runner::{self, Report, Test};

/// End-to-end tests on a real Kubernetes.
#[derive(Parser)]
struct Arguments {
    /// Run only the tests whose name contains this text. Each test sets up what it needs, so each can run alone.
    #[arg(long)]
    filter: Option<String>,
    /// Run all tests on this cluster, one after the other. By default, the tests of replicas and faults run on cluster
    /// e2e-faults and the others on cluster e2e. If a cluster is already running, the objects of earlier tests are
    /// removed first.
    #[arg(long)]
    cluster: Option<String>,
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
    let groups = runner::by_cluster(tests, arguments.cluster.as_deref());
    let _locks = groups
        .keys()
        .map(|name| config.lock(name))
        .collect::<Result<Vec<_>>>()?;
    diagnosis::remove_old_files(&config);
    let runs = groups
        .iter()
        .map(|(cluster, tests)| run_on_cluster(cluster, tests, &config));
    let mut total = Report::default();
    let mut failures = Vec::new();
    for report in join_all(runs).await {
        match report {
            Ok(report) => total += report,
            Err(error) => failures.push(error),
        }
    }
    runner::print_line(&total.to_string());
    if let Some(error) = failures.pop() {
        return Err(error);
    }
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Brings a cluster up, runs tests on it, and takes it down again. Prints an error at once, because the tests of another
/// cluster may still run.
async fn run_on_cluster(name: &str, tests: &[Test], config: &Config) -> Result<Report> {
    let report = async { run(Cluster::up(name, config).await?, tests, config).await };
    let report = tokio::select! {
        report = report => report,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("SIGINT interrupted the tests")),
    };
    let report = report.inspect_err(|error| runner::print_line(&format!("cluster {name}: {error:#}")));
    if config.keep_cluster {
        runner::print_line(&format!("KERMODE_KEEP is set: cluster {name} stays up"));
    } else {
        Cluster::down(name, config).await?;
    }
    report
}

async fn run(cluster: Cluster, tests: &[Test], config: &Config) -> Result<Report> {
    let fixture = Fixture::new(cluster, config).context("the tests cannot start")?;
    fixture
        .uninstall_and_delete_test_objects()
        .await
        .context("objects of an earlier run cannot be deleted")?;
    Ok(runner::run(&fixture, tests).await)
}
