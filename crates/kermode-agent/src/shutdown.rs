//! State machine of the shutdown, from the first signal to the process's end (`docs/reference/sidecar.md#shutdown`). No IO.
//!
//! The supervisor passes in [`Event`]s with the time and executes the returned [`Action`]s.

use std::time::Duration;

use tokio::time::Instant;

/// Time between `SIGTERM` and `SIGKILL` to Envoy.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// Input of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The agent received `SIGTERM` or `SIGINT`.
    Signal,
    /// Envoy was requested to fail its health check; `true` if it did.
    HealthcheckFailed(bool),
    /// Envoy has no downstream connections.
    Idle,
    /// The time of [`Shutdown::deadline`] has come.
    Deadline,
    /// Envoy ended with this exit code.
    EnvoyEnded(u8),
}

/// Output of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// Request Envoy to fail its health check, then report [`Event::HealthcheckFailed`].
    FailHealthcheck,
    /// Send `SIGTERM` to Envoy.
    Terminate,
    /// Send `SIGKILL` to Envoy.
    Kill,
    /// Exit this process with the code.
    Exit(u8),
}

/// State machine of one Envoy's shutdown.
#[derive(Debug)]
pub struct Shutdown {
    drain_time: Duration,
    native_sidecar: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    /// The first signal came; Envoy is requested to fail its health check.
    Announcing,
    Draining {
        until: Instant,
    },
    /// Envoy received `SIGTERM`.
    Ending {
        kill_at: Instant,
    },
    Killed,
}

impl Shutdown {
    /// Returns the initial state. The signal of a native sidecar comes after the workload's end, so its drain ends with the
    /// last connection; other drains take all of `drain_time`.
    pub fn new(drain_time: Duration, native_sidecar: bool) -> Self {
        Self {
            drain_time,
            native_sidecar,
            state: State::Serving,
        }
    }

    /// Returns whether no signal has come.
    pub(crate) fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// Returns the time of the next [`Event::Deadline`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Draining { until } => Some(until),
            State::Ending { kill_at } => Some(kill_at),
            State::Serving | State::Announcing | State::Killed => None,
        }
    }

    /// Returns whether [`Event::Idle`] has an effect, so that connections have to be counted.
    pub(crate) fn ends_when_idle(&self) -> bool {
        self.native_sidecar && matches!(self.state, State::Draining { .. })
    }

    /// Handles an event.
    pub(crate) fn on(&mut self, event: Event, now: Instant) -> Action {
        match (self.state, event) {
            (State::Serving, Event::Signal) => {
                self.state = State::Announcing;
                Action::FailHealthcheck
            }
            (State::Announcing, Event::HealthcheckFailed(true)) => {
                self.state = State::Draining {
                    until: now + self.drain_time,
                };
                Action::None
            }
            (State::Announcing, Event::HealthcheckFailed(false) | Event::Signal)
            | (State::Draining { .. }, Event::Signal | Event::Deadline) => self.end(now),
            (State::Draining { .. }, Event::Idle) if self.native_sidecar => self.end(now),
            (State::Ending { .. } | State::Killed, Event::Signal) => Action::Exit(1),
            (State::Ending { .. }, Event::Deadline) => {
                self.state = State::Killed;
                Action::Kill
            }
            // The exit code of an Envoy that was terminated is not an error of the agent.
            (State::Ending { .. } | State::Killed, Event::EnvoyEnded(_)) => Action::Exit(0),
            (_, Event::EnvoyEnded(code)) => Action::Exit(code),
            (_, Event::HealthcheckFailed(_) | Event::Idle | Event::Deadline) => Action::None,
        }
    }

    fn end(&mut self, now: Instant) -> Action {
        self.state = State::Ending {
            kill_at: now + KILL_AFTER,
        };
        Action::Terminate
    }
}

#[cfg(test)]
mod tests;
