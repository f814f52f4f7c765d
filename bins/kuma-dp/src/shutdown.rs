//! From the first signal to the end: a state machine without IO (BEHAVIOUR section 5.3).
//!
//! The supervisor reports what happens as [`Event`]s and does what [`Action`] says. Time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How long Envoy is given to end by itself once it is asked to.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGTERM or SIGINT.
    Signal,
    /// Envoy was told to fail its health check; whether it obeyed.
    HealthcheckFailed(bool),
    /// Envoy has no connection left.
    Idle,
    /// The deadline passed.
    Deadline,
    /// Envoy ended with this code.
    EnvoyEnded(u8),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Go on.
    None,
    /// Tell Envoy to fail its health check, then report.
    FailHealthcheck,
    /// Ask Envoy to end.
    Terminate,
    /// Make Envoy end.
    Kill,
    /// End this process with the code.
    Exit(u8),
}

/// Where the shutdown stands.
#[derive(Debug)]
pub(crate) struct Shutdown {
    drain_time: Duration,
    native_sidecar: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    /// The first signal came; Envoy is being told.
    Announcing,
    Draining {
        until: Instant,
    },
    /// Envoy was asked to end.
    Ending {
        kill_at: Instant,
    },
    Killed,
}

impl Shutdown {
    /// `native_sidecar`: the signal comes after the workload has ended, so that with the last connection nothing is
    /// left to wait for. Otherwise the drain takes its whole time.
    pub(crate) fn new(drain_time: Duration, native_sidecar: bool) -> Self {
        Self {
            drain_time,
            native_sidecar,
            state: State::Serving,
        }
    }

    /// Whether no signal has come.
    pub(crate) fn is_serving(&self) -> bool {
        self.state == State::Serving
    }

    /// When [`Event::Deadline`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Draining { until } => Some(until),
            State::Ending { kill_at } => Some(kill_at),
            State::Serving | State::Announcing | State::Killed => None,
        }
    }

    /// Whether [`Event::Idle`] would change anything, so that connections are worth counting.
    pub(crate) fn ends_when_idle(&self) -> bool {
        self.native_sidecar && matches!(self.state, State::Draining { .. })
    }

    /// Takes in an event.
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
            // How an Envoy ends that was told to end is its own affair.
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
