//! The command line: which roles there are.

use clap::{Parser, Subcommand};

use crate::{client, echo, get, server, tcp_probe};

/// Demo application of Kermode: it knows nothing of any mesh.
#[derive(Debug, Parser)]
#[command(name = "kermode-demo", version)]
pub(crate) struct Cli {
    /// The role.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The roles.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer HTTP requests with what was seen of them.
    Server(server::Args),
    /// Call a server again and again, and count.
    Client(client::Args),
    /// Send back what comes in over TCP.
    Echo(echo::Args),
    /// Make one or some HTTP requests; the exit code tells whether they were answered.
    Get(get::Args),
    /// Open one TCP connection; the exit code tells whether the other end is there.
    TcpProbe(tcp_probe::Args),
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
