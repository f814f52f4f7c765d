//! Queue of Events that are not written yet. The queue serves namespaces round-robin, so that a flood of Events in one
//! namespace does not delay the Events of other namespaces.

use std::collections::{HashMap, VecDeque};

/// Maximum number of items of one namespace. A namespace has few controllers whose Pods are denied at the same time.
const MAX_PER_NAMESPACE: usize = 16;
/// Maximum number of items of all namespaces. The limit bounds memory: an Event takes about 1 KB.
const MAX_TOTAL: usize = 8192;

/// Queues of items, one for each namespace. At a limit, a random item is dropped for each new item, so a new item is
/// queued even if other Pods fill the queue with items of forged AdmissionReviews. If an item of the API server's
/// AdmissionReviews is dropped, the item is added again when the Pod's controller retries.
#[derive(Debug)]
pub(super) struct PendingEvents<T> {
    /// Items by namespace, oldest first. An empty queue is removed.
    queues: HashMap<String, VecDeque<T>>,
    /// Namespaces that have items, in the order in which they are served.
    round_robin: VecDeque<String>,
    /// Number of items of all namespaces.
    total: usize,
}

impl<T> Default for PendingEvents<T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            round_robin: VecDeque::new(),
            total: 0,
        }
    }
}

impl<T: PartialEq> PendingEvents<T> {
    /// Adds an item, unless the namespace has an equal item. At a limit, drops a random item first. `random` returns a
    /// random number below its argument.
    pub(super) fn push(&mut self, namespace: &str, item: T, random: impl Fn(usize) -> usize) {
        let queue = self.queues.get(namespace);
        if queue.is_some_and(|queue| queue.contains(&item)) {
            return;
        }
        let queued = queue.map_or(0, VecDeque::len);
        if queued >= MAX_PER_NAMESPACE || (queued > 0 && self.total >= MAX_TOTAL) {
            self.drop_random(namespace, &random);
        } else if self.total >= MAX_TOTAL {
            let other_namespace = self.round_robin[random(self.round_robin.len())].clone();
            self.drop_random(&other_namespace, &random);
        }
        let queue = self.queues.entry(namespace.to_owned()).or_default();
        if queue.is_empty() {
            self.round_robin.push_back(namespace.to_owned());
        }
        queue.push_back(item);
        self.total += 1;
    }

    /// Removes and returns the oldest item of the next namespace.
    pub(super) fn pop(&mut self) -> Option<T> {
        let namespace = self.round_robin.pop_front()?;
        let queue = self.queues.get_mut(&namespace)?;
        let item = queue.pop_front()?;
        self.total -= 1;
        if queue.is_empty() {
            self.queues.remove(&namespace);
        } else {
            self.round_robin.push_back(namespace);
        }
        Some(item)
    }

    fn drop_random(&mut self, namespace: &str, random: &impl Fn(usize) -> usize) {
        let Some(queue) = self.queues.get_mut(namespace) else {
            return;
        };
        if queue.remove(random(queue.len())).is_some() {
            self.total -= 1;
        }
        if queue.is_empty() {
            self.queues.remove(namespace);
            self.round_robin.retain(|other| other != namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_served_round_robin_and_an_equal_item_is_not_added() {
        let mut pending = PendingEvents::default();
        for item in 0..10 {
            pending.push("flooded", item, |_| 0);
        }
        pending.push("shop", 100, |_| 0);
        pending.push("shop", 100, |_| 0);
        assert_eq!((pending.pop(), pending.pop()), (Some(0), Some(100)));
        let rest: Vec<_> = std::iter::from_fn(|| pending.pop()).collect();
        assert_eq!(rest, (1..10).collect::<Vec<_>>());
        assert_eq!((pending.total, pending.queues.len()), (0, 0));
    }

    #[test]
    fn number_of_items_is_limited_and_every_namespace_can_add_an_item() {
        let mut pending = PendingEvents::default();
        for item in 0..100 {
            pending.push("flooded", item, |limit| limit - 1);
        }
        assert_eq!(pending.total, MAX_PER_NAMESPACE);
        for item in 0..2 * MAX_TOTAL {
            pending.push(&format!("n{item}"), item, |_| 0);
            assert!(pending.total <= MAX_TOTAL);
        }
        pending.push("shop", usize::MAX, |limit| limit - 1);
        let popped: Vec<_> = std::iter::from_fn(|| pending.pop()).collect();
        assert!(
            popped.contains(&usize::MAX),
            "the namespace that came last has its item"
        );
        assert_eq!((pending.total, pending.round_robin.len()), (0, 0));
    }
}
