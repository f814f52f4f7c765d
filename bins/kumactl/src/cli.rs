//! The command line: which subcommands there are. Each subcommand's flags are declared in its own module.

use clap::{Parser, Subcommand};

use crate::dataplane::DataplaneArgs;
use crate::inject::InjectArgs;
use crate::install::InstallCommand;
use crate::validate::ValidateCommand;

/// Command line tool of Kermode, a service mesh for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "kumactl", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the Dataplanes that the control plane would make of Pods, or explain them.
    Dataplane(DataplaneArgs),
    /// Put sidecars into the Pods of manifests, as the control plane would, or explain what it would do.
    Inject(InjectArgs),
    /// Print what has to be applied to a cluster.
    #[command(subcommand)]
    Install(Box<InstallCommand>),
    /// Check a resource before it is applied.
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
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
