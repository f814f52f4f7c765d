//! Demo application: a client and a server that do not depend on the mesh, and commands by which tests make requests.
//!
//! The image contains only this static program. Its subcommand selects the role: `server` responds with a description
//! of the request, `client` calls a server and counts results, and `echo` returns TCP data. `get` makes HTTP requests
//! and `tcp-probe` connects once; both report the result by the exit code.

mod cli;
mod client;
mod counters;
mod echo;
mod echo_client;
mod get;
mod listener;
mod output;
mod pool;
mod request;
mod server;
mod shutdown;
mod target;
mod tcp_probe;
mod termination;
mod tls;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Server(args) => server::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Client(args) => client::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::EchoClient(args) => echo_client::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Echo(args) => echo::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Get(args) => get::run(args).await,
        Command::TcpProbe(args) => tcp_probe::run(args).await,
    };
    result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::from(2)
    })
}
