//! The open streams of each proxy and of all, counted from the moment that it is known who opens them: those of ADS, and
//! those by which departing sidecars are told how that stands.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kermode_model::ObjectKey;
use tokio::sync::oneshot;

/// The streams of all proxies. Proxies without any are not kept.
pub(crate) struct Streams {
    each: usize,
    total: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// Oldest first; whoever has the other end is told by dropping this one, or by a word to go elsewhere.
    streams: HashMap<ObjectKey, VecDeque<oneshot::Sender<()>>>,
    /// How many have a place, those included that are about to lose it.
    places: usize,
}

/// Why a stream has no place any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Another stream of the same proxy has taken it.
    Taken,
    /// The proxy is to be served by another replica.
    Elsewhere,
}

/// The place of one stream; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    key: ObjectKey,
    open: Arc<Mutex<Open>>,
    lost: oneshot::Receiver<()>,
}

impl Streams {
    /// So many of each proxy, and of all together.
    pub(crate) fn new(each: usize, total: usize) -> Self {
        Self {
            each: each.max(1),
            total: total.max(1),
            open: Arc::default(),
        }
    }

    /// Takes a place, the proxy's oldest stream's if there is none left for it: that one may be of a connection that
    /// broke unnoticed.
    ///
    /// # Errors
    /// When all proxies together have no place left and this one has none to give up, with how many they have.
    pub(crate) fn enter(&self, key: &ObjectKey) -> Result<Place, usize> {
        let (sender, lost) = oneshot::channel();
        let mut open = lock(&self.open);
        let full = open.places >= self.total;
        if full && !open.streams.contains_key(key) {
            return Err(self.total);
        }
        open.places += 1;
        let streams = open.streams.entry(key.clone()).or_default();
        if full || streams.len() >= self.each {
            streams.pop_front();
        }
        streams.push_back(sender);
        Ok(Place {
            key: key.clone(),
            open: self.open.clone(),
            lost,
        })
    }

    /// How many proxies have places.
    pub(crate) fn proxies(&self) -> usize {
        lock(&self.open).streams.len()
    }

    /// Sends so many proxies elsewhere, whichever they are; how many there were.
    pub(crate) fn send_elsewhere(&self, count: usize) -> usize {
        let mut open = lock(&self.open);
        // Not always the same ones, should they come back.
        let start = fastrand::usize(..=open.streams.len());
        let (before, after) = (open.streams.keys().take(start), open.streams.keys().skip(start));
        let some: Vec<_> = after.chain(before).take(count).cloned().collect();
        for key in &some {
            for stream in open.streams.remove(key).into_iter().flatten() {
                // One that has ended meanwhile need not be told.
                let _ = stream.send(());
            }
        }
        some.len()
    }
}

impl Place {
    /// Completes when the place is lost.
    pub(crate) async fn lost(&mut self) -> Lost {
        match (&mut self.lost).await {
            Ok(()) => Lost::Elsewhere,
            // The other end was dropped.
            Err(_) => Lost::Taken,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lost.close();
        let mut open = lock(&self.open);
        open.places -= 1;
        if let Some(streams) = open.streams.get_mut(&self.key) {
            streams.retain(|sender| !sender.is_closed());
            if streams.is_empty() {
                open.streams.remove(&self.key);
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
        let streams = Streams::new(2, 100);
        let key = ObjectKey::new("shop", "web-0");
        let enter = |key: &ObjectKey| streams.enter(key).expect("there is room");
        let mut first = enter(&key);
        let second = enter(&key);
        let _other = enter(&ObjectKey::new("shop", "web-1"));
        assert!(futures::poll!(std::pin::pin!(first.lost())).is_pending());
        drop(second);
        let mut third = enter(&key);
        assert!(futures::poll!(std::pin::pin!(first.lost())).is_pending());
        let fourth = enter(&key);
        assert_eq!(first.lost().await, Lost::Taken);
        drop(first);
        assert!(futures::poll!(std::pin::pin!(third.lost())).is_pending());
        drop((third, fourth));
        assert_eq!(lock(&streams.open).streams.len(), 1);
        assert_eq!(lock(&streams.open).places, 1);
    }

    #[tokio::test]
    async fn whoever_is_sent_elsewhere_is_told_once_and_may_come_back() {
        let streams = Streams::new(2, 100);
        let key = ObjectKey::new("shop", "web-0");
        let mut place = streams.enter(&key).expect("there is room");
        assert_eq!(streams.send_elsewhere(5), 1);
        assert_eq!(streams.send_elsewhere(5), 0);
        assert_eq!(place.lost().await, Lost::Elsewhere);
        let again = streams.enter(&key).expect("there is room");
        drop(place);
        assert_eq!(lock(&streams.open).places, 1);
        assert_eq!(lock(&streams.open).streams[&key].len(), 1);
        drop(again);
        assert_eq!(streams.proxies(), 0);
        assert_eq!(lock(&streams.open).places, 0);
    }

    #[test]
    fn all_together_have_so_many_and_get_one_back_with_each_end() {
        let streams = Streams::new(2, 3);
        let key = |number: usize| ObjectKey::new("shop", number.to_string());
        let mut places: Vec<_> = (0..3)
            .map(|number| streams.enter(&key(number)).expect("there is room"))
            .collect();
        assert_eq!(streams.enter(&key(3)).err(), Some(3));
        let again = streams.enter(&key(2)).expect("the place of its older stream");
        assert_eq!(lock(&streams.open).streams[&key(2)].len(), 1);
        drop(again);
        places.pop();
        assert!(streams.enter(&key(3)).is_ok());
    }
}
