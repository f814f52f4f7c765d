//! The most recent decisions of the injection webhook of this replica, for the page.
//!
//! The number of decisions and the length of each text are bounded. A decision contains the name of the Pod and the reason.
//! The message of a denial may contain values of labels and annotations of the Pod. Denials have a list of their own, so that thousands of injections do not displace them.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

/// Number of decisions of each list.
const CAPACITY: usize = 200;
/// Maximum number of characters of a name or text.
const MAX_TEXT: usize = 512;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentDecision {
    /// Time of the decision.
    pub time: SystemTime,
    /// Namespace of the Pod.
    pub namespace: String,
    /// Name of the Pod, or the prefix of its generated name.
    pub pod: String,
    /// Decision.
    pub kind: DecisionKind,
    /// Reason, as in the metric `kuma_cp_admission_reviews_total`.
    pub reason: &'static str,
    /// Message of a denial; empty for other decisions.
    pub message: String,
}

/// Kind of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionKind {
    /// The Pod got a sidecar.
    Injected,
    /// The Pod got no sidecar.
    Skipped,
    /// The Pod was denied.
    Denied,
}

/// The most recent decisions; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RecentDecisions {
    lists: Arc<Mutex<Lists>>,
}

#[derive(Debug, Default)]
struct Lists {
    denied: VecDeque<RecentDecision>,
    others: VecDeque<RecentDecision>,
}

impl RecentDecisions {
    /// Adds a decision, in place of the oldest one if the list is full.
    pub fn add(&self, kind: DecisionKind, reason: &'static str, namespace: &str, pod: &str, message: &str) {
        let truncate = |text: &str| text.chars().take(MAX_TEXT).collect();
        let decision = RecentDecision {
            time: SystemTime::now(),
            namespace: truncate(namespace),
            pod: truncate(pod),
            kind,
            reason,
            message: truncate(message),
        };
        let mut lists = self.lists.lock();
        let list = match kind {
            DecisionKind::Denied => &mut lists.denied,
            DecisionKind::Injected | DecisionKind::Skipped => &mut lists.others,
        };
        if list.len() == CAPACITY {
            list.pop_front();
        }
        list.push_back(decision);
    }

    /// Returns the decisions, the newest first.
    pub fn newest_first(&self) -> Vec<RecentDecision> {
        let mut decisions: Vec<_> = {
            let lists = self.lists.lock();
            lists.denied.iter().chain(&lists.others).cloned().collect()
        };
        decisions.sort_by_key(|decision| Reverse(decision.time));
        decisions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_injections_do_not_displace_a_denial() {
        let recent = RecentDecisions::default();
        recent.add(DecisionKind::Denied, "NoMesh", "shop", "web-", "no mesh");
        for number in 0..=CAPACITY {
            recent.add(
                DecisionKind::Injected,
                "Namespace",
                "shop",
                &format!("p{number}"),
                "",
            );
        }
        let decisions = recent.newest_first();
        assert_eq!(decisions.len(), CAPACITY + 1);
        assert!(
            decisions
                .iter()
                .any(|decision| decision.kind == DecisionKind::Denied)
        );
        let pods: Vec<_> = decisions.iter().map(|decision| &*decision.pod).collect();
        assert!(!pods.contains(&"p0"), "the oldest injection is displaced");
        assert!(decisions.is_sorted_by(|one, other| one.time >= other.time));
    }

    #[test]
    fn length_of_texts_is_bounded() {
        let recent = RecentDecisions::default();
        recent.add(
            DecisionKind::Denied,
            "NoMesh",
            "shop",
            "web",
            &"ä".repeat(2 * MAX_TEXT),
        );
        assert_eq!(recent.newest_first()[0].message.chars().count(), MAX_TEXT);
    }
}
