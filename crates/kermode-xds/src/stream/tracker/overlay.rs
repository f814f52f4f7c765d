//! Overlay: map from resource names to values, stored as the differences from a base that streams share.
//!
//! A value is either the name with the client's version (`Arc<VersionedName>`) or only the name (`Arc<str>`). Thousands
//! of proxies have nearly the same resources. The base is therefore a snapshot of the shared map: the store's map of
//! all resources of the mesh ([`VersionedNames`]). The shared map is persistent, so its snapshots share nodes. Without
//! a base, every name is a difference.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::{VersionedName, VersionedNames};

/// Value that an [`Overlay`] stores for a resource name.
pub(super) trait Value: Clone + PartialEq {
    /// Returns the name under which the value is stored.
    fn name(&self) -> &Arc<str>;

    /// Returns the value to which an entry of the shared map corresponds.
    fn from_shared(entry: &Arc<VersionedName>) -> &Self;
}

/// Map from resource names to values.
#[derive(Debug)]
pub(super) struct Overlay<V> {
    /// Snapshot of the shared map. Empty if there is no base.
    base: VersionedNames,
    /// Sequence number of the base. `None` if there is no base, or if later changes of the shared map are unknown.
    base_sequence: Option<u64>,
    /// Values that differ from the base, by name. `None` for a name of the base that this map does not contain.
    differences: HashMap<Arc<str>, Option<V>>,
    /// Number of values in this map.
    len: usize,
}

/// Up to this number of differences, `compact` does not try another base. Up to a capacity for twice this number,
/// `compact` does not free memory. The gain would be below a kilobyte. 1 in tests, which use few names.
const FEW_DIFFERENCES: usize = if cfg!(test) { 1 } else { 16 };

// === impl Value ===

impl Value for Arc<VersionedName> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn from_shared(entry: &Arc<VersionedName>) -> &Self {
        entry
    }
}

impl Value for Arc<str> {
    fn name(&self) -> &Arc<str> {
        self
    }

    fn from_shared(entry: &Arc<VersionedName>) -> &Self {
        &entry.name
    }
}

// === impl Overlay ===

