//! Whether an Envoy that ended without having been asked to is started again. No clock of its own.
//!
//! The container would be started again too, but with an empty memory: without certificate and configuration, which only
//! the control plane could give.

use std::time::Duration;

/// The wait before the second restart in a row; the first one is at once.
const FIRST: Duration = Duration::from_millis(200);
/// How many restarts in a row there are. Then the container has its turn, with the kubelet's longer waits.
const LIMIT: u32 = 5;
/// An Envoy that ran for so long has not ended because of how it was started.
const STABLE: Duration = Duration::from_mins(1);

/// How often Envoy has ended soon after its start, in a row.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    in_a_row: u32,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start it again, after a wait.
    Restart(Duration),
    /// It was asked to end, and did.
    Finished,
    /// It does not run here.
    GiveUp,
}

impl Restarts {
    /// Envoy ended with this exit code after it ran for so long.
    pub(crate) fn on_end(&mut self, code: u8, ran: Duration) -> Decision {
        if code == 0 {
            return Decision::Finished;
        }
        if ran >= STABLE {
            self.in_a_row = 0;
        }
        if self.in_a_row == LIMIT {
            return Decision::GiveUp;
        }
        self.in_a_row += 1;
        Decision::Restart(match self.in_a_row {
            1 => Duration::ZERO,
            further => FIRST * (1 << (further - 2)),
        })
    }

    /// How many times it was started again, in a row.
    pub(crate) fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn a_crash_is_followed_by_a_start_at_once_and_a_crash_loop_by_the_end() {
        let mut restarts = Restarts::default();
        let decisions: Vec<_> = (0..6).map(|_| restarts.on_end(139, SOON)).collect();
        let waits = [0, 200, 400, 800, 1600].map(|millis| Decision::Restart(Duration::from_millis(millis)));
        assert_eq!(decisions[..5], waits);
        assert_eq!(decisions[5], Decision::GiveUp);
    }

    #[test]
    fn crashes_that_are_far_apart_go_on_for_ever() {
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            restarts.on_end(137, SOON);
            assert_eq!(restarts.on_end(137, STABLE), Decision::Restart(Duration::ZERO));
        }
    }

    #[test]
    fn an_envoy_that_was_asked_to_end_stays_ended() {
        assert_eq!(Restarts::default().on_end(0, SOON), Decision::Finished);
    }
}
