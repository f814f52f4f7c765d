//! Supervision of Envoy: restarts Envoy after a crash, and drains and terminates Envoy after a signal. The state
//! machines [`EnvoyShutdown`] and [`Restarts`] make the decisions; this module performs the IO.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kermode_runtime::shutdown::Signals;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::envoy::{Admin, Envoy};
use crate::removal::RemovalWatch;
use crate::restarts::{RestartDecision, Restarts};
use crate::shutdown::{Action, EnvoyShutdown, Event};

/// Interval at which Envoy's connections are counted during the drain of a native sidecar.
const CONNECTION_COUNT_INTERVAL: Duration = Duration::from_millis(200);

/// Supervises `envoy` and, after crashes, the replacements that `start_envoy` returns. Each Envoy gets its own
/// [`EnvoyShutdown`] from `new_shutdown`. During the drain, `removal_watch` logs the removal of this sidecar's
/// endpoint. Returns the exit code for the agent.
///
/// # Errors
/// Fails when Envoy cannot be started or waited for.
pub async fn supervise(
    mut envoy: Envoy,
    start_envoy: impl Fn() -> anyhow::Result<Envoy>,
    admin: Admin,
    mut signals: Signals,
    new_shutdown: impl Fn() -> EnvoyShutdown,
    removal_watch: RemovalWatch,
) -> anyhow::Result<u8> {
    let mut restarts = Restarts::default();
    loop {
        let started = Instant::now();
        let code = match supervise_one(envoy, admin, &mut signals, new_shutdown(), &removal_watch).await? {
            End::ShutdownComplete(code) => return Ok(code),
            End::EnvoyEnded(code) => code,
        };
        match restarts.on_end(code, started.elapsed()) {
            RestartDecision::Finished => return Ok(code),
            RestartDecision::Restart(delay) => {
                tracing::error!(
                    code,
                    ?delay,
                    "Envoy crashed; it is restarted with its configuration and certificate"
                );
                tokio::select! {
                    () = sleep(delay) => {}
                    signal = signals.next() => {
                        tracing::info!(signal, "signal received while Envoy is not running; the agent exits");
                        return Ok(0);
                    }
                }
            }
            RestartDecision::GiveUp => {
                tracing::error!(
                    code,
                    "Envoy crashed {} times in a row and is not restarted; check Envoy's log above",
                    restarts.consecutive() + 1
                );
                return Ok(code);
            }
        }
        envoy = start_envoy()?;
    }
}

/// End of the supervision of one Envoy.
enum End {
    /// After a signal: the agent exits with this code.
    ShutdownComplete(u8),
    /// Without a signal: Envoy ended with this exit code.
    EnvoyEnded(u8),
}

/// Supervises one Envoy until it ends.
async fn supervise_one(
    mut envoy: Envoy,
    admin: Admin,
    signals: &mut Signals,
    mut shutdown: EnvoyShutdown,
    removal_watch: &RemovalWatch,
) -> anyhow::Result<End> {
    // Both futures are set when the first signal is received.
    let mut drain_start = pin!(None);
    let mut running_removal_watch = pin!(None);
    loop {
        let event = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "signal received");
                Event::Signal
            }
            code = envoy.wait() => {
                let code = code?;
                tracing::info!(code, "Envoy ended");
                if !shutdown.has_begun() {
                    return Ok(End::EnvoyEnded(code));
                }
                Event::EnvoyEnded(code)
            }
            has_drain_started = when_some(drain_start.as_mut().as_pin_mut()) => {
                drain_start.set(None);
                if has_drain_started { Event::DrainStarted } else { Event::DrainNotStarted }
            }
            () = when_some(running_removal_watch.as_mut().as_pin_mut()) => {
                running_removal_watch.set(None);
                continue;
            }
            () = wait_until_idle(admin), if shutdown.ends_when_idle() => Event::Idle,
            () = sleep_until(shutdown.deadline().unwrap_or_else(Instant::now)), if shutdown.deadline().is_some() => {
                Event::Deadline
            }
        };
        match shutdown.on_event(event, Instant::now()) {
            Action::None => {}
            Action::FailHealthcheck => {
                drain_start.set(Some(start_drain(admin)));
                running_removal_watch.set(Some(removal_watch.clone().run()));
            }
            Action::Terminate => envoy.signal(Signal::SIGTERM),
            Action::Kill => {
                tracing::warn!("Envoy did not end in time and is killed");
                envoy.signal(Signal::SIGKILL);
            }
            Action::Exit(code) => return Ok(End::ShutdownComplete(code)),
        }
    }
}

/// Requests Envoy to fail its health check. Returns whether Envoy has started to drain.
async fn start_drain(admin: Admin) -> bool {
    match admin.fail_healthcheck().await {
        Ok(()) => {
            tracing::info!("the drain has started");
            true
        }
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "Envoy does not drain; it is terminated immediately"
            );
            false
        }
    }
}

/// Completes when Envoy has no downstream connections.
async fn wait_until_idle(admin: Admin) {
    loop {
        match admin.open_connections().await {
            Ok(0) => return,
            Ok(connections) => tracing::debug!(connections, "Envoy has open connections"),
            Err(error) => tracing::debug!(
                error = format!("{error:#}"),
                "Envoy's connections cannot be counted"
            ),
        }
        sleep(CONNECTION_COUNT_INTERVAL).await;
    }
}

/// Returns the output of the future. Never completes if there is no future.
async fn when_some<F: Future>(future: Option<std::pin::Pin<&mut F>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