impl<V: Value> Overlay<V> {
    pub(super) fn new() -> Self {
        Self {
            base: VersionedNames::new_sync(),
            base_sequence: None,
            differences: HashMap::new(),
            len: 0,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        match self.differences.get(name) {
            Some(value) => value.as_ref(),
            None => self.base.get(name).map(V::from_shared),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &V> {
        let same = self
            .base
            .iter()
            .filter(|(name, _)| !self.differences.contains_key(*name));
        let different = self.differences.values().flatten();
        same.map(|(_, entry)| V::from_shared(entry)).chain(different)
    }

    /// Inserts a value under its name. Returns the previous value of this name.
    pub(super) fn insert(&mut self, value: V) -> Option<V> {
        let before = self.get(value.name()).cloned();
        self.len += usize::from(before.is_none());
        self.set(value.name().clone(), Some(value));
        before
    }

    /// Removes the value of a name, and returns it.
    pub(super) fn remove(&mut self, name: &str) -> Option<V> {
        let before = self.get(name).cloned()?;
        self.len -= 1;
        self.set(before.name().clone(), None);
        Some(before)
    }

    /// Removes the names for which `keep` returns false. The map then has no base.
    pub(super) fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        let kept = self.iter().filter(|value| keep(value.name()));
        let differences: HashMap<_, _> = kept
            .map(|value| (value.name().clone(), Some(value.clone())))
            .collect();
        *self = Self {
            base: VersionedNames::new_sync(),
            base_sequence: None,
            len: differences.len(),
            differences,
        };
    }

    /// Rebases the map onto `shared`, the shared map at the sequence number `new_sequence`, if the base is the shared
    /// map at `old_sequence`. Otherwise, or without a shared map, stops rebasing. The values stay the same. `changed`
    /// are the names that changed between the two sequence numbers; names may be repeated, and unchanged names have no
    /// effect.
    pub(super) fn rebase<'a>(
        &mut self,
        shared: Option<&VersionedNames>,
        (old_sequence, new_sequence): (Option<u64>, u64),
        changed: impl Iterator<Item = &'a Arc<str>> + Clone,
    ) {
        if self.base_sequence.is_none() {
            return;
        }
        let Some(shared) = shared.filter(|_| self.base_sequence == old_sequence) else {
            self.base_sequence = None;
            return;
        };
        self.base_sequence = Some(new_sequence);
        let mut names = changed.peekable();
        if names.peek().is_none() {
            return;
        }
        for name in names.clone() {
            let value = self.base.get(name).map(V::from_shared);
            if value != shared.get(name).map(V::from_shared) && !self.differences.contains_key(name) {
                self.differences.insert(name.clone(), value.cloned());
            }
        }
        self.base = shared.clone();
        for name in names {
            let is_same = self
                .differences
                .get(name)
                .is_some_and(|value| value.as_ref() == shared.get(name).map(V::from_shared));
            if is_same {
                self.differences.remove(name);
            }
        }
    }

    /// Stops rebasing until `compact` chooses another base. Called if changes of the shared map are unknown.
    pub(super) fn stop_rebasing(&mut self) {
        self.base_sequence = None;
    }

    /// Frees unused memory. If the map is not being rebased, replaces its base by `shared`, the shared map at the
    /// sequence number `sequence`, provided that this saves memory; without a shared map, drops the base. The values
    /// stay the same. Called when the map is not expected to change soon.
    pub(super) fn compact(&mut self, shared: Option<&VersionedNames>, sequence: u64) {
        if self.base_sequence.is_none() && self.differences.len() > FEW_DIFFERENCES {
            match shared {
                // In a larger shared map, at least `differences.len()` names are not in this map, so rebasing would
                // not reduce the differences.
                Some(shared) if shared.size() < self.len + self.differences.len() => {
                    self.differences = self.differences_from(shared);
                    self.base = shared.clone();
                    self.base_sequence = Some(sequence);
                }
                None if !self.base.is_empty() => {
                    self.differences = self.differences_from(&VersionedNames::new_sync());
                    self.base = VersionedNames::new_sync();
                }
                _ => {}
            }
        }
        if self.differences.capacity() > 2 * self.differences.len().max(FEW_DIFFERENCES) {
            self.differences.shrink_to_fit();
        }
    }

    /// Returns the differences of this map from `other`.
    fn differences_from(&self, other: &VersionedNames) -> HashMap<Arc<str>, Option<V>> {
        let mut differences = HashMap::new();
        for (name, entry) in other {
            let value = self.get(name);
            if value != Some(V::from_shared(entry)) {
                differences.insert(name.clone(), value.cloned());
            }
        }
        let missing = self.iter().filter(|value| !other.contains_key(value.name()));
        differences.extend(missing.map(|value| (value.name().clone(), Some(value.clone()))));
        differences
    }

    fn set(&mut self, name: Arc<str>, value: Option<V>) {
        if value.as_ref() == self.base.get(&name).map(V::from_shared) {
            self.differences.remove(&name);
        } else {
            self.differences.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn mk_resource(name: u8, version: u8) -> Arc<VersionedName> {
        Arc::new(VersionedName {
            name: format!("name-{name}").into(),
            version: version.to_string().into(),
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Inserts this name with this version.
        Insert(u8, u8),
        /// Removes this name.
        Remove(u8),
        /// Removes this name by [`Overlay::retain`].
        RetainOthers(u8),
        /// Changes the shared map, and rebases the overlay onto it. `None` removes a name.
        Rebase(Vec<(u8, Option<u8>)>),
        /// Changes the shared map without passing the changes to the overlay.
        UnknownChanges(Vec<(u8, Option<u8>)>),
        /// Compacts the overlay.
        Compact { has_shared_map: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        let changes = prop::collection::vec((0..6u8, prop::option::of(0..3u8)), 0..4);
        prop_oneof![
            (0..6u8, 0..3u8).prop_map(|(name, version)| Step::Insert(name, version)),
            (0..6u8).prop_map(Step::Remove),
            (0..6u8).prop_map(Step::RetainOthers),
            changes.clone().prop_map(Step::Rebase),
            changes.prop_map(Step::UnknownChanges),
            any::<bool>().prop_map(|has_shared_map| Step::Compact { has_shared_map }),
        ]
    }

    /// Applies changes to the shared map. Returns the changed names.
    fn apply_changes(shared: &mut VersionedNames, changes: &[(u8, Option<u8>)]) -> Vec<Arc<str>> {
        for (name, version) in changes {
            let resource = mk_resource(*name, version.unwrap_or_default());
            match version {
                Some(_) => shared.insert_mut(resource.name.clone(), resource),
                None => drop(shared.remove_mut(&resource.name)),
            }
        }
        changes
            .iter()
            .map(|(name, _)| mk_resource(*name, 0).name.clone())
            .collect()
    }

    proptest! {
        #[test]
        fn overlay_with_any_base_behaves_like_a_map(steps in prop::collection::vec(step(), 0..40)) {
            let mut shared = VersionedNames::new_sync();
            let mut overlay: Overlay<Arc<VersionedName>> = Overlay::new();
            let mut model: BTreeMap<Arc<str>, Arc<VersionedName>> = BTreeMap::new();
            let mut sequence = 0;
            for step in steps {
                match step {
                    Step::Insert(name, version) => {
                        let resource = mk_resource(name, version);
                        prop_assert_eq!(overlay.insert(resource.clone()), model.insert(resource.name.clone(), resource));
                    }
                    Step::Remove(name) => {
                        let name = mk_resource(name, 0).name.clone();
                        prop_assert_eq!(overlay.remove(&name), model.remove(&name));
                    }
                    Step::RetainOthers(name) => {
                        let name = mk_resource(name, 0).name.clone();
                        overlay.retain(|other| *other != name);
                        model.remove(&name);
                    }
                    Step::Rebase(changes) => {
                        let changed = apply_changes(&mut shared, &changes);
                        let before = sequence;
                        sequence += 1;
                        overlay.rebase(Some(&shared), (Some(before), sequence), changed.iter());
                    }
                    Step::UnknownChanges(changes) => {
                        apply_changes(&mut shared, &changes);
                        sequence += 1;
                        overlay.stop_rebasing();
                    }
                    Step::Compact { has_shared_map } => {
                        overlay.compact(has_shared_map.then_some(&shared), sequence);
                    }
                }
                let mut all: Vec<_> = overlay.iter().cloned().collect();
                all.sort_by(|one, other| one.name.cmp(&other.name));
                prop_assert_eq!(&all, &model.values().cloned().collect::<Vec<_>>());
                prop_assert_eq!(overlay.len(), model.len());
                for name in 0..6 {
                    let name = mk_resource(name, 0).name.clone();
                    prop_assert_eq!(overlay.get(&name), model.get(&name));
                }
            }
        }
    }

    /// Returns a shared map of 100 names.
    fn mk_shared() -> VersionedNames {
        (0..100)
            .map(|name| mk_resource(name, 0))
            .map(|resource| (resource.name.clone(), resource))
            .collect()
    }

    /// Returns a compacted overlay with all values of the shared map.
    fn mk_overlay(shared: &VersionedNames) -> Overlay<Arc<VersionedName>> {
        let mut overlay = Overlay::new();
        for resource in shared.values() {
            overlay.insert(resource.clone());
        }
        overlay.compact(Some(shared), 1);
        overlay
    }

    #[test]
    fn rebase_handles_a_name_that_changed_twice() {
        let mut shared = mk_shared();
        let mut overlay = mk_overlay(&shared);
        overlay.insert(mk_resource(1, 1));
        shared.insert_mut(mk_resource(1, 1).name.clone(), mk_resource(1, 1));
        let name = mk_resource(1, 1).name.clone();
        overlay.rebase(Some(&shared), (Some(1), 3), [name.clone(), name.clone()].iter());
        assert_eq!(overlay.get(&name), Some(&mk_resource(1, 1)));
    }

    #[test]
    fn overlay_similar_to_the_shared_map_has_few_differences() {
        let mut shared = mk_shared();
        let mut overlay = mk_overlay(&shared);
        overlay.insert(mk_resource(100, 0));
        assert_eq!(overlay.differences.len(), 1);
        let new_version = mk_resource(7, 1);
        shared.insert_mut(new_version.name.clone(), new_version.clone());
        overlay.rebase(Some(&shared), (Some(1), 2), [new_version.name.clone()].iter());
        assert_eq!(
            overlay.differences.len(),
            2,
            "a new resource, and a resource of which the client has the old version"
        );
        overlay.insert(new_version);
        assert_eq!(overlay.differences.len(), 1);
    }

    #[test]
    fn compaction_gives_a_small_overlay_no_base() {
        let shared = mk_shared();
        let mut overlay: Overlay<Arc<VersionedName>> = Overlay::new();
        overlay.compact(Some(&shared), 1);
        assert_eq!(overlay.differences.capacity(), 0);
        for name in 0..20 {
            overlay.insert(mk_resource(name, 0));
        }
        overlay.compact(Some(&shared), 1);
        assert_eq!(overlay.differences.len(), 20);
    }

    #[test]
    fn compaction_without_a_shared_map_drops_the_base() {
        let shared = mk_shared();
        let mut overlay = mk_overlay(&shared);
        for name in 1..100 {
            overlay.remove(&mk_resource(name, 0).name);
        }
        overlay.stop_rebasing();
        overlay.compact(None, 2);
        assert_eq!(overlay.differences.len(), 1);
        assert!(overlay.base.is_empty());
        assert!(overlay.differences.capacity() < 50, "unused memory must be freed");
    }
}
