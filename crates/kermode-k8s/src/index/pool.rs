//! One allocation for what many objects have in common: label keys, namespaces, container names, and the labels and
//! annotations of a workload's Pods.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::convert::facts::{Pairs, Share};

/// Below this many, looking for unused ones is not worth while.
const SMALL: usize = 1024;

/// What is shared.
#[derive(Debug, Default)]
pub(super) struct Pool {
    texts: Shared<Arc<str>>,
    pairs: Shared<Pairs>,
}

/// Shared values of one type. Ones that nobody uses any more go when their number has doubled since the last look.
#[derive(Debug)]
struct Shared<T> {
    all: HashSet<T>,
    look_at: usize,
}

impl Share for Pool {
    fn text(&mut self, text: &mut Arc<str>) {
        if !self.texts.replace(text) {
            self.texts.add(text.clone(), |text| Arc::strong_count(text) > 1);
        }
    }

    fn pairs(&mut self, pairs: &mut Pairs) {
        if !self.pairs.replace(pairs) {
            pairs.share_texts(|text| self.text(text));
            self.pairs.add(pairs.clone(), |pairs| pairs.holders() > 1);
        }
    }
}

// === impl Shared ===

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self {
            all: HashSet::new(),
            look_at: SMALL,
        }
    }
}

impl<T: Clone + Eq + Hash> Shared<T> {
    /// Replaces a value by the shared one that equals it, when there is one.
    fn replace(&self, value: &mut T) -> bool {
        let shared = self.all.get(value);
        if let Some(shared) = shared {
            *value = shared.clone();
        }
        shared.is_some()
    }

    fn add(&mut self, value: T, in_use: impl Fn(&T) -> bool) {
        if self.all.len() >= self.look_at {
            self.all.retain(in_use);
            self.look_at = (self.all.len() * 2).max(SMALL);
        }
        self.all.insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pairs(value: &str) -> Pairs {
        [("app".into(), value.into())].into_iter().collect()
    }

    #[test]
    fn equal_texts_become_one() {
        let mut pool = Pool::default();
        let mut texts: [Arc<str>; 2] = ["app".into(), "app".into()];
        for text in &mut texts {
            pool.text(text);
        }
        assert!(Arc::ptr_eq(&texts[0], &texts[1]));
    }

    #[test]
    fn equal_labels_become_one_and_different_ones_share_their_texts() {
        let mut pool = Pool::default();
        let [mut first, mut equal, mut other] = ["web", "web", "db"].map(mk_pairs);
        for pairs in [&mut first, &mut equal, &mut other] {
            pool.pairs(pairs);
        }
        assert_eq!(first.holders(), 3, "the pool, and the two that are equal");
        let key = |pairs: &Pairs| pairs.iter().next().expect("one").0.clone();
        assert!(Arc::ptr_eq(&key(&first), &key(&other)));
    }

    #[test]
    fn what_nobody_uses_does_not_pile_up() {
        let mut pool = Pool::default();
        for number in 0..100_000 {
            let mut pairs = mk_pairs(&number.to_string());
            pool.pairs(&mut pairs);
        }
        let (texts, pairs) = (pool.texts.all.len(), pool.pairs.all.len());
        assert!(
            texts <= 4 * SMALL && pairs <= 2 * SMALL,
            "{texts} texts, {pairs} pairs are left"
        );
    }
}
