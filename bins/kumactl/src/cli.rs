//! The command line: which subcommands there are. Each subcommand's flags are declared in its own module.

use clap::{Parser, Subcommand};

use crate::install::InstallCommand;

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
    /// Print what has to be applied to a cluster.
    #[command(subcommand)]
    Install(Box<InstallCommand>),
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
