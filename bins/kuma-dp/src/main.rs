//! Kermode sidecar agent: reads the configuration and starts the components; they do the rest.

mod backoff;
mod cli;
mod config;
mod control_plane;
mod departure;
mod dns;
mod envoy;
mod identity;
mod relay;
mod resolver;
mod restarts;
mod run;
mod sds;
mod shutdown;
mod socket;
mod supervisor;
mod token;
mod upstream;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;
use kermode_runtime::logging;
use tokio::runtime;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => args.check().map_err(Into::into).and_then(|config| {
            logging::init(&config.log_level.to_string(), logging::Format::Text)?;
            tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "starting");
            block_on(run::run(config))
        }),
        Command::Wait(args) => block_on(wait::run(&args)).map(|()| ExitCode::SUCCESS),
        Command::ExecEnvoy(args) => envoy::exec::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // The level is not known when the configuration is wrong; a running log is not replaced.
        let _ = logging::init("info", logging::Format::Text);
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// One thread is enough for a relay, costs least, and lives as long as the process, which
/// [`envoy::process::Envoy::start`] relies on.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // Nothing that is still being read or looked up matters any more.
    runtime.shutdown_background();
    result
}
