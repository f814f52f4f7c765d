//! Work queue of keys. A key is queued at most once and never processed concurrently.

use std::collections::{HashSet, VecDeque};

use kermode_model::ObjectKey;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Work queue, bounded by the number of distinct keys.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    order: VecDeque<ObjectKey>,
    waiting: HashSet<ObjectKey>,
    working: HashSet<ObjectKey>,
}

impl Queue {
    /// Queues a key unless it is queued. A key that is being processed is queued again afterwards.
    pub(super) fn push(&self, key: ObjectKey) {
        let mut state = self.state.lock();
        if state.waiting.insert(key.clone()) && !state.working.contains(&key) {
            state.order.push_back(key);
            self.filled.notify_one();
        }
    }

    /// Queues the keys that were being processed when their tasks were cancelled.
    pub(super) fn restart(&self) {
        let mut state = self.state.lock();
        let cancelled: Vec<_> = state.working.drain().collect();
        for key in cancelled {
            state.waiting.insert(key.clone());
            state.order.push_back(key);
        }
        self.filled.notify_one();
    }

    /// Returns the next key. The caller must call [`Queue::done`] afterwards.
    pub(super) async fn pop(&self) -> ObjectKey {
        loop {
            if let Some(key) = self.try_pop() {
                return key;
            }
            self.filled.notified().await;
        }
    }

    fn try_pop(&self) -> Option<ObjectKey> {
        let mut state = self.state.lock();
        let key = state.order.pop_front()?;
        state.waiting.remove(&key);
        state.working.insert(key.clone());
        Some(key)
    }

    /// Marks a key as processed.
    pub(super) fn done(&self, key: &ObjectKey) {
        let mut state = self.state.lock();
        state.working.remove(key);
        if state.waiting.contains(key) {
            state.order.push_back(key.clone());
            self.filled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    #[test]
    fn key_that_is_pushed_twice_is_returned_once() {
        let queue = Queue::default();
        queue.push(key("a"));
        queue.push(key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
        assert_eq!(queue.try_pop(), None);
    }

    #[test]
    fn key_that_is_pushed_during_processing_is_returned_afterwards() {
        let queue = Queue::default();
        queue.push(key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
        queue.push(key("a"));
        assert_eq!(queue.try_pop(), None, "not while it is processed");
        queue.done(&key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
    }
}
