//! Readiness by guards: a process is ready once every registered part has started.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

/// Set of the parts that have not started yet.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// One part that has not started yet. Dropping it without [`Guard::ready`] leaves the process unready.
#[derive(Debug)]
#[must_use = "a part is pending until `ready` is called on its guard"]
pub struct Guard {
    readiness: Readiness,
    part: &'static str,
}

impl Readiness {
    /// Registers a part that must start before the process is ready.
    pub fn expect(&self, part: &'static str) -> Guard {
        self.pending.lock().insert(part);
        Guard {
            readiness: self.clone(),
            part,
        }
    }

    /// Returns the parts that have not started yet, sorted.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.lock().iter().copied().collect()
    }
}

impl Guard {
    /// Marks the part as started.
    pub fn ready(self) {
        self.readiness.pending.lock().remove(self.part);
        tracing::info!(part = self.part, "ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_ready_once_every_part_is() {
        let readiness = Readiness::default();
        let (a, b) = (readiness.expect("a"), readiness.expect("b"));
        a.ready();
        assert_eq!(readiness.pending(), ["b"]);
        b.ready();
        assert!(readiness.pending().is_empty());
    }

    #[test]
    fn part_that_ends_while_starting_is_never_ready() {
        let readiness = Readiness::default();
        drop(readiness.expect("a"));
        assert_eq!(readiness.pending(), ["a"]);
    }
}
