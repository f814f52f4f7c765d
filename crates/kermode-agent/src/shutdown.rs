//! State machine of the shutdown of Envoy and of the agent, from the start of the drain to the exit of the agent. No IO.
//! See `docs/reference/sidecar.md#shutdown`.
//!
//! The supervisor passes in [`Event`]s with the time and executes the returned [`Action`]s.

use std::time::Duration;

use tokio::time::Instant;

/// Time after which Envoy gets `SIGKILL` if it has not ended by `SIGTERM`.
const KILL_AFTER: Duration = Duration::from_secs(5);
/// Part of the Pod's termination grace period that remains for stopping Envoy and the agent, as at injection
/// (docs/design.md#termination-budget).
const STOP_RESERVE: Duration = KILL_AFTER;
/// Time for which a sidecar keeps idle connections after its application has ended, if not every proxy has
/// acknowledged the removal of the endpoint. Usually all of them have done so long before; if a replica of the control
/// plane does not respond, the Pod still ends soon.
const MAX_IDLE_WAIT: Duration = Duration::from_secs(5);

/// Input of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The Pod has begun to terminate. The application is still running.
    PodTerminates {
        /// Time of the start of the termination.
        at: Instant,
    },
    /// The agent received `SIGTERM` or `SIGINT`.
    Signal,
    /// All containers of the application have ended and none of them will be restarted.
    ApplicationEnded,
    /// Envoy now fails its health check, as requested. Its clients then use other endpoints.
    DrainStarted,
    /// The request to Envoy to fail its health check has failed.
    DrainNotStarted,
    /// Every proxy has acknowledged the removal of this endpoint, so none of them starts another request.
    EndpointRemoved,
    /// Envoy has this activity.
    Activity(Activity),
    /// [`EnvoyShutdown::deadline`] has passed.
    Deadline,
    /// Envoy ended with this exit code.
    EnvoyEnded(u8),
}

/// Activity of Envoy's listeners, without the admin interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Number of open connections.
    pub connections: u64,
    /// Number of HTTP requests without a complete response, and of open connections that are not HTTP. Closing the other
    /// connections interrupts nothing.
    pub in_progress: u64,
}

/// Output of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Do nothing.
    None,
    /// Request Envoy to fail its health check, then report [`Event::DrainStarted`] or [`Event::DrainNotStarted`]. Watch
    /// the removal of this endpoint, then report [`Event::EndpointRemoved`].
    StartDrain,
    /// Send `SIGTERM` to Envoy.
    Terminate,
    /// Send `SIGKILL` to Envoy.
    Kill,
    /// Exit the agent with this code.
    Exit(u8),
}

/// Condition that ends the drain of a classic sidecar (docs/design.md#drain-modes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainMode {
    /// The end of the drain time.
    #[default]
    Wait,
    /// Every proxy has acknowledged the removal of the endpoint, no connection is open, and
    /// [`ShutdownConfig::min_drain_time`] has passed. At the latest, the end of the drain time.
    Acknowledged,
}

/// Settings of the shutdown.
#[derive(Clone, Copy, Debug)]
pub struct ShutdownConfig {
    /// Maximum duration of the drain after the first signal.
    pub drain_time: Duration,
    /// Minimum duration of a drain with [`DrainMode::Acknowledged`]: the application may still run, and needs the sidecar.
    pub min_drain_time: Duration,
    /// Condition that ends the drain of a classic sidecar.
    pub drain_mode: DrainMode,
    /// Whether Kubernetes signals this sidecar after the containers of the application have ended.
    pub is_native_sidecar: bool,
    /// Termination grace period of the Pod, if it is known. It begins with [`Event::PodTerminates`].
    pub grace_period: Option<Duration>,
}

/// State machine of the shutdown of one Envoy. A restarted Envoy gets a new state machine.
#[derive(Debug)]
pub struct EnvoyShutdown {
    config: ShutdownConfig,
    state: State,
    is_endpoint_removed: bool,
    /// Whether [`Event::ApplicationEnded`] was received.
    has_application_ended: bool,
    /// Latest end of the drain, if the start of the termination and the grace period of the Pod are known.
    drain_limit: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The drain has not started, and no signal was received.
    Running,
    /// The Pod terminates. The request to Envoy to fail its health check is in progress or has ended. Envoy serves until
    /// the first signal, however long the application runs.
    PodTerminating { is_drain_started: bool },
    /// The first signal was received, or the application has ended. The request to Envoy to fail its health check is in
    /// progress.
    StartingDrain,
    /// The first signal was received, or the application has ended. Envoy fails its health check and still serves.
    Draining { since: Instant },
    /// Envoy received `SIGTERM`.
    Stopping { kill_at: Instant },
    /// Envoy received `SIGKILL`.
    Killed,
}

impl EnvoyShutdown {
    /// Creates the state machine of a running Envoy.
    ///
    /// Kubernetes signals a native sidecar after the application's containers have ended, so a native sidecar then waits
    /// only for what is in progress. So does a classic sidecar whose application has ended. Otherwise, a classic sidecar
    /// drains for all of the drain time, unless its drain mode is [`DrainMode::Acknowledged`].
    pub fn new(config: ShutdownConfig) -> Self {
        Self {
            config,
            state: State::Running,
            is_endpoint_removed: false,
            has_application_ended: false,
            drain_limit: None,
        }
    }

