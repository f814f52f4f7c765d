//! Command line. Each subcommand is a role of the program: a server, a client, or a probe.

use clap::{Parser, Subcommand};

use crate::{client, echo, echo_client, get, server, tcp_probe};

/// Demo application of Kermode. It does not depend on a mesh.
#[derive(Debug, Parser)]
#[command(name = "kermode-demo", version)]
pub(crate) struct Cli {
    /// Role.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Roles of the program, one for each subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Respond to HTTP requests with a description of the request.
    Server(server::Args),
    /// Call a server at a fixed interval, and count results.
    Client(client::Args),
    /// Keep TCP connections to an echo server open, and record when one ends.
    EchoClient(echo_client::Args),
    /// Echo TCP data.
    Echo(echo::Args),
    /// Make HTTP requests; the exit code is 0 when they succeed.
    Get(get::Args),
    /// Open a TCP connection; the exit code is 0 when it succeeds.
    TcpProbe(tcp_probe::Args),
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
