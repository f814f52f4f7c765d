//! `kumactl`, the command line tool of Kermode. This file parses the command line and dispatches; each subcommand has a
//! module.

mod check;
mod cli;
mod cluster;
mod completion;
mod control_plane;
mod dataplane;
mod diff;
mod explain;
mod get;
mod inject;
mod inspect;
mod install;
mod migrate;
mod output;
mod progress;
mod uninstall;
mod validate;
mod version;

use std::process::ExitCode;

use cli::{Cli, Command};

pub use install::control_plane_objects;

/// Runs the command line of this process.
///
/// The exit code is 0 for success, 1 for a failure, and 2 for an invalid command line. The help of a subcommand
/// describes when its exit code is 3, and `docs/reference/exit-codes.md` lists all of them.
pub fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let line = std::env::args_os().collect();
    let result = match Cli::parse_line(line).unwrap_or_else(|error| error.exit()).command {
        Command::Check(args) => check::run(&args),
        Command::Completion(args) => completion::run(&args).map(success),
        Command::Dataplane(args) => dataplane::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Explain(command) => explain::run(&command),
        Command::Get(args) => get::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Inspect(command) => inspect::run(&command),
        Command::Install(command) => install::run(*command).map(success),
        Command::Migrate(command) => migrate::run(&command),
        Command::Uninstall(command) => uninstall::run(&command),
        Command::Validate(command) => validate::run(&command),
        Command::Version => version::run().map(success),
    };
    result.unwrap_or_else(|error| {
        output::print_error(&error);
        ExitCode::FAILURE
    })
}
