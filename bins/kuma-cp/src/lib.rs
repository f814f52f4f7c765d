//! The control plane: webhooks, controllers, xDS and certificates in one process (docs/design.md#control-plane). This crate
//! reads the configuration and connects the library crates; the binary only calls [`main`].

mod debug;
mod proxies;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kermode_runtime::logging;
use kermode_runtime::traces::{self, NoExporter, Traces};

use kermode_config::{Config, LogFormat, OpenTelemetry};

/// Number of task polls between polls of sockets and timers, while tasks are ready. A change is sent to some hundred
/// proxies before the ACKs of the first ones are read: ACKs can wait, the last proxy should not.
const EVENT_INTERVAL: u32 = 512;
/// Number of polls of its own tasks after which a thread takes one from the global queue. Tasks of the global queue are
/// responses that have not started, while its own are mostly ACKs.
const GLOBAL_QUEUE_INTERVAL: u32 = 3;

/// Kermode control plane
#[derive(Parser)]
#[command(name = "kuma-cp", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the control plane, in a cluster or outside of one by the current kubeconfig
    Run {
        /// Configuration file (YAML); KUMA_* environment variables win over it
        #[arg(short, long)]
        config_file: Option<PathBuf>,
    },
}

/// Runs the program until a signal.
pub fn main() -> ExitCode {
    let Command::Run { config_file } = Arguments::parse().command;
    match run(config_file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("kuma-cp stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config_file: Option<PathBuf>) -> anyhow::Result<()> {
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where kuma-cp reads its environment"
    )]
    let loaded = Config::load(config_file.as_deref(), |name| std::env::var(name).ok());
    let log = loaded
        .as_ref()
        .map(|config| config.log.clone())
        .unwrap_or_default();
    let format = match log.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
        .build()?;
    let traces = {
        let _context = runtime.enter();
        loaded.as_ref().ok().and_then(traces).transpose()
    };
    let sending = traces.as_ref().ok().and_then(Option::as_ref);
    if let Err(error) = logging::init_with_traces(&log.level, format, sending) {
        logging::init("info", format)?;
        return Err(error.into());
    }
    let config = loaded?;
    let _traces = traces?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %serde_json::to_string(&config)?, "kuma-cp starts");
    runtime.block_on(wiring::run(config))
}

/// Starts to send traces, if the configuration enables them.
fn traces(config: &Config) -> Option<Result<Traces, NoExporter>> {
    let OpenTelemetry {
        enabled,
        endpoint,
        sampling_ratio,
    } = config.tracing.open_telemetry.clone();
    enabled.then(|| {
        Traces::start(traces::Settings {
            endpoint,
            sampling_ratio,
            service: "kuma-cp",
            instance: config.instance_name().to_owned(),
        })
    })
}
