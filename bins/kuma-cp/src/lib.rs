//! The control plane: webhooks, controllers, xDS and certificates in one process (DESIGN section 4).
//!
//! A library so that its parts can be tested and measured without a process; the binary only calls [`main`].

mod debug;
mod proxies;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kermode_runtime::logging;
use kermode_runtime::traces::{self, NoExporter, Traces};

use kermode_config::{Config, LogFormat, OpenTelemetry};

/// How many steps of tasks come before a look at sockets and timers, while tasks are waiting. A change is pushed to some
/// hundred proxies before the acknowledgements of the first ones are read: those can wait, the last proxy should not.
const PUSHES_FIRST: u32 = 512;
/// After how many steps of its own tasks a thread takes one of those that had no room in its queue. They are pushes that
/// have not begun, where its own are acknowledgements.
const ALL_PUSHES: u32 = 3;

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

/// The program: reads its arguments and runs until a signal.
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
        .event_interval(PUSHES_FIRST)
        .global_queue_interval(ALL_PUSHES)
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

/// Begins to send traces, if they are wanted.
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
