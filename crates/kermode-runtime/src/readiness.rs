//! Readiness by guards: a process is ready once every registered part is ready.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// Set of the parts of the process that are not ready yet.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Guard of a part that is not ready yet. Dropping the guard without [`ReadinessGuard::mark_ready`] leaves the process
/// unready.
#[derive(Debug)]
#[must_use = "a part is pending until `mark_ready` is called on its guard"]
pub struct ReadinessGuard {
    readiness: Readiness,
    part: &'static str,
}

impl Readiness {
    /// Registers a part that must be ready before the process is. The part is pending until
    /// [`ReadinessGuard::mark_ready`] is called.
    pub fn register(&self, part: &'static str) -> ReadinessGuard {
        self.pending.lock().insert(part);
        ReadinessGuard {
            readiness: self.clone(),
            part,
        }
    }

    /// Returns the parts that are not ready yet, sorted.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().iter().copied().collect()
    }
}

impl ReadinessGuard {
    /// Marks the part as ready.
    pub fn mark_ready(self) {
        self.readiness.pending.lock().remove(self.part);
        tracing::info!(part = self.part, "part of the process is ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_ready_once_every_part_is_ready() {
        let readiness = Readiness::default();
        let first = readiness.register("first");
        let second = readiness.register("second");
        first.mark_ready();
        assert_eq!(readiness.pending(), ["second"]);
        second.mark_ready();
        assert!(readiness.pending().is_empty());
    }

    #[test]
    fn part_that_ends_while_starting_is_never_ready() {
        let readiness = Readiness::default();
        drop(readiness.register("a"));
        assert_eq!(readiness.pending(), ["a"]);
    }
}
