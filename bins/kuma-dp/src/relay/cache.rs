//! The last good configuration: what Envoy acknowledged last of each resource, so that an Envoy that starts again has a
//! configuration when the control plane has none for it. In memory only, and without secrets: those come by SDS.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

/// How much is kept, in bytes. Far more than a sidecar has that learns what it uses; together with `kuma-dp` itself it
/// stays within what a sidecar's request for memory allows for.
pub(crate) const LIMIT: usize = 8 << 20;
/// What an entry costs beside its texts: keys, pointers, the table's slot.
const OVERHEAD: usize = 128;

/// A resource as the control plane sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its version.
    pub(super) version: Arc<str>,
    /// The encoded `Resource`, name and version included.
    pub(super) encoded: Bytes,
}

/// What Envoy was told of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// This.
    Present(Item),
    /// That there is no such resource.
    Absent,
}

/// The configuration by kind (type URL) and name.
#[derive(Debug)]
pub(crate) struct Cache {
    kinds: HashMap<Arc<str>, Kind>,
    bytes: usize,
    limit: usize,
    /// It was too much once; nothing is kept until Envoy starts from nothing again.
    given_up: bool,
}

#[derive(Debug, Default)]
struct Kind {
    entries: HashMap<Arc<str>, Entry>,
    /// Whether it holds all that a subscription to everything got.
    is_complete: bool,
}

// === impl Entry ===

impl Entry {
    fn size(&self, name: &str) -> usize {
        let content = match self {
            Self::Present(item) => item.version.len() + item.encoded.len(),
            Self::Absent => 0,
        };
        OVERHEAD + name.len() + content
    }
}

// === impl Cache ===

impl Cache {
    /// An empty cache that holds at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            kinds: HashMap::new(),
            bytes: 0,
            limit,
            given_up: false,
        }
    }

    /// What there is of a name.
    pub(super) fn get(&self, kind: &str, name: &str) -> Option<&Entry> {
        self.kinds.get(kind)?.entries.get(name)
    }

    /// All resources of a kind, when these are all that a subscription to everything has to get.
    pub(super) fn all(&self, kind: &str) -> Option<impl Iterator<Item = (&Arc<str>, &Item)>> {
        let kind = self.kinds.get(kind).filter(|kind| kind.is_complete)?;
        Some(kind.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Present(item) => Some((name, item)),
            Entry::Absent => None,
        }))
    }

    /// Remembers what Envoy has acknowledged.
    pub(super) fn put(&mut self, kind: &Arc<str>, name: Arc<str>, entry: Entry) {
        if self.given_up {
            return;
        }
        self.bytes += entry.size(&name);
        let entries = &mut self.kinds.entry(kind.clone()).or_default().entries;
        if let Some(old) = entries.insert(name.clone(), entry) {
            self.bytes -= old.size(&name);
        }
    }

    /// Forgets a resource.
    pub(super) fn forget(&mut self, kind: &str, name: &str) {
        let entries = self.kinds.get_mut(kind).map(|kind| &mut kind.entries);
        if let Some(old) = entries.and_then(|entries| entries.remove(name)) {
            self.bytes -= old.size(name);
        }
    }

    /// Forgets the resources of a kind that are not to be kept.
    pub(super) fn retain(&mut self, kind: &str, keep: impl Fn(&str) -> bool) {
        let Some(kind) = self.kinds.get_mut(kind) else {
            return;
        };
        let mut freed = 0;
        kind.entries.retain(|name, entry| {
            let kept = keep(name);
            freed += if kept { 0 } else { entry.size(name) };
            kept
        });
        self.bytes -= freed;
    }

    /// Says that what there is of a kind is all that a subscription to everything gets.
    pub(super) fn complete(&mut self, kind: &Arc<str>) {
        if !self.given_up {
            self.kinds.entry(kind.clone()).or_default().is_complete = true;
        }
    }

    /// Whether it is more than allowed.
    pub(super) fn is_over(&self) -> bool {
        self.bytes > self.limit
    }

    /// Forgets everything and keeps nothing any more: with half of a configuration Envoy would wait for the rest.
    pub(super) fn give_up(&mut self) {
        tracing::warn!(
            bytes = self.bytes,
            limit = self.limit,
            "the configuration is too large to be kept: an Envoy that starts again needs the control plane; let this \
             proxy reach fewer services"
        );
        self.kinds.clear();
        self.bytes = 0;
        self.given_up = true;
    }

    /// Envoy has nothing and will be sent everything: a new chance to keep it.
    pub(super) fn try_again(&mut self) {
        self.given_up = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_entry(size: usize) -> Entry {
        Entry::Present(Item {
            version: "1".into(),
            encoded: vec![0; size].into(),
        })
    }

    #[test]
    fn what_is_counted_is_what_is_there() {
        let mut cache = Cache::new(10_000);
        let kind: Arc<str> = "kind".into();
        for size in [1000, 3000, 2000] {
            cache.put(&kind, "a".into(), mk_entry(size));
        }
        cache.put(&kind, "b".into(), Entry::Absent);
        assert_eq!(cache.bytes, 2000 + 2 + OVERHEAD + 1 + OVERHEAD);
        cache.forget("kind", "b");
        cache.forget("kind", "b");
        cache.forget("other", "a");
        cache.retain("kind", |name| name != "a");
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn only_a_complete_kind_answers_for_everything() {
        let mut cache = Cache::new(10_000);
        let kind: Arc<str> = "kind".into();
        cache.put(&kind, "a".into(), mk_entry(1));
        cache.put(&kind, "gone".into(), Entry::Absent);
        assert!(cache.all("kind").is_none());
        cache.complete(&kind);
        let names: Vec<_> = cache
            .all("kind")
            .into_iter()
            .flatten()
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn too_much_is_given_up_as_a_whole_until_envoy_starts_from_nothing() {
        let mut cache = Cache::new(1000);
        let kind: Arc<str> = "kind".into();
        cache.put(&kind, "a".into(), mk_entry(500));
        cache.complete(&kind);
        assert!(!cache.is_over());
        cache.put(&kind, "b".into(), mk_entry(500));
        assert!(cache.is_over());
        cache.give_up();
        cache.put(&kind, "c".into(), mk_entry(1));
        cache.complete(&kind);
        assert_eq!((cache.bytes, cache.get("kind", "a")), (0, None));
        assert!(cache.all("kind").is_none());
        cache.try_again();
        cache.put(&kind, "c".into(), mk_entry(1));
        assert!(cache.get("kind", "c").is_some());
    }
}
