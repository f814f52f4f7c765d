//! One allocation for text that many objects have in common: label keys, namespaces, container names.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this many texts, looking for unused ones is not worth while.
const SMALL: usize = 1024;

/// Shared texts. Ones that nobody uses any more go when their number has doubled since the last look.
#[derive(Debug, Default)]
pub(super) struct Pool {
    texts: HashSet<Arc<str>>,
    look_at: usize,
}

impl Pool {
    /// Replaces a text by the shared one that equals it.
    pub(super) fn share(&mut self, text: &mut Arc<str>) {
        if let Some(shared) = self.texts.get(text) {
            *text = shared.clone();
            return;
        }
        if self.texts.len() >= self.look_at.max(SMALL) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.look_at = self.texts.len() * 2;
        }
        self.texts.insert(text.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one() {
        let mut pool = Pool::default();
        let mut texts: [Arc<str>; 2] = ["app".into(), "app".into()];
        for text in &mut texts {
            pool.share(text);
        }
        assert!(Arc::ptr_eq(&texts[0], &texts[1]));
    }

    #[test]
    fn texts_that_nobody_uses_do_not_pile_up() {
        let mut pool = Pool::default();
        for number in 0..100_000 {
            let mut text: Arc<str> = number.to_string().into();
            pool.share(&mut text);
        }
        assert!(
            pool.texts.len() <= 2 * SMALL,
            "{} texts are left",
            pool.texts.len()
        );
    }
}
