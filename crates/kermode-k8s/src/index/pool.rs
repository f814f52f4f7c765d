//! Interning of strings, labels and annotations: equal values of many objects share one allocation. Examples are label
//! keys, namespaces, and the labels and annotations of a workload's Pods.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::convert::facts::{Deduplicate, Pairs};

/// Minimum number of interned values at which unused values are removed. With fewer values, the scan would cost more
/// than it frees.
const MIN_REMOVAL_THRESHOLD: usize = 1024;

/// Interned strings, labels and annotations.
#[derive(Debug, Default)]
pub(super) struct Pool {
    texts: Interner<Arc<str>>,
    /// Labels, or annotations, of an object.
    pairs: Interner<Pairs>,
}

/// Interned values of one type. A value is unused if only the pool references it. Unused values are removed once the
/// number of values has doubled since the last removal.
#[derive(Debug)]
struct Interner<T> {
    values: HashSet<T>,
    /// Number of values at which unused values are removed next.
    removal_threshold: usize,
}

impl Deduplicate for Pool {
    fn dedup_text(&mut self, text: &mut Arc<str>) {
        if !self.texts.replace(text) {
            // The pool itself holds one reference.
            self.texts.add(text.clone(), |text| Arc::strong_count(text) > 1);
        }
    }

    fn dedup_pairs(&mut self, pairs: &mut Pairs) {
        if !self.pairs.replace(pairs) {
            // No equal pairs are interned, but equal keys or values may be.
            pairs.replace_texts_if_unshared(|text| self.dedup_text(text));
            self.pairs.add(pairs.clone(), |pairs| pairs.reference_count() > 1);
        }
    }
}

// === impl Interner ===

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            removal_threshold: MIN_REMOVAL_THRESHOLD,
        }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// Replaces a value by the equal interned value, if one exists. Returns whether the value was replaced.
    fn replace(&self, value: &mut T) -> bool {
        let interned = self.values.get(value);
        if let Some(interned) = interned {
            *value = interned.clone();
        }
        interned.is_some()
    }

    /// Adds a value. At the threshold, first removes the values for which `in_use` returns false.
    fn add(&mut self, value: T, in_use: impl Fn(&T) -> bool) {
        if self.values.len() >= self.removal_threshold {
            self.values.retain(in_use);
            self.removal_threshold = (self.values.len() * 2).max(MIN_REMOVAL_THRESHOLD);
        }
        self.values.insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pairs(value: &str) -> Pairs {
        [("app".into(), value.into())].into_iter().collect()
    }

    #[test]
    fn equal_texts_share_one_allocation() {
        let mut pool = Pool::default();
        let mut texts: [Arc<str>; 2] = ["app".into(), "app".into()];
        for text in &mut texts {
            pool.dedup_text(text);
        }
        assert!(Arc::ptr_eq(&texts[0], &texts[1]));
    }

    #[test]
    fn equal_labels_share_one_allocation_and_different_labels_share_texts() {
        let mut pool = Pool::default();
        let [mut first, mut equal, mut other] = ["web", "web", "db"].map(mk_pairs);
        for pairs in [&mut first, &mut equal, &mut other] {
            pool.dedup_pairs(pairs);
        }
        assert_eq!(
            first.reference_count(),
            3,
            "the pool and both equal pairs must share an allocation"
        );
        let key = |pairs: &Pairs| pairs.iter().next().expect("a pair").0.clone();
        assert!(Arc::ptr_eq(&key(&first), &key(&other)));
    }

    #[test]
    fn unused_values_do_not_accumulate() {
        let mut pool = Pool::default();
        for number in 0..100_000 {
            let mut pairs = mk_pairs(&number.to_string());
            pool.dedup_pairs(&mut pairs);
        }
        // Interned pairs keep their keys and values in use, so more texts remain than pairs.
        let (texts, pairs) = (pool.texts.values.len(), pool.pairs.values.len());
        assert!(
            texts <= 4 * MIN_REMOVAL_THRESHOLD && pairs <= 2 * MIN_REMOVAL_THRESHOLD,
            "{texts} texts and {pairs} pairs remain"
        );
    }
}
