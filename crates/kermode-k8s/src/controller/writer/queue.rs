//! Work queue of the keys of Dataplanes. A key is queued at most once, and no key is processed by two tasks at
//! the same time.

use std::collections::{HashSet, VecDeque};

use kermode_model::ObjectKey;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Work queue, bounded by the number of distinct keys.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Notified when a key is ready to be processed.
    key_ready: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Keys that are ready to be processed.
    ready: VecDeque<ObjectKey>,
    /// Queued keys: all keys in `ready`, and keys that were pushed again while they are being processed.
    queued: HashSet<ObjectKey>,
    /// Keys that are being processed.
    processing: HashSet<ObjectKey>,
}

impl Queue {
    /// Queues a key unless it is queued already. A key that is being processed becomes ready again afterwards.
    pub(super) fn push(&self, key: ObjectKey) {
        let mut state = self.state.lock();
        if state.queued.insert(key.clone()) && !state.processing.contains(&key) {
            state.ready.push_back(key);
            self.key_ready.notify_one();
        }
    }

    /// Queues the keys that were being processed when their tasks were cancelled. Must be called before new tasks take
    /// keys.
    pub(super) fn requeue_cancelled(&self) {
        let mut state = self.state.lock();
        let cancelled: Vec<_> = state.processing.drain().collect();
        for key in cancelled {
            state.queued.insert(key.clone());
            state.ready.push_back(key);
        }
        self.key_ready.notify_one();
    }

    /// Returns the next key, and marks it as being processed until [`Queue::done`] is called.
    pub(super) async fn pop(&self) -> ObjectKey {
        loop {
            if let Some(key) = self.try_pop() {
                return key;
            }
            self.key_ready.notified().await;
        }
    }

    fn try_pop(&self) -> Option<ObjectKey> {
        let mut state = self.state.lock();
        let key = state.ready.pop_front()?;
        state.queued.remove(&key);
        state.processing.insert(key.clone());
        Some(key)
    }

    /// Marks a key as processed. If the key was pushed again during the processing, it becomes ready.
    pub(super) fn done(&self, key: &ObjectKey) {
        let mut state = self.state.lock();
        state.processing.remove(key);
        if state.queued.contains(key) {
            state.ready.push_back(key.clone());
            self.key_ready.notify_one();
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
        assert_eq!(
            queue.try_pop(),
            None,
            "a key must not be processed by two tasks at the same time"
        );
        queue.done(&key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
    }
}
