//! Cache of acknowledged resources, from which a restarted Envoy is configured while the control plane does not
//! respond. The cache exists in memory only. It contains no secrets: Envoy gets secrets by SDS.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

/// Limit on the cache, in bytes. With a full cache, the agent stays within the memory request of a sidecar.
pub(crate) const LIMIT: usize = 8 << 20;
/// Estimated memory of an entry besides its contents, in bytes: pointers and the slot of the table.
const ENTRY_OVERHEAD: usize = 128;

/// Resource as the control plane sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EncodedResource {
    /// Version of the resource.
    pub(super) version: Arc<str>,
    /// Encoded `Resource`, including name and version.
    pub(super) encoded: Bytes,
    /// Whether Envoy subscribed to the name of the resource, as it does for a resource on demand. The control plane
    /// removes such a resource from a proxy that does not subscribe to it.
    pub(super) is_subscribed_by_name: bool,
}

/// Acknowledged state of one resource name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The resource exists.
    Present(EncodedResource),
    /// The resource does not exist.
    Absent,
}

/// Acknowledged resources by type URL and name.
#[derive(Debug)]
pub(crate) struct Cache {
    types: HashMap<Arc<str>, CachedType>,
    /// Size of all entries, in bytes.
    bytes: usize,
    /// Limit on `bytes`.
    limit: usize,
    /// Whether the cache is disabled. Exceeding the limit disables the cache; an Envoy that starts without resources
    /// enables the cache.
    is_disabled: bool,
}

/// Acknowledged resources of one type.
#[derive(Debug, Default)]
struct CachedType {
    entries: HashMap<Arc<str>, Entry>,
    /// Whether the entries include every resource of a wildcard subscription.
    is_complete: bool,
}

// === impl Entry ===

impl Entry {
    fn size(&self, name: &str) -> usize {
        let content = match self {
            Self::Present(item) => item.version.len() + item.encoded.len(),
            Self::Absent => 0,
        };
        ENTRY_OVERHEAD + name.len() + content
    }
}

// === impl Cache ===

impl Cache {
    /// Returns an empty cache with a limit of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            types: HashMap::new(),
            bytes: 0,
            limit,
            is_disabled: false,
        }
    }

    /// Returns the entry of a resource.
    pub(super) fn get(&self, type_url: &str, name: &str) -> Option<&Entry> {
        self.types.get(type_url)?.entries.get(name)
    }

    /// Returns all resources of a type, or `None` if the cache may lack some of them.
    pub(super) fn all(&self, type_url: &str) -> Option<impl Iterator<Item = (&Arc<str>, &EncodedResource)>> {
        let cached = self.types.get(type_url).filter(|cached| cached.is_complete)?;
        Some(cached.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Present(item) => Some((name, item)),
            Entry::Absent => None,
        }))
    }

    /// Stores the acknowledged state of a resource.
    pub(super) fn put(&mut self, type_url: &Arc<str>, name: Arc<str>, entry: Entry) {
        if self.is_disabled {
            return;
        }
        self.bytes += entry.size(&name);
        let entries = &mut self.types.entry(type_url.clone()).or_default().entries;
        if let Some(old) = entries.insert(name.clone(), entry) {
            self.bytes -= old.size(&name);
        }
    }

    /// Removes the entry of a resource.
    pub(super) fn remove(&mut self, type_url: &str, name: &str) {
        let entries = self.types.get_mut(type_url).map(|cached| &mut cached.entries);
        if let Some(old) = entries.and_then(|entries| entries.remove(name)) {
            self.bytes -= old.size(name);
        }
    }

    /// Keeps only the entries of a type for whose names `keep` returns true.
    pub(super) fn retain(&mut self, type_url: &str, keep: impl Fn(&str) -> bool) {
        let Some(cached) = self.types.get_mut(type_url) else {
            return;
        };
        let mut freed = 0;
        cached.entries.retain(|name, entry| {
            let is_kept = keep(name);
            if !is_kept {
                freed += entry.size(name);
            }
            is_kept
        });
        self.bytes -= freed;
    }

    /// Marks the resources of a type as complete for a wildcard subscription.
    pub(super) fn set_complete(&mut self, type_url: &Arc<str>) {
        if !self.is_disabled {
            self.types.entry(type_url.clone()).or_default().is_complete = true;
        }
    }

    /// Returns whether the limit is exceeded.
    pub(super) fn exceeds_limit(&self) -> bool {
        self.bytes > self.limit
    }

    /// Empties and disables the cache. A part of the configuration is useless to a restarted Envoy, which would wait
    /// for the rest.
    pub(super) fn disable(&mut self) {
        tracing::warn!(
            bytes = self.bytes,
            limit = self.limit,
            "the configuration is too large to cache, so a restarted Envoy needs the control plane; reduce the services \
             that this proxy reaches"
        );
        self.types.clear();
        self.bytes = 0;
        self.is_disabled = true;
    }

    /// Enables a disabled cache, for an Envoy that starts without resources.
    pub(super) fn enable(&mut self) {
        self.is_disabled = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_entry(size: usize) -> Entry {
        Entry::Present(EncodedResource {
            version: "1".into(),
            encoded: vec![0; size].into(),
            is_subscribed_by_name: false,
        })
    }

    #[test]
    fn size_of_the_cache_is_the_sum_of_the_sizes_of_its_entries() {
        let mut cache = Cache::new(10_000);
        let type_url: Arc<str> = "type".into();
        for size in [1000, 3000, 2000] {
            cache.put(&type_url, "a".into(), mk_entry(size));
        }
        cache.put(&type_url, "b".into(), Entry::Absent);
        // `a` has 2000 bytes, a name of one byte and a version of one byte; `b` has a name of one byte.
        assert_eq!(cache.bytes, 2000 + 2 + ENTRY_OVERHEAD + 1 + ENTRY_OVERHEAD);
        cache.remove("type", "b");
        cache.remove("type", "b");
        cache.remove("other", "a");
        cache.retain("type", |name| name != "a");
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn wildcard_subscription_is_served_only_from_a_complete_type() {
        let mut cache = Cache::new(10_000);
        let type_url: Arc<str> = "type".into();
        cache.put(&type_url, "a".into(), mk_entry(1));
        cache.put(&type_url, "gone".into(), Entry::Absent);
        assert!(cache.all("type").is_none());
        cache.set_complete(&type_url);
        let names: Vec<_> = cache
            .all("type")
            .into_iter()
            .flatten()
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn disabled_cache_stores_nothing_until_it_is_enabled() {
        let mut cache = Cache::new(1000);
        let type_url: Arc<str> = "type".into();
        cache.put(&type_url, "a".into(), mk_entry(500));
        cache.set_complete(&type_url);
        assert!(!cache.exceeds_limit());
        cache.put(&type_url, "b".into(), mk_entry(500));
        assert!(cache.exceeds_limit());
        cache.disable();
        cache.put(&type_url, "c".into(), mk_entry(1));
        cache.set_complete(&type_url);
        assert_eq!((cache.bytes, cache.get("type", "a")), (0, None));
        assert!(cache.all("type").is_none());
        cache.enable();
        cache.put(&type_url, "c".into(), mk_entry(1));
        assert!(cache.get("type", "c").is_some());
    }
}
