//! Subcommands of the command line. Each subcommand declares its flags in its own module.

use clap::{Parser, Subcommand};

use crate::check::CheckArgs;
use crate::dataplane::DataplaneArgs;
use crate::explain::ExplainCommand;
use crate::get::GetArgs;
use crate::inject::InjectArgs;
use crate::install::InstallCommand;
use crate::migrate::MigrateCommand;
use crate::uninstall::UninstallCommand;
use crate::validate::ValidateCommand;

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
    /// Print or explain the Dataplanes that the control plane would write for Pods.
    Dataplane(DataplaneArgs),
    /// Explain an object of a cluster or of files: its injection, Dataplane and sidecar, and what is wrong.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// List the resources of the mesh in a cluster: Dataplanes, Meshes, permissions, ContainerPatches.
    Get(GetArgs),
    /// Inject sidecars into manifests as the control plane would, or explain the decisions.
    Inject(InjectArgs),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
