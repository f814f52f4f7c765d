//! What a stream remembers of each name, as the difference from what all streams share.
//!
//! Thousands of clients have nearly the same resources. What one has is therefore kept as a moment of the shared scope,
//! whose memory all streams share, and the names for which the client differs from it. Where there is no such moment,
//! every name is a difference.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::{Stamp, Stamps};

/// What is remembered of a name.
pub(super) trait Remembered: Clone + PartialEq {
    /// Its name.
    fn name(&self) -> &Arc<str>;

    /// What is remembered when it is as in what is shared.
    fn of(shared: &Arc<Stamp>) -> &Self;
}

/// Remembered values by name.
#[derive(Debug)]
pub(super) struct Overlay<V> {
    shared: Stamps,
    /// Up to which change of what is shared that moment has been kept up; none when it has not.
    followed: Option<u64>,
    /// None for a name that is shared and not remembered.
    differs: HashMap<Arc<str>, Option<V>>,
    len: usize,
}

/// So few differences are not worth looking for a better moment, nor is so much room worth giving back. Tests have few
/// names.
const FEW: usize = if cfg!(test) { 1 } else { 16 };

// === impl Remembered ===

impl Remembered for Arc<Stamp> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn of(shared: &Arc<Stamp>) -> &Self {
        shared
    }
}

impl Remembered for Arc<str> {
    fn name(&self) -> &Arc<str> {
        self
    }

    fn of(shared: &Arc<Stamp>) -> &Self {
        &shared.name
    }
}

// === impl Overlay ===

impl<V: Remembered> Overlay<V> {
    pub(super) fn new() -> Self {
        Self {
            shared: Stamps::new_sync(),
            followed: None,
            differs: HashMap::new(),
            len: 0,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        match self.differs.get(name) {
            Some(value) => value.as_ref(),
            None => self.shared.get(name).map(V::of),
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
            .shared
            .iter()
            .filter(|(name, _)| !self.differs.contains_key(*name));
        let different = self.differs.values().flatten();
        same.map(|(_, stamp)| V::of(stamp)).chain(different)
    }

    /// Remembers it; returns what was remembered of its name before.
    pub(super) fn insert(&mut self, value: V) -> Option<V> {
        let before = self.get(value.name()).cloned();
        self.len += usize::from(before.is_none());
        self.set(value.name().clone(), Some(value));
        before
    }

    /// Forgets a name; returns what was remembered of it.
    pub(super) fn remove(&mut self, name: &str) -> Option<V> {
        let before = self.get(name).cloned()?;
        self.len -= 1;
        self.set(before.name().clone(), None);
        Some(before)
    }

    /// Forgets the names for which that is not so.
    pub(super) fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        let kept = self.iter().filter(|value| keep(value.name()));
        let differs: HashMap<_, _> = kept
            .map(|value| (value.name().clone(), Some(value.clone())))
            .collect();
        *self = Self {
            shared: Stamps::new_sync(),
            followed: None,
            len: differs.len(),
            differs,
        };
    }

    /// Keeps the same values against a later moment, `now`, if it follows what is shared, and has done so up to `before`.
    /// Between the two nothing has changed but those names; one may come several times.
    pub(super) fn follow<'a>(
        &mut self,
        later: Option<&Stamps>,
        (before, now): (Option<u64>, u64),
        changed: impl Iterator<Item = &'a Arc<str>> + Clone,
    ) {
        if self.followed.is_none() {
            return;
        }
        let Some(later) = later.filter(|_| self.followed == before) else {
            self.followed = None;
            return;
        };
        self.followed = Some(now);
        let mut names = changed.peekable();
        if names.peek().is_none() {
            return;
        }
        for name in names.clone() {
            let then = self.shared.get(name).map(V::of);
            if then != later.get(name).map(V::of) && !self.differs.contains_key(name) {
                self.differs.insert(name.clone(), then.cloned());
            }
        }
        self.shared = later.clone();
        for name in names {
            let same = self
                .differs
                .get(name)
                .is_some_and(|value| value.as_ref() == later.get(name).map(V::of));
            if same {
                self.differs.remove(name);
            }
        }
    }