    /// Returns whether the agent ends with this Envoy: it has received a signal, or the application has ended.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.state, State::Running | State::PodTerminating { .. })
    }

    /// Returns the time of the next [`Event::Deadline`]: the end of the drain time, the end of the grace period less
    /// [`STOP_RESERVE`], or the time of `SIGKILL`.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::StartingDrain => self.drain_limit,
            State::Draining { since } => {
                let end = since + self.config.drain_time;
                Some(self.drain_limit.map_or(end, |limit| limit.min(end)))
            }
            State::Stopping { kill_at } => Some(kill_at),
            State::Running | State::PodTerminating { .. } | State::Killed => None,
        }
    }

    /// Returns whether [`Event::Activity`] may have an effect. If not, the supervisor need not count connections.
    pub(crate) fn needs_activity(&self) -> bool {
        let ends_early = self.has_no_application()
            || self.config.drain_mode == DrainMode::Acknowledged && self.is_endpoint_removed;
        ends_early && matches!(self.state, State::Draining { .. })
    }

    /// Handles an event.
    pub fn on_event(&mut self, event: Event, now: Instant) -> Action {
        match (self.state, event) {
            (_, Event::EndpointRemoved) => {
                self.is_endpoint_removed = true;
                Action::None
            }
            (_, Event::ApplicationEnded) => self.on_application_ended(),
            (_, Event::PodTerminates { at }) => self.on_pod_terminates(at),
            (State::PodTerminating { .. }, Event::DrainStarted) => {
                self.state = State::PodTerminating {
                    is_drain_started: true,
                };
                Action::None
            }
            (
                State::PodTerminating {
                    is_drain_started: true,
                },
                Event::Signal,
            )
            | (State::StartingDrain, Event::DrainStarted) => {
                self.state = State::Draining { since: now };
                Action::None
            }
            // The request of a terminating Pod may have failed, so another one is sent.
            (
                State::Running
                | State::PodTerminating {
                    is_drain_started: false,
                },
                Event::Signal,
            ) => {
                self.state = State::StartingDrain;
                Action::StartDrain
            }
            (State::StartingDrain, Event::DrainNotStarted | Event::Signal | Event::Deadline)
            | (State::Draining { .. }, Event::Signal | Event::Deadline) => self.terminate(now),
            // Envoy does not respond. The application still runs, so the request is repeated instead of giving up.
            (
                State::PodTerminating {
                    is_drain_started: false,
                },
                Event::DrainNotStarted,
            ) => Action::StartDrain,
            (State::Draining { since }, Event::Activity(activity))
                if self.is_complete(activity, now.saturating_duration_since(since)) =>
            {
                self.terminate(now)
            }
            // A further signal means that the sender does not want to wait for Envoy's end.
            (State::Stopping { .. } | State::Killed, Event::Signal) => Action::Exit(1),
            (State::Stopping { .. }, Event::Deadline) => {
                self.state = State::Killed;
                Action::Kill
            }
            // The agent terminated Envoy, so Envoy's exit code is not an error.
            (State::Stopping { .. } | State::Killed, Event::EnvoyEnded(_)) => Action::Exit(0),
            // Nothing needs Envoy any more. An error would turn the success of the application into a failure of its Pod.
            (_, Event::EnvoyEnded(_)) if self.has_application_ended => Action::Exit(0),
            (_, Event::EnvoyEnded(code)) => Action::Exit(code),
            (_, Event::DrainStarted | Event::DrainNotStarted | Event::Activity(_) | Event::Deadline) => {
                Action::None
            }
        }
    }

    /// Starts a drain, unless one is in progress after a signal.
    fn on_pod_terminates(&mut self, at: Instant) -> Action {
        let grace_period = self.config.grace_period;
        self.drain_limit = grace_period.map(|grace| at + grace.saturating_sub(STOP_RESERVE));
        if self.state == State::Running {
            self.state = State::PodTerminating {
                is_drain_started: false,
            };
            Action::StartDrain
        } else {
            Action::None
        }
    }

    /// Starts a drain, unless one is in progress after a signal.
    fn on_application_ended(&mut self) -> Action {
        self.has_application_ended = true;
        if matches!(self.state, State::Running | State::PodTerminating { .. }) {
            self.state = State::StartingDrain;
            Action::StartDrain
        } else {
            Action::None
        }
    }

    /// Returns whether the application has ended, if a drain is in progress.
    fn has_no_application(&self) -> bool {
        self.config.is_native_sidecar || self.has_application_ended
    }

    /// Returns whether the drain is complete before the end of the drain time.
    ///
    /// Once the application has ended, a request on an idle connection could get only an error. A proxy repeats the
    /// request at another endpoint after such an error, but not after the end of the connection. Idle connections are
    /// therefore kept until no proxy sends requests, at most for [`MAX_IDLE_WAIT`].
    fn is_complete(&self, activity: Activity, drained_for: Duration) -> bool {
        let Activity {
            connections,
            in_progress,
        } = activity;
        if self.has_no_application() {
            let is_idle = in_progress == 0 && (self.is_endpoint_removed || drained_for >= MAX_IDLE_WAIT);
            connections == 0 || is_idle
        } else {
            self.config.drain_mode == DrainMode::Acknowledged
                && drained_for >= self.config.min_drain_time
                && self.is_endpoint_removed
                && connections == 0
        }
    }

    fn terminate(&mut self, now: Instant) -> Action {
        self.state = State::Stopping {
            kill_at: now + KILL_AFTER,
        };
        Action::Terminate
    }
}

#[cfg(test)]
mod tests;
