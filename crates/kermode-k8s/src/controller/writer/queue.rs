//! A queue of keys in which each is at most once, and never handed out twice at the same time.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kermode_model::ObjectKey;
use tokio::sync::Notify;

/// The queue. Its size is bounded by the number of different keys.
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
    /// Adds a key unless it waits already. One that is being worked on is handed out again afterwards.
    pub(super) fn push(&self, key: ObjectKey) {
        let mut state = self.state();
        if state.waiting.insert(key.clone()) && !state.working.contains(&key) {
            state.order.push_back(key);
            self.filled.notify_one();
        }
    }

    /// Forgets the work under way, which has been cancelled; its keys wait again.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        let cancelled: Vec<_> = state.working.drain().collect();
        for key in cancelled {
            state.waiting.insert(key.clone());
            state.order.push_back(key);
        }
        self.filled.notify_one();
    }

    /// The next key; [`Queue::done`] must follow.
    pub(super) async fn pop(&self) -> ObjectKey {
        loop {
            if let Some(key) = self.try_pop() {
                return key;
            }
            self.filled.notified().await;
        }
    }

    fn try_pop(&self) -> Option<ObjectKey> {
        let mut state = self.state();
        let key = state.order.pop_front()?;
        state.waiting.remove(&key);
        state.working.insert(key.clone());
        Some(key)
    }

    /// Ends the work on a key.
    pub(super) fn done(&self, key: &ObjectKey) {
        let mut state = self.state();
        state.working.remove(key);
        if state.waiting.contains(key) {
            state.order.push_back(key.clone());
            self.filled.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    #[test]
    fn a_key_pushed_twice_is_handed_out_once() {
        let queue = Queue::default();
        queue.push(key("a"));
        queue.push(key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
        assert_eq!(queue.try_pop(), None);
    }

    #[test]
    fn a_key_pushed_while_being_worked_on_comes_again_afterwards() {
        let queue = Queue::default();
        queue.push(key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
        queue.push(key("a"));
        assert_eq!(queue.try_pop(), None, "not while it is being worked on");
        queue.done(&key("a"));
        assert_eq!(queue.try_pop(), Some(key("a")));
    }
}
