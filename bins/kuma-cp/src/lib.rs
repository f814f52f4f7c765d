//! The control plane: webhooks, controllers, xDS and certificates in one process (docs/design.md#control-plane). This
//! crate reads the configuration and connects the library crates; the binary only calls [`main`].

mod debug;
mod server_for_proxies;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kermode_runtime::logging;
use kermode_runtime::traces::{self, ExporterError, Traces};

use kermode_config::{Config, LogFormat, OpenTelemetry};

/// Number of task polls between two polls of sockets and timers, while tasks are ready. With this value, a change is
/// sent to several hundred proxies before the first ACKs are read. Reading an ACK late costs nothing. Sending a
/// response late delays a proxy.
const EVENT_INTERVAL: u32 = 512;
/// Number of times that a worker thread polls its own queue before it polls the global queue. The global queue holds
/// the tasks that send responses. The queue of a worker holds mostly tasks that read ACKs.
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
    /// Run the control plane, in a cluster or with the current kubeconfig
    Run {
        /// Configuration file (YAML); KUMA_* environment variables take precedence
        #[arg(short, long)]
        config_file: Option<PathBuf>,
    },
}

/// Runs the program until a signal or the failure of a component.
pub fn main() -> ExitCode {
    let Command::Run { config_file } = Arguments::parse().command;
    match run(config_file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("kuma-cp failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config_file: Option<PathBuf>) -> anyhow::Result<()> {
    #[allow(
        clippy::disallowed_methods,
        reason = "kuma-cp reads its environment only here"
    )]
    let loaded = Config::load(config_file.as_deref(), |name| std::env::var(name).ok());
    // An invalid configuration is reported after logging is initialized, because `main` logs the error.
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
        // `Traces::start` must be called in the context of a runtime.
        let _context = runtime.enter();
        loaded.as_ref().ok().and_then(start_traces).transpose()
    };
    let exporter = traces.as_ref().ok().and_then(Option::as_ref);
    if let Err(error) = logging::init_with_traces(&log.level, format, exporter) {
        // The configured level is invalid. `info` lets `main` log this error.
        logging::init("info", format)?;
        return Err(error.into());
    }
    let config = loaded?;
    let _traces = traces?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %serde_json::to_string(&config)?, "kuma-cp starts");
    runtime.block_on(wiring::run(config))
}

/// Starts the exporter of traces; `None` when the configuration disables traces.
fn start_traces(config: &Config) -> Option<Result<Traces, ExporterError>> {
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
