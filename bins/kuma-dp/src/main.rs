//! Kermode sidecar agent: command line, configuration and wiring of the components in `kermode-agent`.

mod cli;
mod config;
mod run;

use std::process::ExitCode;

use clap::Parser as _;
use kermode_agent::{envoy, termination};
use kermode_runtime::logging;
use tokio::runtime;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => args.into_config().map_err(Into::into).and_then(|config| {
            logging::init(&config.log_level.to_string(), logging::Format::Text)?;
            tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "kuma-dp starts");
            block_on(run::run(config))
        }),
        Command::Drain(args) => {
            block_on(termination::report(&config::socket_dir(args.socket_dir))).map(|()| ExitCode::SUCCESS)
        }
        Command::Wait(args) => args
            .into_wait()
            .and_then(|wait| block_on(wait.run()))
            .map(|()| ExitCode::SUCCESS),
        Command::ExecEnvoy(args) => envoy::exec(args.parent, &args.command).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // Logging is not initialized yet if the configuration is invalid or the command is not `run`. A second
        // initialization has no effect.
        let _ = logging::init("info", logging::Format::Text);
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Runs `work` on the main thread. One thread suffices for a relay and uses the least memory. The kernel kills Envoy
/// when the thread that started Envoy ends ([`envoy::Envoy::start`]); the main thread lives as long as the process.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // Blocking file reads and name lookups that are still running are abandoned.
    runtime.shutdown_background();
    result
}