    /// What is shared was not read on from where it was.
    pub(super) fn lose_track(&mut self) {
        self.followed = None;
    }

    /// Keeps the same values against this moment if that may take less, and gives back room that is not needed. For one
    /// that does not change much in the near future.
    pub(super) fn settle(&mut self, shared: Option<&Stamps>, now: u64) {
        if self.followed.is_none() && self.differs.len() > FEW {
            match shared {
                // Otherwise what it does not have of it would be more.
                Some(shared) if shared.size() < self.len + self.differs.len() => {
                    self.differs = self.difference_from(shared);
                    self.shared = shared.clone();
                    self.followed = Some(now);
                }
                None if !self.shared.is_empty() => {
                    self.differs = self.difference_from(&Stamps::new_sync());
                    self.shared = Stamps::new_sync();
                }
                _ => {}
            }
        }
        if self.differs.capacity() > 2 * self.differs.len().max(FEW) {
            self.differs.shrink_to_fit();
        }
    }

    fn difference_from(&self, other: &Stamps) -> HashMap<Arc<str>, Option<V>> {
        let mut differs = HashMap::new();
        for (name, stamp) in other {
            let value = self.get(name);
            if value != Some(V::of(stamp)) {
                differs.insert(name.clone(), value.cloned());
            }
        }
        let alone = self.iter().filter(|value| !other.contains_key(value.name()));
        differs.extend(alone.map(|value| (value.name().clone(), Some(value.clone()))));
        differs
    }

