//! Subcommands of the command line. Each subcommand declares its flags in its own module.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::check::CheckArgs;
use crate::completion::CompletionArgs;
use crate::dataplane::DataplaneArgs;
use crate::diff::DiffArgs;
use crate::explain::ExplainCommand;
use crate::get::GetArgs;
use crate::inject::InjectArgs;
use crate::inspect::InspectCommand;
use crate::install::InstallCommand;
use crate::migrate::MigrateCommand;
use crate::uninstall::UninstallCommand;
use crate::validate::ValidateCommand;

/// Name of the program as a plugin of kubectl, which runs it for `kubectl kuma`.
const PLUGIN: &str = "kubectl-kuma";

/// Command line tool of Kermode, a service mesh for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "kumactl", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Subcommand.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a running mesh, or with --pre a cluster before an installation: findings with remedies.
    Check(Box<CheckArgs>),
    /// Print the completion script of a shell.
    Completion(CompletionArgs),
    /// Print or explain the Dataplanes that the control plane would write for Pods.
    Dataplane(DataplaneArgs),
    /// Compare the sidecars of Pods with those that would be injected today, for example after an upgrade.
    Diff(DiffArgs),
    /// Explain an object of a cluster or of files: its injection, Dataplane and sidecar, and what is wrong.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// List the resources of the mesh in a cluster: Dataplanes, Meshes, permissions, ContainerPatches.
    Get(GetArgs),
    /// Inject sidecars into manifests as the control plane would, or explain the decisions.
    Inject(InjectArgs),
    /// Inspect the sidecars of a cluster: configuration, clusters, certificates, permissions, statistics.
    #[command(subcommand)]
    Inspect(InspectCommand),
    /// Print manifests to apply to a cluster.
    #[command(subcommand)]
    Install(Box<InstallCommand>),
    /// Prepare a migration from Kuma.
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Print the objects to delete from a cluster.
    #[command(subcommand)]
    Uninstall(UninstallCommand),
    /// Check resources before they are applied.
    #[command(subcommand)]
    Validate(ValidateCommand),
    /// Print the version.
    Version,
}

// === impl Cli ===

impl Cli {
    /// Parses a command line. If its first element is the plugin of kubectl, usage texts name `kubectl kuma`.
    pub(crate) fn parse_line(line: Vec<OsString>) -> Result<Self, clap::Error> {
        let is_plugin = line
            .first()
            .and_then(|program| Path::new(program).file_stem())
            .is_some_and(|name| name == PLUGIN);
        let mut command = Self::command();
        if is_plugin {
            command = command.bin_name("kubectl kuma");
        }
        let matches = command.try_get_matches_from_mut(line)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page of the reference.
    const PAGE: &str = include_str!("../../../docs/reference/exit-codes.md");

    fn error_of(line: &[&str]) -> String {
        let line = line.iter().map(Into::into).collect();
        Cli::parse_line(line).expect_err("an error").to_string()
    }

    /// Returns a row for each exit code in the help of a command and its subcommands.
    fn exit_codes(path: &str, command: &clap::Command) -> Vec<String> {
        let path = format!("{path} {}", command.get_name());
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let codes = help.strip_prefix("Exit codes:\n").unwrap_or_default();
        let codes = codes.lines().filter_map(|line| line.trim().split_once("  "));
        let mut rows: Vec<String> = codes
            .map(|(code, meaning)| format!("| `{}` | {code} | {meaning} |", path.trim()))
            .collect();
        rows.extend(
            command
                .get_subcommands()
                .flat_map(|command| exit_codes(&path, command)),
        );
        rows
    }

    #[test]
    fn reference_lists_the_exit_codes_that_the_help_of_each_command_names() {
        let expected = exit_codes("", &Cli::command());
        let rows: Vec<&str> = PAGE.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows, expected, "\n{}", expected.join("\n"));
    }

    #[test]
    fn usage_names_the_plugin_if_kubectl_has_started_it() {
        let usage = error_of(&["/usr/bin/kubectl-kuma", "explain", "pod"]);
        assert!(usage.contains("Usage: kubectl kuma explain pod"), "{usage}");
        let usage = error_of(&["./kumactl", "explain", "pod"]);
        assert!(usage.contains("Usage: kumactl explain pod"), "{usage}");
    }

    #[test]
    fn flags_that_select_a_cluster_are_refused_together_with_files() {
        for flag in ["--kubeconfig=a", "--context=a", "--request-timeout=5s"] {
            for command in [&["explain", "pod", "web"][..], &["migrate", "report"][..]] {
                let line = [&["kumactl"][..], command, &["--file=-", flag][..]].concat();
                let error = error_of(&line);
                assert!(error.contains("cannot be used with"), "{line:?}: {error}");
            }
        }
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
