//! Lets Envoy run until a signal or its own end, and again after a crash: the shell around
//! [`crate::shutdown::Shutdown`] and [`crate::restarts::Restarts`].

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kermode_runtime::shutdown::Signals;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::departure::Departure;
use crate::envoy::admin::Admin;
use crate::envoy::process::Envoy;
use crate::restarts::{Decision, Restarts};
use crate::shutdown::{Action, Event, Shutdown};

/// Pause between two counts of connections.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// Supervises Envoy, and those that `start` starts after a crash, to the end; the exit code.
pub(crate) async fn supervise(
    mut envoy: Envoy,
    start: impl Fn() -> anyhow::Result<Envoy>,
    admin: Admin,
    mut signals: Signals,
    shutdown: impl Fn() -> Shutdown,
    departure: Departure,
) -> anyhow::Result<u8> {
    let mut restarts = Restarts::default();
    loop {
        let started = Instant::now();
        let code = match run(envoy, admin, &mut signals, shutdown(), &departure).await? {
            End::Exit(code) => return Ok(code),
            End::Envoy(code) => code,
        };
        match restarts.on_end(code, started.elapsed()) {
            Decision::Finished => return Ok(code),
            Decision::Restart(wait) => {
                tracing::error!(code, ?wait, "Envoy crashed, it is started again with what it had");
                tokio::select! {
                    () = sleep(wait) => {}
                    signal = signals.next() => {
                        tracing::info!(signal, "signal received while there is no Envoy");
                        return Ok(0);
                    }
                }
            }
            Decision::GiveUp => {
                tracing::error!(
                    code,
                    "Envoy crashed {} times in a row and is not started again: its log above says why",
                    restarts.in_a_row() + 1
                );
                return Ok(code);
            }
        }
        envoy = start()?;
    }
}

/// Why one Envoy is not supervised any more.
enum End {
    /// This process has to end with the code.
    Exit(u8),
    /// It ended by itself, with the code.
    Envoy(u8),
}

/// Supervises one Envoy to its end.
async fn run(
    mut envoy: Envoy,
    admin: Admin,
    signals: &mut Signals,
    mut shutdown: Shutdown,
    departure: &Departure,
) -> anyhow::Result<End> {
    let mut announcement = pin!(None);
    let mut following = pin!(None);
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
            obeyed = when_some(announcement.as_mut().as_pin_mut()) => {
                announcement.set(None);
                Event::HealthcheckFailed(obeyed)
            }
            () = when_some(following.as_mut().as_pin_mut()) => {
                following.set(None);
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
                announcement.set(Some(announce(admin)));
                following.set(Some(departure.clone().follow()));
            }
            Action::Terminate => envoy.signal(Signal::SIGTERM),
            Action::Kill => {
                tracing::warn!("Envoy does not end, it is killed");
                envoy.signal(Signal::SIGKILL);
            }
            Action::Exit(code) => return Ok(End::Exit(code)),
        }
    }
}

async fn announce(admin: Admin) -> bool {
    match admin.fail_healthcheck().await {
        Ok(()) => {
            tracing::info!("draining");
            true
        }
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "Envoy cannot be told to drain, ending it at once"
            );
            false
        }
    }
}

/// Completes when Envoy has no connections.
async fn idle(admin: Admin) {
    loop {
        match admin.open_connections().await {
            Ok(0) => return,
            Ok(connections) => tracing::debug!(connections, "draining"),
            Err(error) => tracing::debug!(error = format!("{error:#}"), "connections cannot be counted"),
        }
        sleep(COUNT_EVERY).await;
    }
}

/// The future's output, or never.
async fn when_some<F: Future>(future: Option<std::pin::Pin<&mut F>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
