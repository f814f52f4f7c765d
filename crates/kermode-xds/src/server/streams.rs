//! The open streams of each proxy, counted from the moment that it is known who opens them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kermode_model::ObjectKey;
use tokio::sync::oneshot;

/// The streams of all proxies. Proxies without any are not kept.
pub(super) struct Streams {
    limit: usize,
    open: Arc<Mutex<Open>>,
}

/// Oldest first; whoever has the other end is told by dropping this one.
type Open = HashMap<ObjectKey, VecDeque<oneshot::Sender<()>>>;

/// The place of one stream; free again when dropped.
pub(super) struct Place {
    key: ObjectKey,
    open: Arc<Mutex<Open>>,
    lost: oneshot::Receiver<()>,
}

impl Streams {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            open: Arc::default(),
        }
    }

    /// Takes a place, the oldest stream's if there is none left: that one may be of a connection that broke unnoticed.
    pub(super) fn enter(&self, key: &ObjectKey) -> Place {
        let (sender, lost) = oneshot::channel();
        let mut open = lock(&self.open);
        let streams = open.entry(key.clone()).or_default();
        streams.push_back(sender);
        if streams.len() > self.limit {
            streams.pop_front();
        }
        Place {
            key: key.clone(),
            open: self.open.clone(),
            lost,
        }
    }
}

impl Place {
    /// Completes when another stream has taken the place.
    pub(super) async fn lost(&mut self) {
        // Nobody sends: an error is the sign.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lost.close();
        let mut open = lock(&self.open);
        if let Some(streams) = open.get_mut(&self.key) {
            streams.retain(|sender| !sender.is_closed());
            if streams.is_empty() {
                open.remove(&self.key);
            }
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_stream_makes_room_and_nothing_is_kept_of_the_gone() {
        let streams = Streams::new(2);
        let key = ObjectKey::new("shop", "web-0");
        let mut first = streams.enter(&key);
        let second = streams.enter(&key);
        let _other = streams.enter(&ObjectKey::new("shop", "web-1"));
        assert!(futures::poll!(std::pin::pin!(first.lost())).is_pending());
        drop(second);
        let mut third = streams.enter(&key);
        assert!(futures::poll!(std::pin::pin!(first.lost())).is_pending());
        let fourth = streams.enter(&key);
        first.lost().await;
        drop(first);
        assert!(futures::poll!(std::pin::pin!(third.lost())).is_pending());
        drop((third, fourth));
        assert_eq!(lock(&streams.open).len(), 1);
    }
}
