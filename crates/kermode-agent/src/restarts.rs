//! Decides whether and when the agent restarts an Envoy that ended. No IO; the run time is passed in.
//!
//! The agent restarts Envoy itself: a restart of the container would lose the certificate and the configuration, which
//! the agent holds in memory only.

use std::time::Duration;

/// Delay of the second consecutive restart; the delay doubles with each further restart. The first restart is
/// immediate.
const INITIAL_DELAY: Duration = Duration::from_millis(200);
/// Limit on consecutive restarts. After the next crash, the agent exits, and the kubelet restarts the container with
/// longer delays.
const MAX_RESTARTS: u32 = 5;
/// An Envoy that crashes after at least this run time starts a new series of consecutive restarts.
const STABLE_RUN_TIME: Duration = Duration::from_mins(1);

/// Counter of consecutive restarts.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    consecutive: u32,
}

/// Next step of the supervisor after Envoy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Restart after this delay.
    Restart(Duration),
    /// Envoy exited successfully; do not restart.
    Finished,
    /// The limit is reached; do not restart.
    GiveUp,
}

impl Restarts {
    /// Handles the end of an Envoy that ran for `run_time` and exited with `code`.
    pub(crate) fn on_end(&mut self, code: u8, run_time: Duration) -> RestartDecision {
        if code == 0 {
            return RestartDecision::Finished;
        }
        if run_time >= STABLE_RUN_TIME {
            self.consecutive = 0;
        }
        if self.consecutive == MAX_RESTARTS {
            return RestartDecision::GiveUp;
        }
        self.consecutive += 1;
        RestartDecision::Restart(match self.consecutive {
            1 => Duration::ZERO,
            number => INITIAL_DELAY * (1 << (number - 2)),
        })
    }

    /// Returns the number of consecutive restarts.
    pub(crate) fn consecutive(&self) -> u32 {
        self.consecutive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT_RUN_TIME: Duration = Duration::from_millis(10);
    /// Exit code of an Envoy that `SIGSEGV` ended: 128 plus the number of the signal.
    const CRASHED: u8 = 139;

    #[test]
    fn first_restart_is_immediate_and_six_crashes_in_a_row_end_the_restarts() {
        let mut restarts = Restarts::default();
        let decisions: Vec<_> = (0..6).map(|_| restarts.on_end(CRASHED, SHORT_RUN_TIME)).collect();
        let restarts_with_delays =
            [0, 200, 400, 800, 1600].map(|millis| RestartDecision::Restart(Duration::from_millis(millis)));
        assert_eq!(decisions[..5], restarts_with_delays);
        assert_eq!(decisions[5], RestartDecision::GiveUp);
    }

    #[test]
    fn envoy_that_crashes_after_a_long_run_is_always_restarted() {
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            restarts.on_end(CRASHED, SHORT_RUN_TIME);
            assert_eq!(
                restarts.on_end(CRASHED, STABLE_RUN_TIME),
                RestartDecision::Restart(Duration::ZERO)
            );
        }
    }

    #[test]
    fn envoy_that_exits_successfully_is_not_restarted() {
        assert_eq!(
            Restarts::default().on_end(0, SHORT_RUN_TIME),
            RestartDecision::Finished
        );
    }
}
