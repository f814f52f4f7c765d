//! Watches one kind of object. Each object is converted on receipt; only the result is reported.
//!
//! A failed watch is resumed after a backoff ([`WatchBackoff`]). If the objects are then listed again, objects that are
//! missing from the list are reported as gone. An object that cannot be decoded is logged and skipped.

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

/// Change reported by a watch. An object is relevant if its conversion returns [`Conversion::Keep`].
#[derive(Clone, Debug, PartialEq)]
pub enum Update<T> {
    /// A relevant object exists or has changed.
    Applied(ObjectKey, T),
    /// An object no longer exists, or is no longer relevant.
    Gone(ObjectKey),
    /// All objects of the first list have been reported.
    Synced,
}

/// Result of converting an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion<T> {
    /// The object is relevant. This value is reported.
    Keep(T),
    /// The object is not relevant. If it was reported before, it is reported as gone.
    Ignore,
    /// The object is invalid. Nothing is reported, so its last valid state stays in use.
    Invalid,
}

impl<T> From<Option<T>> for Conversion<T> {
    fn from(kept: Option<T>) -> Self {
        kept.map_or(Self::Ignore, Self::Keep)
    }
}

/// Number of objects per page of a list. Large pages would fragment the heap, because objects are dropped but their
/// conversion results are kept.
const PAGE_SIZE: u32 = 100;

/// Duration of a watch request in seconds. Another request then resumes the watch. Must be shorter than the client's
/// read timeout, because the API server sends nothing, not even bookmarks, for a kind without changes.
const WATCH_TIMEOUT_SECONDS: u32 = 80;

/// Returns the common configuration of all watches: small pages, and a duration below the client's read timeout.
pub fn watch_config() -> watcher::Config {
    watcher::Config::default()
        .page_size(PAGE_SIZE)
        .timeout(WATCH_TIMEOUT_SECONDS)
}

/// Sends the updates of a watch to `sink` until the receiver is dropped.
///
/// `events` is the stream of kube's watcher. `convert` converts each object. `wrap` builds the message for `sink`.
/// `kind` names the objects in logs.
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
    let mut last_warning: Option<Instant> = None;
    while let Some(event) = events.next().await {
        let updates = match event {
            Ok(event) => known.on_event(event, &convert),
            Err(error) => {
                if is_failure(&error) && last_warning.is_none_or(|last| last.elapsed() >= WARN_INTERVAL) {
                    last_warning = Some(Instant::now());
                    log_failure(kind, &error);
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

/// Converts an object. If the object could not be decoded, logs a warning and returns [`Conversion::Invalid`].
pub fn convert_if_decoded<K, T>(
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
                "object cannot be decoded; its last valid version, if any, stays in use"
            );
            Conversion::Invalid
        }
    }
}

/// Returns the namespace (empty for a cluster-scoped object) and the name of an object.
pub fn key_of(object: &impl Resource) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// Returns false for 410 Gone, with which the API server requests a new list.
fn is_failure(error: &watcher::Error) -> bool {
    !matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

fn log_failure(kind: &'static str, error: &watcher::Error) {
    let reason = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe(&format!("{kind} cannot be watched"), error),
        other => format!("{kind} cannot be watched: {other}"),
    };
    tracing::warn!(kind, "{reason}; retrying");
}

/// Pause after the first failure, before jitter shortens it.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Maximum pause, before jitter shortens it. Shorter than kube's default of a minute, because no change reaches a
/// sidecar before the watch is resumed.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Time without a failure after which the backoff is reset.
const BACKOFF_RESET: Duration = Duration::from_secs(30);

/// Minimum interval between warnings about one failing watch.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// Backoff of a failed watch. The pause doubles from [`FIRST_BACKOFF`] to [`MAX_BACKOFF`]. Jitter shortens each pause
/// by up to half, so that replicas and watches do not retry at the same time.
#[derive(Debug, Default)]
struct WatchBackoff {
    /// Number of failures since the last reset.
    failures: u32,
    /// Time of the last failure.
    last_failure: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let last_failure = self.last_failure.replace(Instant::now());
        if last_failure.is_some_and(|last| last.elapsed() > BACKOFF_RESET) {
            self.failures = 0;
        }
        let pause_before_jitter = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(8))
            .min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        Some(pause_before_jitter.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    /// Does nothing, because kube calls this method at the start of each attempt, before the attempt has succeeded.
    /// [`WatchBackoff`] resets itself after [`BACKOFF_RESET`].
    fn reset(&mut self) {}
}

/// Keys of the reported objects. Each new list is compared with these keys, to find the objects that are gone.
#[derive(Debug, Default)]
struct KnownKeys {
    reported: HashSet<ObjectKey>,
    /// Keys of the list that is being received; `None` while no list is being received.
    listed: Option<HashSet<ObjectKey>>,
    /// Whether [`Update::Synced`] has been reported.
    is_synced: bool,
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
                let key = key_of(&object);
                self.on_object(key, convert(object)).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                let key = key_of(&object);
                self.on_object(key, Conversion::Ignore).into_iter().collect()
            }
            watcher::Event::InitDone => self.on_list_complete(),
        }
    }

    fn on_object<T>(&mut self, key: ObjectKey, conversion: Conversion<T>) -> Option<Update<T>> {
        match conversion {
            Conversion::Keep(converted) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.reported.insert(key.clone());
                Some(Update::Applied(key, converted))
            }
            Conversion::Invalid => {
                if let Some(listed) = &mut self.listed
                    && self.reported.contains(&key)
                {
                    listed.insert(key);
                }
                None
            }
            Conversion::Ignore => self.reported.remove(&key).then_some(Update::Gone(key)),
        }
    }

    fn on_list_complete<T>(&mut self) -> Vec<Update<T>> {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<_> = self
            .reported
            .iter()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        self.reported = listed;
        let mut updates: Vec<_> = gone.into_iter().map(Update::Gone).collect();
        if !self.is_synced {
            self.is_synced = true;
            updates.push(Update::Synced);
        }
        updates
    }
}

