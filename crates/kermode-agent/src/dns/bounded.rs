//! Map with a limit on entries and bytes. Pure.
//!
//! At a limit, the oldest entry that was not used since the last look at it is removed (second chance). So a client that
//! asks for many names once does not displace the names that are in use.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes that an entry takes beside its key and value: the entries of map and queue, and the headers of allocations.
const OVERHEAD: usize = 160;

/// Map from encoded keys to values.
#[derive(Debug)]
pub(crate) struct BoundedMap<V> {
    slots: HashMap<Arc<[u8]>, Slot<V>>,
    /// All keys, in the order in which they are considered for removal.
    queue: VecDeque<Arc<[u8]>>,
    max_entries: usize,
    max_bytes: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    bytes: usize,
    is_used: bool,
}

impl<V> BoundedMap<V> {
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            slots: HashMap::new(),
            queue: VecDeque::new(),
            max_entries,
            max_bytes,
            bytes: 0,
        }
    }

    /// Returns the value of a key if it is valid. A value that is not valid does not count as used.
    pub(crate) fn get(&mut self, key: &[u8], is_valid: impl FnOnce(&V) -> bool) -> Option<&mut V> {
        let slot = self.slots.get_mut(key).filter(|slot| is_valid(&slot.value))?;
        slot.is_used = true;
        Some(&mut slot.value)
    }

    /// Inserts or replaces a value that takes `value_bytes` bytes.
    pub(crate) fn insert(&mut self, key: &[u8], value: V, value_bytes: usize) {
        let bytes = key.len() + value_bytes + OVERHEAD;
        if let Some(slot) = self.slots.get_mut(key) {
            self.bytes = self.bytes - slot.bytes + bytes;
            slot.value = value;
            slot.bytes = bytes;
        } else {
            let key: Arc<[u8]> = key.into();
            let slot = Slot {
                value,
                bytes,
                is_used: false,
            };
            self.slots.insert(key.clone(), slot);
            self.queue.push_back(key);
            self.bytes += bytes;
        }
        while self.slots.len() > self.max_entries || self.bytes > self.max_bytes {
            self.consider_oldest();
        }
    }

    /// Removes the oldest entry, or gives it a second chance.
    fn consider_oldest(&mut self) {
        let Some(key) = self.queue.pop_front() else {
            return;
        };
        match self.slots.get_mut(&key) {
            Some(slot) if slot.is_used => {
                slot.is_used = false;
                self.queue.push_back(key);
            }
            _ => {
                if let Some(slot) = self.slots.remove(&key) {
                    self.bytes -= slot.bytes;
                }
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entry_in_use_outlives_newer_entries() {
        let mut map = BoundedMap::new(3, usize::MAX);
        for key in 0..10_u8 {
            map.insert(&[key], key, 1);
            assert_eq!(map.get(&[0], |_| true), Some(&mut 0), "after {key}");
        }
        assert_eq!(map.len(), 3);
        assert_eq!(map.get(&[5], |_| true), None);
    }

    #[test]
    fn entry_that_is_not_valid_is_not_returned_and_does_not_count_as_used() {
        let mut map = BoundedMap::new(2, usize::MAX);
        map.insert(b"old", 1, 1);
        assert_eq!(map.get(b"old", |_| false), None);
        map.insert(b"a", 2, 1);
        map.insert(b"b", 3, 1);
        assert_eq!(map.get(b"old", |_| true), None);
    }

    proptest! {
        #[test]
        fn limits_hold_after_every_insertion(
            operations in proptest::collection::vec((0_u8..20, 0_usize..600, any::<bool>()), 0..200),
        ) {
            let mut map = BoundedMap::new(8, 2_000);
            for (key, bytes, is_used) in operations {
                map.insert(&[key], key, bytes);
                if is_used {
                    map.get(&[key], |_| true);
                }
                prop_assert!(map.len() <= 8);
                prop_assert!(map.bytes() <= 2_000);
                prop_assert_eq!(map.queue.len(), map.len());
                prop_assert_eq!(map.slots.values().map(|slot| slot.bytes).sum::<usize>(), map.bytes());
            }
        }
    }
}
