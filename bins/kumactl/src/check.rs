//! `kumactl check`: checks a running mesh, or a cluster before an installation. `kermode-check` finds what is wrong; this
//! module collects the facts.

mod collect;

#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;
use kermode_check::{Report, Severity, check_before_installation, check_mesh};
use tokio::time::{Instant, sleep};

use crate::cluster::{self, ClusterArgs, ClusterClient, parse_duration};
use crate::output::{self, Format};
use crate::progress::Progress;

/// Exit code if at least one finding is an error.
const EXIT_FINDINGS: u8 = 3;
/// Pause between the checks of `--wait`.
const PAUSE: Duration = Duration::from_secs(2);

const EXIT_CODES: &str = "\
Exit codes:
  0  no finding is an error
  1  the cluster cannot be read; with --wait also at the end of the time
  2  wrong flags
  3  at least one finding is an error; with --wait also at the end of the time";

/// Flags of `kumactl check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CheckArgs {
    /// Check whether a control plane can be installed, in place of a running mesh.
    #[arg(long)]
    pre: bool,

    /// Repeat the checks until no finding is an error, at most for this time, for example after an installation.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "pre")]
    wait: Option<Duration>,

    /// Namespace in which a Pod is created in a dry run, to check the injector. It must not be that of the control plane.
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "default",
        conflicts_with = "pre"
    )]
    namespace: String,

    /// Namespace of the control plane. By default, the Namespace with the label kuma.io/system-namespace, else the default
    /// of kumactl install control-plane.
    #[arg(long, value_name = "NAME")]
    control_plane_namespace: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let report = cluster::run(check(args))?;
    let text = output::formatted(args.output, &report, || report.to_text(&output::paint))?;
    output::print_result(&text)?;
    Ok(if report.contains_error() {
        ExitCode::from(EXIT_FINDINGS)
    } else {
        ExitCode::SUCCESS
    })
}

async fn check(args: &CheckArgs) -> Result<Report> {
    let client = ClusterClient::connect(&args.cluster).await?;
    check_cluster(&client, args, &Progress::start()).await
}

async fn check_cluster(client: &ClusterClient, args: &CheckArgs, progress: &Progress) -> Result<Report> {
    if args.pre {
        let facts = collect::before_installation(client, args, progress).await?;
        return Ok(check_before_installation(&facts));
    }
    let end = Instant::now() + args.wait.unwrap_or_default();
    let mut shown = String::new();
    loop {
        let facts = collect::mesh(client, args, progress).await;
        let report = facts.map(|facts| check_mesh(&facts, SystemTime::now()));
        let state = match &report {
            Ok(report) if report.contains_error() => state(report),
            Ok(_) => return report,
            // For example, the API server restarts while the control plane is installed.
            Err(error) => format!("the checks are repeated: {error:#}"),
        };
        if Instant::now() + PAUSE > end {
            return report;
        }
        if state != shown {
            progress.print(&state);
            shown = state;
        }
        sleep(PAUSE).await;
    }
}

/// Returns the errors in one line.
fn state(report: &Report) -> String {
    let errors = report.findings.iter();
    let errors: Vec<String> = errors
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| format!("{} ({})", finding.id, finding.object))
        .collect();
    format!("waiting for {}", errors.join(", "))
}
