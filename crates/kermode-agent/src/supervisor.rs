//! Supervision of Envoy: restarts Envoy after a crash, and drains and terminates Envoy after a signal. The state
//! machines [`EnvoyShutdown`] and [`Restarts`] make the decisions; this module performs the IO.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kermode_runtime::shutdown::Signals;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::envoy::{Admin, Envoy};
use crate::removal::RemovalWatch;
use crate::restarts::{RestartDecision, Restarts};
use crate::shutdown::{Action, Activity, EnvoyShutdown, Event, ShutdownConfig};

/// Interval at which Envoy's connections and requests are counted during a drain that may end early.
const ACTIVITY_INTERVAL: Duration = Duration::from_millis(200);

/// Time for which a failed request to drain is repeated. An Envoy that was just started accepts connections within this
/// time.
const DRAIN_RETRY_TIME: Duration = Duration::from_secs(1);
/// Pause between two requests to drain.
const DRAIN_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Sources of the events that start and end the drain.
pub struct DrainSources {
    /// Signals to the agent.
    pub signals: Signals,
    /// Becomes the time at which the Pod has begun to terminate. The sender is kept while the agent runs.
    pub pod_termination: watch::Receiver<Option<Instant>>,
    /// Becomes true when the application of a classic sidecar has ended. The sender is kept while the agent runs.
    pub application_end: watch::Receiver<bool>,
    /// Watch of the removal of this sidecar's endpoint.
    pub removal_watch: RemovalWatch,
}

/// Supervises `envoy` and, after crashes, the replacements that `start_envoy` returns. Each Envoy gets its own
/// [`EnvoyShutdown`] with `config`. Returns the exit code for the agent.
///
/// # Errors
/// Fails when Envoy cannot be started or waited for.
pub async fn supervise(
    mut envoy: Envoy,
    start_envoy: impl Fn() -> anyhow::Result<Envoy>,
    admin: Admin,
    mut sources: DrainSources,
    config: ShutdownConfig,
) -> anyhow::Result<u8> {
    let mut restarts = Restarts::default();
    loop {
        let started = Instant::now();
        let shutdown = EnvoyShutdown::new(config);
        let code = match supervise_one(envoy, admin, &mut sources, shutdown).await? {
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
                    signal = sources.signals.next() => {
                        tracing::info!(signal, "signal received while Envoy is not running; the agent exits");
                        return Ok(0);
                    }
                    () = until_true(sources.application_end.clone()) => {
                        tracing::info!("the application has ended while Envoy is not running; the agent exits");
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
    /// After a signal or the end of the application: the agent exits with this code.
    ShutdownComplete(u8),
    /// Without a signal, while the application runs: Envoy ended with this exit code.
    EnvoyEnded(u8),
}

/// Supervises one Envoy until it ends.
async fn supervise_one(
    mut envoy: Envoy,
    admin: Admin,
    sources: &mut DrainSources,
    mut shutdown: EnvoyShutdown,
) -> anyhow::Result<End> {
    let DrainSources {
        signals,
        pod_termination,
        application_end,
        removal_watch,
    } = sources;
    // A restarted Envoy drains as well if the Pod is already terminating.
    let mut pod_termination = pin!(Some(until_some(pod_termination.clone())));
    let mut application_end = pin!(Some(until_true(application_end.clone())));
    // Both futures are set when the drain starts.
    let mut drain_start = pin!(None);
    let mut running_removal_watch = pin!(None);
    // The first count follows the start of the drain at once: often nothing is in progress then.
    let mut next_count_at = Instant::now();
    loop {
        let event = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "signal received");
                Event::Signal
            }
            at = when_some(pod_termination.as_mut().as_pin_mut()) => {
                pod_termination.set(None);
                tracing::info!("the Pod is terminating");
                Event::PodTerminates { at }
            }
            () = when_some(application_end.as_mut().as_pin_mut()) => {
                application_end.set(None);
                tracing::info!("the application has ended");
                Event::ApplicationEnded
            }
            code = envoy.wait() => {
                let code = code?;
                tracing::info!(code, "Envoy ended");
                if !shutdown.is_final() {
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
                Event::EndpointRemoved
            }
            activity = next_activity(admin, next_count_at), if shutdown.needs_activity() => {
                next_count_at = Instant::now() + ACTIVITY_INTERVAL;
                Event::Activity(activity)
            }
            () = sleep_until(shutdown.deadline().unwrap_or_else(Instant::now)), if shutdown.deadline().is_some() => {
                Event::Deadline
            }
        };
        match shutdown.on_event(event, Instant::now()) {
            Action::None => {}
            Action::StartDrain => {
                drain_start.set(Some(start_drain(admin)));
                if running_removal_watch.is_none() {
                    running_removal_watch.set(Some(removal_watch.clone().run()));
                }
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

/// Requests Envoy to fail its health check. Repeats a failed request for a moment, because an Envoy that has just started
/// does not respond yet. Returns whether Envoy has started to drain.
async fn start_drain(admin: Admin) -> bool {
    let started_at = Instant::now();
    loop {
        let Err(error) = admin.fail_healthcheck().await else {
            tracing::info!("the drain has started");
            return true;
        };
        let error = format!("{error:#}");
        if started_at.elapsed() >= DRAIN_RETRY_TIME {
            tracing::warn!(error, "Envoy has not started to drain");
            return false;
        }
        tracing::debug!(error, "Envoy does not drain yet");
        sleep(DRAIN_RETRY_INTERVAL).await;
    }
}

/// Counts Envoy's connections and requests, not before `at`. Repeats a count that fails.
async fn next_activity(admin: Admin, at: Instant) -> Activity {
    sleep_until(at).await;
    loop {
        match admin.activity().await {
            Ok(activity) => {
                let Activity {
                    connections,
                    in_progress,
                } = activity;
                tracing::debug!(connections, in_progress, "activity of Envoy");
                return activity;
            }
            Err(error) => tracing::debug!(
                error = format!("{error:#}"),
                "Envoy's connections cannot be counted"
            ),
        }
        sleep(ACTIVITY_INTERVAL).await;
    }
}

/// Completes when the value is true. Never completes if the sender is dropped before.
async fn until_true(mut receiver: watch::Receiver<bool>) {
    if receiver.wait_for(|value| *value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns the value once there is one. Never completes if the sender is dropped before.
async fn until_some<T: Copy>(mut receiver: watch::Receiver<Option<T>>) -> T {
    match receiver.wait_for(Option::is_some).await.map(|value| *value) {
        Ok(Some(value)) => value,
        _ => std::future::pending().await,
    }
}

/// Returns the output of the future. Never completes if there is no future.
async fn when_some<F: Future>(future: Option<std::pin::Pin<&mut F>>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
