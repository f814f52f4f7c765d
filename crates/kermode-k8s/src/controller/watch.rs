//! One watch of one kind: objects are converted at once and only the result is kept, nothing of the object.
//!
//! A watch that breaks is resumed with back-off; after a new list, what has vanished meanwhile is reported as
//! gone. An object that cannot be decoded is skipped and logged and never stops the watch.

use std::collections::HashSet;

use futures::{Stream, StreamExt};
use kermode_model::ObjectKey;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;

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
pub enum Verdict<T> {
    /// This is kept of it.
    Keep(T),
    /// It does not matter; if it did before, it is told as gone.
    Ignore,
    /// It makes no sense as it is. What was told of it before stays in force: a typing mistake must not take a mesh
    /// down.
    Invalid,
}

impl<T> From<Option<T>> for Verdict<T> {
    fn from(kept: Option<T>) -> Self {
        kept.map_or(Self::Ignore, Self::Keep)
    }
}

/// Follows a watch until the receiver goes away.
///
/// `convert` says what becomes of each object, `wrap` makes the message for the receiver.
pub async fn follow<K, T, M>(
    kind: &'static str,
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
    convert: impl Fn(K) -> Verdict<T> + Send,
    wrap: impl Fn(Update<T>) -> M + Send,
    sink: mpsc::Sender<M>,
) where
    K: Resource + Send,
    T: Send,
    M: Send,
{
    let mut events = std::pin::pin!(events.default_backoff());
    let mut known = Known::default();
    while let Some(event) = events.next().await {
        let updates = match event {
            Ok(event) => known.on_event(event, &convert),
            Err(error) => {
                warn(kind, &error);
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
    convert: impl FnOnce(K) -> Verdict<T>,
) -> Verdict<T> {
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
            Verdict::Invalid
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

/// The keys that have been told, to know after a new list which have gone.
#[derive(Debug, Default)]
struct Known {
    told: HashSet<ObjectKey>,
    listed: Option<HashSet<ObjectKey>>,
    synced: bool,
}

impl Known {
    fn on_event<K: Resource, T>(
        &mut self,
        event: watcher::Event<K>,
        convert: impl Fn(K) -> Verdict<T>,
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
                self.on_object(key, Verdict::Ignore).into_iter().collect()
            }
            watcher::Event::InitDone => self.on_listed(),
        }
    }

    fn on_object<T>(&mut self, key: ObjectKey, object: Verdict<T>) -> Option<Update<T>> {
        match object {
            Verdict::Keep(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(key.clone());
                }
                self.told.insert(key.clone());
                Some(Update::Applied(key, object))
            }
            Verdict::Invalid => {
                if let Some(listed) = &mut self.listed
                    && self.told.contains(&key)
                {
                    listed.insert(key);
                }
                None
            }
            Verdict::Ignore => self.told.remove(&key).then_some(Update::Gone(key)),
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

    fn tell(known: &mut Known, event: watcher::Event<Namespace>) -> Vec<Update<()>> {
        known.on_event(event, |_| Verdict::Keep(()))
    }

    #[test]
    fn an_object_that_vanished_while_the_watch_was_broken_is_gone() {
        let mut known = Known::default();
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
        let mut known = Known::default();
        tell(&mut known, watcher::Event::Apply(mk_namespace("a")));
        let ignore = |_| Verdict::<()>::Ignore;
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
        let mut known = Known::default();
        tell(&mut known, watcher::Event::Apply(mk_namespace("a")));
        let invalid = |_| Verdict::<()>::Invalid;
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
