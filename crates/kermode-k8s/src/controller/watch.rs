//! One watch of one kind: objects are converted at once and only the result is kept, nothing of the object.
//!
//! A watch that breaks is resumed with back-off ([`WatchBackoff`]); after a new list, what has vanished meanwhile is reported as
//! gone. An object that cannot be decoded is skipped and logged and never stops the watch.

use std::collections::HashSet;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kermode_model::ObjectKey;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::failure::describe;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Update<T> {
    /// An object is there, or changed.
    Applied(ObjectKey, T),
    /// An object has gone.
    Gone(ObjectKey),
    /// All objects of the first list have been told.
    Synced,
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion<T> {
    /// This is kept of it.
    Keep(T),
    /// It does not matter; if it did before, it is told as gone.
    Ignore,
    /// It makes no sense as it is. What was told of it before stays in force: a typing mistake must not take a mesh
    /// down.
    Invalid,
}

impl<T> From<Option<T>> for Conversion<T> {
    fn from(kept: Option<T>) -> Self {
        kept.map_or(Self::Ignore, Self::Keep)
    }
}

/// How many objects of a first list are read at once. What is kept of an object lies between what is dropped of its
/// neighbours, so the size of a page is what a list leaves behind in the heap.
const PAGE: u32 = 100;

/// How long the API server keeps a watch, in seconds, before it is asked again from where it ended. It sends no bookmarks
/// for a kind of which it has not seen a change, so a longer silence would be taken for its own (`SILENCE`).
const WATCH: u32 = 80;

/// What all watches have in common: first lists in small pages, and an end before a silence means anything.
pub fn watch_config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH)
}

/// Follows a watch until the receiver goes away.
///
/// `convert` says what becomes of each object, `wrap` makes the message for the receiver.
pub async fn follow<K, T, M>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    convert: impl Fn(K) -> Conversion<T> + Send,
    wrap: impl Fn(Update<T>) -> M + Send,
    sink: mpsc::Sender<M>,
) where
    K: Resource + Send,
    T: Send,
    M: Send,
{
    let mut events = std::pin::pin!(events.backoff(WatchBackoff::default()));
    let mut known = KnownKeys::default();
    let mut complained: Option<Instant> = None;
    while let Some(event) = events.next().await {
        let updates = match event {
            Ok(event) => known.on_event(event, &convert),
            Err(error) => {
                if complained.is_none_or(|last| last.elapsed() >= COMPLAIN) {
                    complained = Some(Instant::now());
                    warn(kind, &error);
                }
                continue;
            }
        };
        for update in updates {
            if sink.send(wrap(update)).await.is_err() {
                return;
            }
        }
    }
}

/// Converts an object that may not have been decodable; the log names one that was not.
pub fn decoded<K, T>(
    kind: &'static str,
    object: DeserializeGuard<K>,
    convert: impl FnOnce(K) -> Conversion<T>,
) -> Conversion<T> {
    match object.0 {
        Ok(object) => convert(object),
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            tracing::warn!(
                kind,
                namespace,
                name,
                error = invalid.error,
                "object not used: it cannot be decoded"
            );
            Conversion::Invalid
        }
    }
}

/// Namespace (empty for cluster-scoped objects) and name.
pub fn key(object: &impl Resource) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

fn warn(kind: &'static str, error: &watcher::Error) {
    let reason = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe(&format!("{kind} cannot be watched"), error),
        // 410 Gone is how the API server asks for a new list; nothing is wrong.
        watcher::Error::WatchError(status) if status.code == 410 => return,
        other => format!("{kind} cannot be watched: {other}"),
    };
    tracing::warn!(kind, "{reason}; retrying");
}

/// The wait before the first new attempt, at most.
const FIRST: Duration = Duration::from_secs(1);
/// Between two attempts, at most. kube's own waits grow to a minute, and for so long after the API server is back no new
/// Pod would reach a sidecar; an attempt is one small request.
const LONGEST: Duration = Duration::from_secs(5);
/// A watch that held for so long has recovered.
const STABLE: Duration = Duration::from_secs(30);

/// Between two lines of log about a watch that fails: all of them do when the API server is away.
const COMPLAIN: Duration = Duration::from_mins(1);

