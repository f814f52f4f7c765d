//! The installer, which runs on each node: keeps the plugin installed, and redirects pods that started without it.

mod cli;
mod events;
mod kernel;
mod repair;
mod sandboxes;
mod state;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use kermode_cni::{Installer, Intervals, keep_installed};
use kermode_netfilter::Nft;
use kermode_runtime::logging;
use kermode_runtime::shutdown::Signals;
use kube::Client;

use cli::{Cli, Command, InstallArgs};
use events::Events;
use repair::Repairer;
use sandboxes::Sandboxes;
use state::StateFile;

/// Failure of the installer.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Log(#[from] logging::UnknownLevel),
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    #[error("cannot reach the API server: {0}")]
    Client(Box<dyn std::error::Error + Send + Sync>),
    #[error("the plugin cannot be removed: {0}")]
    Removal(kermode_cni::Problem),
}

/// Runs the command of the arguments.
pub(crate) fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Install(args) => match install(*args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Logging is not initialized yet if the level is invalid.
                let _ = logging::init("info", logging::Format::Text);
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        },
        Command::Ready(args) => StateFile::at(&args.state_file).print(),
    }
}

fn install(args: InstallArgs) -> Result<(), AgentError> {
    logging::init(&args.log_level, logging::Format::Text)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?args, "kuma-cni starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(AgentError::Start)?;
    let result = runtime.block_on(run(args));
    // The watch of Pods is abandoned.
    runtime.shutdown_background();
    result
}

async fn run(args: InstallArgs) -> Result<(), AgentError> {
    let mut signals = Signals::listen().map_err(AgentError::Start)?;
    let client = Client::try_default()
        .await
        .map_err(|error| AgentError::Client(error.into()))?;
    let events = Arc::new(Events::start(client.clone(), args.pod()));
    let nft = args
        .tools
        .as_ref()
        .map_or_else(Nft::default, |tools| Nft::at(tools.join("nft")));
    let repairer = Repairer::new(
        Sandboxes::new(args.cni_results(), args.network_namespaces()),
        args.excluded_namespaces.clone(),
        nft.clone(),
    );
    tokio::spawn(repair::run(
        client,
        args.node_name.clone(),
        repairer,
        Arc::clone(&events),
    ));

    let intervals = Intervals::default();
    let mut installer = Installer::new(args.settings());
    let mut state = StateFile::at(&args.state_file);
    let shutdown = async {
        let signal = signals.next().await;
        tracing::info!(signal, "kuma-cni removes itself from this node");
    };
    let check = || kernel::check(&nft);
    let report = |result: &Result<Vec<String>, _>| state.report(result, &events);
    keep_installed(&mut installer, &intervals, check, report, shutdown).await;
    state.remove();
    kermode_cni::remove(&mut installer, &intervals)
        .await
        .map_err(AgentError::Removal)?;
    tracing::info!("kuma-cni is removed from this node");
    Ok(())
}
