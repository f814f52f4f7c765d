//! `kumactl migrate report`: says which objects written for Kuma 2.x work with Kermode. `kermode-migration` composes the
//! report; this module collects the objects.

mod files;
mod live;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use kermode_config::Config;
use kermode_migration::{Report, Settings, report, system_namespace};
use serde_json::Value;

use crate::cluster::{self, CLUSTER_FLAGS, ClusterArgs};
use crate::inject::config::{self, ConfigArgs};
use crate::output::{self, Format};

/// Exit code if the user may not read a kind of objects.
const EXIT_UNREAD: u8 = 1;
/// Exit code if an object is ignored, not installed or refused.
const EXIT_FINDINGS: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  every object works, some perhaps with a different effect
  1  the cluster, a file or a kind of objects cannot be read
  2  wrong flags
  3  an object is ignored, not installed or refused, at least in part";

/// Subcommands of `kumactl migrate`.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Report which objects written for Kuma 2.x work unchanged, are ignored or are refused, and what to do.
    Report(ReportArgs),
}

/// Flags of `kumactl migrate report`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ReportArgs {
    /// Read the objects from a file in place of a cluster, as YAML or JSON; repeatable; - is the standard input. Of a
    /// folder, all files that end in .yaml, .yml or .json are read, those of its subfolders too. A file with Helm
    /// values of Kuma's chart is read as such.
    #[arg(short, long, value_name = "PATH", conflicts_with_all = CLUSTER_FLAGS)]
    file: Vec<PathBuf>,

    /// Namespace of objects in files without a namespace.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,

    /// Namespace in which Kermode will run. By default, the Namespace with the label kuma.io/system-namespace, else the
    /// default of kumactl install control-plane.
    #[arg(long, value_name = "NAME")]
    control_plane_namespace: Option<String>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Objects of a cluster, and the kinds that the user may not read.
#[derive(Debug, Default)]
struct Objects {
    objects: Vec<Value>,
    unread: Vec<String>,
}

/// Runs a subcommand.
pub(crate) fn run(command: &MigrateCommand) -> Result<ExitCode> {
    let MigrateCommand::Report(args) = command;
    let found = if args.file.is_empty() {
        cluster::run(live::read(args))?
    } else {
        files::read(&args.file)?
    };
    let report = report_on(args, found)?;
    let text = output::formatted(args.output, &report, || report.to_text())?;
    output::print_result(&text)?;
    Ok(ExitCode::from(exit_code(&report)))
}

/// Returns the exit code for a report. A report without some kinds does not say that all objects work.
fn exit_code(report: &Report) -> u8 {
    if !report.unread.is_empty() {
        EXIT_UNREAD
    } else if report.needs_work() {
        EXIT_FINDINGS
    } else {
        0
    }
}

fn report_on(args: &ReportArgs, found: Objects) -> Result<Report> {
    let mut config = config::load(&args.config)?;
    let namespace = args.control_plane_namespace.as_deref();
    if let Some(namespace) = namespace.or_else(|| system_namespace(&found.objects)) {
        namespace.clone_into(&mut config.store.kubernetes.system_namespace);
    }
    let settings = Settings {
        config,
        helm_values: kermode_install::options()
            .iter()
            .map(|option| option.path)
            .collect(),
        default_namespace: args.namespace.clone(),
    };
    let mut report = report(&found.objects, &settings);
    report.unread = found.unread;
    Ok(report)
}

/// Returns the namespace in which Kuma or Kermode runs by default, if nothing else is known.
fn default_system_namespace() -> String {
    Config::default().system_namespace().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_without_a_kind_that_the_user_may_not_read_gives_code_1() {
        let mut report = Report::default();
        assert_eq!(exit_code(&report), 0);
        report.unread.push("pods".to_owned());
        assert_eq!(exit_code(&report), 1);
    }
}
