//! `kumactl`: what an operator asks of Kermode from a terminal. This file only parses, dispatches and reports;
//! one module a subcommand does the work.

mod cli;
mod install;
mod output;
mod version;
mod yaml;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Install(command) => install::run(*command),
        Command::Version => version::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
