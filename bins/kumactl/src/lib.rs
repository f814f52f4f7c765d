//! `kumactl`: what an operator asks of Kermode from a terminal. This file only parses, dispatches and reports;
//! one module a subcommand does the work.

mod cli;
mod dataplane;
mod inject;
mod install;
mod output;
mod validate;
mod version;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

pub use install::control_plane_objects;

/// Does what the command line of this process asks for.
///
/// The exit code is 0 for success, 1 for a failure, 2 for a command line that means nothing, and what a subcommand's
/// help says besides.
pub fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Cli::parse().command {
        Command::Dataplane(args) => dataplane::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Install(command) => install::run(*command).map(done),
        Command::Validate(command) => validate::run(&command),
        Command::Version => version::run().map(done),
    };
    result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::FAILURE
    })
}
