//! Supervision of Envoy: runs it until a signal or its end, restarts it after a crash. IO around
//! [`Shutdown`] and [`Restarts`].

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kermode_runtime::shutdown::Signals;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::envoy::{Admin, Envoy};
use crate::removal::RemovalWatch;
use crate::restarts::{Decision, Restarts};
use crate::shutdown::{Action, Event, Shutdown};

/// Interval of counting Envoy's connections during the drain of a native sidecar.
const COUNT_INTERVAL: Duration = Duration::from_millis(200);

/// Supervises `envoy` and, after crashes, the replacements that `start` returns. Returns the exit code of this process.
///
/// # Errors
/// Fails when Envoy cannot be started or waited for.
pub async fn supervise(
    mut envoy: Envoy,
    start: impl Fn() -> anyhow::Result<Envoy>,
    admin: Admin,
    mut signals: Signals,
    shutdown: impl Fn() -> Shutdown,
    removal: RemovalWatch,
) -> anyhow::Result<u8> {
    let mut restarts = Restarts::default();
    loop {
        let started = Instant::now();
        let code = match run(envoy, admin, &mut signals, shutdown(), &removal).await? {
            End::Exit(code) => return Ok(code),
            End::Envoy(code) => code,
        };
        match restarts.on_end(code, started.elapsed()) {
            Decision::Finished => return Ok(code),
            Decision::Restart(wait) => {
                tracing::error!(
                    code,
                    ?wait,
                    "Envoy crashed; it is restarted with its configuration and certificate"
                );
                tokio::select! {
                    () = sleep(wait) => {}
                    signal = signals.next() => {
                        tracing::info!(signal, "signal received while Envoy is not running");
                        return Ok(0);
                    }
                }
            }
            Decision::GiveUp => {
                tracing::error!(
                    code,
                    "Envoy crashed {} times in a row and is not restarted; check its log above",
                    restarts.consecutive() + 1
                );
                return Ok(code);
            }
        }
        envoy = start()?;
    }
}

/// End of the supervision of one Envoy.
enum End {
    /// The process exits with the code.
    Exit(u8),
    /// Envoy ended by itself with the exit code.
    Envoy(u8),
}

/// Supervises one Envoy to its end.
async fn run(
    mut envoy: Envoy,
    admin: Admin,
    signals: &mut Signals,
    mut shutdown: Shutdown,
    removal: &RemovalWatch,
) -> anyhow::Result<End> {
    let mut failing_healthcheck = pin!(None);
    let mut watching_removal = pin!(None);
    loop {
        let event = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "signal received");
                Event::Signal
            }
            code = envoy.ended() => {
                let code = code?;
                tracing::info!(code, "Envoy ended");
                if shutdown.is_serving() {
                    return Ok(End::Envoy(code));
                }
                Event::EnvoyEnded(code)
            }
            failed = when_some(failing_healthcheck.as_mut().as_pin_mut()) => {
                failing_healthcheck.set(None);
                Event::HealthcheckFailed(failed)
            }
            () = when_some(watching_removal.as_mut().as_pin_mut()) => {
                watching_removal.set(None);
                continue;
            }
            () = idle(admin), if shutdown.ends_when_idle() => Event::Idle,
            () = sleep_until(shutdown.deadline().unwrap_or_else(Instant::now)), if shutdown.deadline().is_some() => {
                Event::Deadline
            }
        };
        match shutdown.on(event, Instant::now()) {
            Action::None => {}
            Action::FailHealthcheck => {
                failing_healthcheck.set(Some(fail_healthcheck(admin)));
                watching_removal.set(Some(removal.clone().run()));
            }
            Action::Terminate => envoy.signal(Signal::SIGTERM),
            Action::Kill => {
                tracing::warn!("Envoy did not end in time and is killed");
                envoy.signal(Signal::SIGKILL);
            }
            Action::Exit(code) => return Ok(End::Exit(code)),
        }
    }
}

/// Returns whether Envoy started to drain.
async fn fail_healthcheck(admin: Admin) -> bool {
    match admin.fail_healthcheck().await {
        Ok(()) => {
            tracing::info!("draining");
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
async fn idle(admin: Admin) {
    loop {
        match admin.open_connections().await {
            Ok(0) => return,
            Ok(connections) => tracing::debug!(connections, "draining"),
            Err(error) => tracing::debug!(
                error = format!("{error:#}"),
                "Envoy's connections cannot be counted"
            ),
        }
        sleep(COUNT_INTERVAL).await;
    }
}

/// Returns the future's output. Never completes without a future.
async fn when_some<F: Future>(future: Option<std::pin::Pin<&mut F>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
