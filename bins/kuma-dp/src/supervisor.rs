//! Lets Envoy run until a signal or its own end: the shell around [`crate::shutdown::Shutdown`].

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kermode_runtime::shutdown::Signals;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::envoy::admin::Admin;
use crate::envoy::process::Envoy;
use crate::shutdown::{Action, Event, Shutdown};

/// Pause between two counts of connections.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// Runs the machine to its end; the exit code.
pub(crate) async fn supervise(
    mut envoy: Envoy,
    admin: Admin,
    mut signals: Signals,
    mut shutdown: Shutdown,
) -> anyhow::Result<u8> {
    let mut announcement = pin!(None);
    loop {
        let event = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "signal received");
                Event::Signal
            }
            code = envoy.ended() => {
                let code = code?;
                tracing::info!(code, "Envoy ended");
                Event::EnvoyEnded(code)
            }
            obeyed = when_some(announcement.as_mut().as_pin_mut()) => {
                announcement.set(None);
                Event::HealthcheckFailed(obeyed)
            }
            () = idle(admin), if shutdown.ends_when_idle() => Event::Idle,
            () = sleep_until(shutdown.deadline().unwrap_or_else(Instant::now)), if shutdown.deadline().is_some() => {
                Event::Deadline
            }
        };
        match shutdown.on(event, Instant::now()) {
            Action::None => {}
            Action::FailHealthcheck => announcement.set(Some(announce(admin))),
            Action::Terminate => envoy.signal(Signal::SIGTERM),
            Action::Kill => {
                tracing::warn!("Envoy does not end, it is killed");
                envoy.signal(Signal::SIGKILL);
            }
            Action::Exit(code) => return Ok(code),
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