    fn set(&mut self, name: Arc<str>, value: Option<V>) {
        if value.as_ref() == self.shared.get(&name).map(V::of) {
            self.differs.remove(&name);
        } else {
            self.differs.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn stamp(name: u8, version: u8) -> Arc<Stamp> {
        Arc::new(Stamp {
            name: format!("name-{name}").into(),
            version: version.to_string().into(),
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u8),
        Remove(u8),
        Keep(u8),
        /// What is shared changes, and is read on.
        Follow(Vec<(u8, Option<u8>)>),
        /// What is shared changes, and nobody knows how.
        Lose(Vec<(u8, Option<u8>)>),
        /// Whether what is shared can be seen.
        Settle(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let changes = prop::collection::vec((0..6u8, prop::option::of(0..3u8)), 0..4);
        prop_oneof![
            (0..6u8, 0..3u8).prop_map(|(name, version)| Step::Insert(name, version)),
            (0..6u8).prop_map(Step::Remove),
            (0..6u8).prop_map(Step::Keep),
            changes.clone().prop_map(Step::Follow),
            changes.prop_map(Step::Lose),
            any::<bool>().prop_map(Step::Settle),
        ]
    }

    fn change(shared: &mut Stamps, changes: &[(u8, Option<u8>)]) -> Vec<Arc<str>> {
        for (name, version) in changes {
            let stamp = stamp(*name, version.unwrap_or_default());
            match version {
                Some(_) => shared.insert_mut(stamp.name.clone(), stamp),
                None => drop(shared.remove_mut(&stamp.name)),
            }
        }
        changes
            .iter()
            .map(|(name, _)| stamp(*name, 0).name.clone())
            .collect()
    }

    proptest! {
        #[test]
        fn it_is_a_map_whatever_it_is_kept_against(steps in prop::collection::vec(step(), 0..40)) {
            let mut shared = Stamps::new_sync();
            let mut overlay: Overlay<Arc<Stamp>> = Overlay::new();
            let mut model: BTreeMap<Arc<str>, Arc<Stamp>> = BTreeMap::new();
            let mut sequence = 0;
            for step in steps {
                match step {
                    Step::Insert(name, version) => {
                        let stamp = stamp(name, version);
                        prop_assert_eq!(overlay.insert(stamp.clone()), model.insert(stamp.name.clone(), stamp));
                    }
                    Step::Remove(name) => {
                        let name = stamp(name, 0).name.clone();
                        prop_assert_eq!(overlay.remove(&name), model.remove(&name));
                    }
                    Step::Keep(name) => {
                        let name = stamp(name, 0).name.clone();
                        overlay.retain(|other| *other != name);
                        model.remove(&name);
                    }
                    Step::Follow(changes) => {
                        let changed = change(&mut shared, &changes);
                        let before = sequence;
                        sequence += 1;
                        overlay.follow(Some(&shared), (Some(before), sequence), changed.iter());
                    }
                    Step::Lose(changes) => {
                        change(&mut shared, &changes);
                        sequence += 1;
                        overlay.lose_track();
                    }
                    Step::Settle(seen) => overlay.settle(seen.then_some(&shared), sequence),
                }
                let mut all: Vec<_> = overlay.iter().cloned().collect();
                all.sort_by(|one, other| one.name.cmp(&other.name));
                prop_assert_eq!(&all, &model.values().cloned().collect::<Vec<_>>());
                prop_assert_eq!(overlay.len(), model.len());
                for name in 0..6 {
                    let name = stamp(name, 0).name.clone();
                    prop_assert_eq!(overlay.get(&name), model.get(&name));
                }
            }
        }
    }

    /// A hundred names that are shared.
    fn hundred() -> Stamps {
        (0..100)
            .map(|name| stamp(name, 0))
            .map(|stamp| (stamp.name.clone(), stamp))
            .collect()
    }

    /// One that has all of them, and is settled.
    fn settled(shared: &Stamps) -> Overlay<Arc<Stamp>> {
        let mut overlay = Overlay::new();
        for stamp in shared.values() {
            overlay.insert(stamp.clone());
        }
        overlay.settle(Some(shared), 1);
        overlay
    }

    #[test]
    fn a_name_that_changed_twice_is_followed_once() {
        let mut shared = hundred();
        let mut overlay = settled(&shared);
        overlay.insert(stamp(1, 1));
        shared.insert_mut(stamp(1, 1).name.clone(), stamp(1, 1));
        let name = stamp(1, 1).name.clone();
        overlay.follow(Some(&shared), (Some(1), 3), [name.clone(), name.clone()].iter());
        assert_eq!(overlay.get(&name), Some(&stamp(1, 1)));
    }

    #[test]
    fn who_has_what_all_have_remembers_next_to_nothing() {
        let mut shared = hundred();
        let mut overlay = settled(&shared);
        overlay.insert(stamp(100, 0));
        assert_eq!(overlay.differs.len(), 1);
        let later = stamp(7, 1);
        shared.insert_mut(later.name.clone(), later.clone());
        overlay.follow(Some(&shared), (Some(1), 2), [later.name.clone()].iter());
        assert_eq!(overlay.differs.len(), 2, "it has the old one still");
        overlay.insert(later);
        assert_eq!(overlay.differs.len(), 1);
    }

    #[test]
    fn who_has_little_of_what_all_have_remembers_that_little() {
        let shared = hundred();
        let mut overlay: Overlay<Arc<Stamp>> = Overlay::new();
        overlay.settle(Some(&shared), 1);
        assert_eq!(overlay.differs.capacity(), 0);
        for name in 0..20 {
            overlay.insert(stamp(name, 0));
        }
        overlay.settle(Some(&shared), 1);
        assert_eq!(overlay.differs.len(), 20);
    }

    #[test]
    fn who_does_not_see_any_more_what_all_have_remembers_none_of_it() {
        let shared = hundred();
        let mut overlay = settled(&shared);
        for name in 1..100 {
            overlay.remove(&stamp(name, 0).name);
        }
        overlay.lose_track();
        overlay.settle(None, 2);
        assert_eq!(overlay.differs.len(), 1);
        assert!(overlay.shared.is_empty());
        assert!(overlay.differs.capacity() < 50, "the room is given back");
    }
}
