//! State machine of the shutdown of Envoy and of the agent, from the first signal to the exit of the agent. No IO.
//! See `docs/reference/sidecar.md#shutdown`.
//!
//! The supervisor passes in [`Event`]s with the time and executes the returned [`Action`]s.

use std::time::Duration;

use tokio::time::Instant;

/// Time after which Envoy gets `SIGKILL` if it has not ended by `SIGTERM`.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// Input of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent received `SIGTERM` or `SIGINT`.
    Signal,
    /// Envoy now fails its health check, as requested. Its clients then use other endpoints.
    DrainStarted,
    /// The request to Envoy to fail its health check has failed.
    DrainNotStarted,
    /// Envoy has no downstream connections.
    Idle,
    /// [`EnvoyShutdown::deadline`] has passed.
    Deadline,
    /// Envoy ended with this exit code.
    EnvoyEnded(u8),
}

/// Output of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Do nothing.
    None,
    /// Request Envoy to fail its health check, then report [`Event::DrainStarted`] or [`Event::DrainNotStarted`].
    FailHealthcheck,
    /// Send `SIGTERM` to Envoy.
    Terminate,
    /// Send `SIGKILL` to Envoy.
    Kill,
    /// Exit the agent with this code.
    Exit(u8),
}

/// State machine of the shutdown of one Envoy. A restarted Envoy gets a new state machine.
#[derive(Debug)]
pub struct EnvoyShutdown {
    drain_time: Duration,
    is_native_sidecar: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No signal was received.
    NotBegun,
    /// The first signal was received; the request to Envoy to fail its health check is in progress.
    StartingDrain,
    /// Envoy fails its health check and still serves.
    Draining { until: Instant },
    /// Envoy received `SIGTERM`.
    Terminating { kill_at: Instant },
    /// Envoy received `SIGKILL`.
    Killed,
}

impl EnvoyShutdown {
    /// Creates the state machine of a running Envoy.
    ///
    /// Kubernetes signals a native sidecar after the application's containers have ended, so a native sidecar drains
    /// only until its last connection is closed. A classic sidecar drains for all of `drain_time`.
    pub fn new(drain_time: Duration, is_native_sidecar: bool) -> Self {
        Self {
            drain_time,
            is_native_sidecar,
            state: State::NotBegun,
        }
    }

    /// Returns whether the agent has received a signal.
    pub(crate) fn has_begun(&self) -> bool {
        self.state != State::NotBegun
    }

    /// Returns the time of the next [`Event::Deadline`]: the end of the drain time, or the time of `SIGKILL`.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Draining { until } => Some(until),
            State::Terminating { kill_at } => Some(kill_at),
            State::NotBegun | State::StartingDrain | State::Killed => None,
        }
    }

    /// Returns whether [`Event::Idle`] has an effect. If not, the supervisor need not count connections.
    pub(crate) fn ends_when_idle(&self) -> bool {
        self.is_native_sidecar && matches!(self.state, State::Draining { .. })
    }

    /// Handles an event.
    pub fn on_event(&mut self, event: Event, now: Instant) -> Action {
        match (self.state, event) {
            (State::NotBegun, Event::Signal) => {
                self.state = State::StartingDrain;
                Action::FailHealthcheck
            }
            (State::StartingDrain, Event::DrainStarted) => {
                self.state = State::Draining {
                    until: now + self.drain_time,
                };
                Action::None
            }
            (State::StartingDrain, Event::DrainNotStarted | Event::Signal)
            | (State::Draining { .. }, Event::Signal | Event::Deadline) => self.terminate(now),
            (State::Draining { .. }, Event::Idle) if self.is_native_sidecar => self.terminate(now),
            // A further signal means that the sender does not want to wait for Envoy's end.
            (State::Terminating { .. } | State::Killed, Event::Signal) => Action::Exit(1),
            (State::Terminating { .. }, Event::Deadline) => {
                self.state = State::Killed;
                Action::Kill
            }
            // The agent terminated Envoy, so Envoy's exit code is not an error.
            (State::Terminating { .. } | State::Killed, Event::EnvoyEnded(_)) => Action::Exit(0),
            (_, Event::EnvoyEnded(code)) => Action::Exit(code),
            (_, Event::DrainStarted | Event::DrainNotStarted | Event::Idle | Event::Deadline) => Action::None,
        }
    }

    fn terminate(&mut self, now: Instant) -> Action {
        self.state = State::Terminating {
            kill_at: now + KILL_AFTER,
        };
        Action::Terminate
    }
}

#[cfg(test)]
mod tests;