/// How long to wait before a watch is tried again: at most a second, doubled each time, at most 5 s, and at least half of
/// that, so that replicas and watches do not come together.
#[derive(Debug, Default)]
struct WatchBackoff {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let last = self.last.replace(Instant::now());
        if last.is_some_and(|last| last.elapsed() > STABLE) {
            self.failures = 0;
        }
        let full = FIRST.saturating_mul(1 << self.failures.min(8)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        Some(full.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    /// Every attempt tells that it begins, so a success has to last to be one.
    fn reset(&mut self) {}
}

/// The keys that have been told, to know after a new list which have gone.
#[derive(Debug, Default)]
struct KnownKeys {
    told: HashSet<ObjectKey>,
    listed: Option<HashSet<ObjectKey>>,
    synced: bool,
}

impl KnownKeys {
    fn on_event<K: Resource, T>(
        &mut self,
        event: watcher::Event<K>,
        convert: impl Fn(K) -> Conversion<T>,
    ) -> Vec<Update<T>> {
        match event {
            watcher::Event::Init => {
                self.listed = Some(HashSet::new());
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let key = key(&object);
                self.on_object(key, convert(object)).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                let key = key(&object);
                self.on_object(key, Conversion::Ignore).into_iter().collect()
            }
            watcher::Event::InitDone => self.on_listed(),
        }
    }

    fn on_object<T>(&mut self, key: ObjectKey, object: Conversion<T>) -> Option<Update<T>> {
        match object {
            Conversion::Keep(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.told.insert(key.clone());
                Some(Update::Applied(key, object))
            }
            Conversion::Invalid => {
                if let Some(listed) = &mut self.listed
                    && self.told.contains(&key)
                {
                    listed.insert(key);
                }
                None
            }
            Conversion::Ignore => self.told.remove(&key).then_some(Update::Gone(key)),
        }
    }

    fn on_listed<T>(&mut self) -> Vec<Update<T>> {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<_> = self
            .told
            .iter()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        self.told = listed;
        let mut updates: Vec<_> = gone.into_iter().map(Update::Gone).collect();
        if !self.synced {
            self.synced = true;
            updates.push(Update::Synced);
        }
        updates
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::core::ObjectMeta;

    use super::*;

    fn mk_namespace(name: &str) -> Namespace {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        Namespace {
            metadata,
            ..Namespace::default()
        }
    }

    fn gone(name: &str) -> Update<()> {
        Update::Gone(ObjectKey::new("", name))
    }

    fn applied(name: &str) -> Update<()> {
        Update::Applied(ObjectKey::new("", name), ())
    }

    fn tell(known: &mut KnownKeys, event: watcher::Event<Namespace>) -> Vec<Update<()>> {
        known.on_event(event, |_| Conversion::Keep(()))
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_outage_a_watch_is_tried_again_within_seconds() {
        let start = tokio::time::Instant::now();
        let outage = Duration::from_mins(10);
        let tries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = tries.clone();
        // As kube's watcher: each attempt is announced, and fails for ten minutes.
        let events = futures::stream::unfold(false, move |announced| {
            let tries = counted.clone();
            async move {
                if !announced {
                    return Some((Ok(watcher::Event::<Namespace>::Init), true));
                }
                tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if start.elapsed() < outage {
                    Some((Err(watcher::Error::NoResourceVersion), false))
                } else {
                    Some((Ok(watcher::Event::InitDone), false))
                }
            }
        });
        // Then it is quiet.
        let events = events.scan(false, |ended, event| {
            let is_end = matches!(event, Ok(watcher::Event::InitDone));
            let is_over = std::mem::replace(ended, is_end);
            std::future::ready((!is_over).then_some(event))
        });
        let events = events.chain(futures::stream::pending());
        let (sink, mut updates) = mpsc::channel(1);
        let following = tokio::spawn(follow(
            "namespaces",
            events,
            |_| Conversion::Keep(()),
            |update| update,
            sink,
        ));
        assert_eq!(updates.recv().await, Some(Update::Synced));
        let late = start.elapsed().saturating_sub(outage);
        assert!(late <= LONGEST, "{late:?}");
        let tries = tries.load(std::sync::atomic::Ordering::Relaxed);
        assert!((120..=250).contains(&tries), "{tries} attempts in ten minutes");
        following.abort();
    }

    #[test]
    fn an_object_that_vanished_while_the_watch_was_broken_is_gone() {
        let mut known = KnownKeys::default();
        tell(&mut known, watcher::Event::Init);
        assert_eq!(
            tell(&mut known, watcher::Event::InitApply(mk_namespace("a"))),
            [applied("a")]
        );
        assert_eq!(
            tell(&mut known, watcher::Event::InitApply(mk_namespace("b"))),
            [applied("b")]
        );
        assert_eq!(tell(&mut known, watcher::Event::InitDone), [Update::Synced]);
        tell(&mut known, watcher::Event::Init);
        tell(&mut known, watcher::Event::InitApply(mk_namespace("b")));
        assert_eq!(
            tell(&mut known, watcher::Event::InitDone),
            [gone("a")],
            "synced is told once"
        );
    }

    #[test]
    fn an_object_that_stops_mattering_is_gone_once() {
        let mut known = KnownKeys::default();
        tell(&mut known, watcher::Event::Apply(mk_namespace("a")));
        let ignore = |_| Conversion::<()>::Ignore;
        assert_eq!(
            known.on_event(watcher::Event::Apply(mk_namespace("a")), ignore),
            [gone("a")]
        );
        assert_eq!(
            known.on_event(watcher::Event::Apply(mk_namespace("a")), ignore),
            []
        );
        assert_eq!(tell(&mut known, watcher::Event::Delete(mk_namespace("a"))), []);
    }

    #[test]
    fn an_object_that_becomes_invalid_stays_as_it_was() {
        let mut known = KnownKeys::default();
        tell(&mut known, watcher::Event::Apply(mk_namespace("a")));
        let invalid = |_| Conversion::<()>::Invalid;
        assert_eq!(
            known.on_event(watcher::Event::Apply(mk_namespace("a")), invalid),
            []
        );
        known.on_event(watcher::Event::Init, invalid);
        known.on_event(watcher::Event::InitApply(mk_namespace("a")), invalid);
        assert_eq!(
            known.on_event(watcher::Event::InitDone, invalid),
            [Update::Synced],
            "not gone"
        );
        assert_eq!(
            tell(&mut known, watcher::Event::Delete(mk_namespace("a"))),
            [gone("a")]
        );
    }
}