/// Follows a watch and reports only the keys of its objects.
#[cfg(test)]
pub(super) async fn follow_unconverted<K: Resource + Send>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    sink: mpsc::Sender<Update<()>>,
) {
    follow("objects", events, |_| Conversion::Keep(()), |update| update, sink).await;
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

    fn on_event(known: &mut KnownKeys, event: watcher::Event<Namespace>) -> Vec<Update<()>> {
        known.on_event(event, |_| Conversion::Keep(()))
    }

    #[tokio::test(start_paused = true)]
    async fn watch_is_resumed_within_seconds_after_a_long_outage() {
        let start = tokio::time::Instant::now();
        let outage = Duration::from_mins(10);
        let attempts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let attempt_counter = attempts.clone();
        // Behaves like kube's watcher: each attempt starts with `Init`. Attempts fail for ten minutes.
        let events = futures::stream::unfold(false, move |init_sent| {
            let attempts = attempt_counter.clone();
            async move {
                if !init_sent {
                    return Some((Ok(watcher::Event::<Namespace>::Init), true));
                }
                attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if start.elapsed() < outage {
                    Some((Err(watcher::Error::NoResourceVersion), false))
                } else {
                    Some((Ok(watcher::Event::InitDone), false))
                }
            }
        });
        // No events follow the first `InitDone`.
        let events = events.scan(false, |is_done, event| {
            let was_done = std::mem::replace(is_done, matches!(event, Ok(watcher::Event::InitDone)));
            std::future::ready((!was_done).then_some(event))
        });
        let events = events.chain(futures::stream::pending());
        let (sink, mut updates) = mpsc::channel(1);
        let following = tokio::spawn(follow_unconverted(events, sink));
        assert_eq!(updates.recv().await, Some(Update::Synced));
        let delay = start.elapsed().saturating_sub(outage);
        assert!(
            delay <= MAX_BACKOFF,
            "the watch resumed {delay:?} after the outage"
        );
        let attempts = attempts.load(std::sync::atomic::Ordering::Relaxed);
        // Jitter shortens the pause of 5 s to 2.5 s at the least.
        assert!(
            (120..=250).contains(&attempts),
            "{attempts} attempts in ten minutes"
        );
        following.abort();
    }

    #[test]
    fn request_for_a_new_list_is_not_a_failure() {
        let error = |code| {
            let status = kube::core::Status {
                code,
                ..kube::core::Status::default()
            };
            watcher::Error::WatchError(status.boxed())
        };
        assert!(!is_failure(&error(410)));
        assert!(is_failure(&error(500)));
    }

    #[test]
    fn object_that_is_missing_from_a_new_list_is_reported_as_gone() {
        let mut known = KnownKeys::default();
        on_event(&mut known, watcher::Event::Init);
        assert_eq!(
            on_event(&mut known, watcher::Event::InitApply(mk_namespace("a"))),
            [applied("a")]
        );
        assert_eq!(
            on_event(&mut known, watcher::Event::InitApply(mk_namespace("b"))),
            [applied("b")]
        );
        assert_eq!(on_event(&mut known, watcher::Event::InitDone), [Update::Synced]);
        on_event(&mut known, watcher::Event::Init);
        on_event(&mut known, watcher::Event::InitApply(mk_namespace("b")));
        assert_eq!(
            on_event(&mut known, watcher::Event::InitDone),
            [gone("a")],
            "`Synced` must be reported once only"
        );
    }

    #[test]
    fn object_that_becomes_irrelevant_is_reported_as_gone_once() {
        let mut known = KnownKeys::default();
        on_event(&mut known, watcher::Event::Apply(mk_namespace("a")));
        let ignore = |_| Conversion::<()>::Ignore;
        assert_eq!(
            known.on_event(watcher::Event::Apply(mk_namespace("a")), ignore),
            [gone("a")]
        );
        assert_eq!(
            known.on_event(watcher::Event::Apply(mk_namespace("a")), ignore),
            []
        );
        assert_eq!(
            on_event(&mut known, watcher::Event::Delete(mk_namespace("a"))),
            []
        );
    }

    #[test]
    fn object_that_becomes_invalid_is_not_reported_as_gone() {
        let mut known = KnownKeys::default();
        on_event(&mut known, watcher::Event::Apply(mk_namespace("a")));
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
            "an invalid object must not be reported as gone"
        );
        assert_eq!(
            on_event(&mut known, watcher::Event::Delete(mk_namespace("a"))),
            [gone("a")]
        );
    }
}
