//! Restarts of an Envoy that crashed. No IO; the clock is passed in.
//!
//! The agent restarts Envoy itself: a restart of the container would lose the certificate and the configuration, which
//! the agent holds in memory only.

use std::time::Duration;

/// Delay of the second consecutive restart; the delay doubles with each further restart. The first restart is
/// immediate.
const INITIAL_DELAY: Duration = Duration::from_millis(200);
/// Limit on consecutive restarts. Above the limit, the agent exits, and the kubelet restarts the container with longer
/// delays.
const MAX_RESTARTS: u32 = 5;
/// Run time after which a crash starts a new series of restarts.
const STABLE_RUN_TIME: Duration = Duration::from_mins(1);

/// Counter of consecutive restarts.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    consecutive: u32,
}

/// Decision about a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Restart after this delay.
    Restart(Duration),
    /// Envoy exited successfully; do not restart.
    Finished,
    /// The limit is reached; do not restart.
    GiveUp,
}

impl Restarts {
    /// Handles the end of an Envoy that ran for `run_time` and exited with `code`.
    pub(crate) fn on_end(&mut self, code: u8, run_time: Duration) -> Decision {
        if code == 0 {
            return Decision::Finished;
        }
        if run_time >= STABLE_RUN_TIME {
            self.consecutive = 0;
        }
        if self.consecutive == MAX_RESTARTS {
            return Decision::GiveUp;
        }
        self.consecutive += 1;
        Decision::Restart(match self.consecutive {
            1 => Duration::ZERO,
            further => INITIAL_DELAY * (1 << (further - 2)),
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

    #[test]
    fn first_restart_is_immediate_and_six_crashes_in_a_row_end_the_restarts() {
        let mut restarts = Restarts::default();
        let decisions: Vec<_> = (0..6).map(|_| restarts.on_end(139, SHORT_RUN_TIME)).collect();
        let waits = [0, 200, 400, 800, 1600].map(|millis| Decision::Restart(Duration::from_millis(millis)));
        assert_eq!(decisions[..5], waits);
        assert_eq!(decisions[5], Decision::GiveUp);
    }

    #[test]
    fn envoy_that_crashes_after_a_long_run_is_always_restarted() {
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            restarts.on_end(137, SHORT_RUN_TIME);
            assert_eq!(
                restarts.on_end(137, STABLE_RUN_TIME),
                Decision::Restart(Duration::ZERO)
            );
        }
    }

    #[test]
    fn envoy_that_exits_successfully_is_not_restarted() {
        assert_eq!(Restarts::default().on_end(0, SHORT_RUN_TIME), Decision::Finished);
    }
}
