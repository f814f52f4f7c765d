//! Lookup of the Pods that a Service may select, and of the Services that may select a Pod, within one namespace and
//! without a scan of the namespace.
//!
//! A Pod is indexed by each of its labels, a Service by one pair of its selector. A lookup returns a few candidates;
//! the caller evaluates the selectors.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::convert::facts::Pairs;

type Pair = (Arc<str>, Arc<str>);
type Names = HashSet<Arc<str>>;

/// Pods and Services of one namespace.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pods: Names,
    pods_by_label: HashMap<Pair, Names>,
    services_by_pair: HashMap<Pair, Names>,
    pair_of_service: HashMap<Arc<str>, Pair>,
}

impl Selection {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.pair_of_service.is_empty()
    }

    /// Names of all Pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.iter()
    }

    pub(super) fn add_pod(&mut self, name: &Arc<str>, labels: &Pairs) {
        self.pods.insert(name.clone());
        for pair in labels.iter() {
            add(&mut self.pods_by_label, pair, name);
        }
    }

    pub(super) fn remove_pod(&mut self, name: &Arc<str>, labels: &Pairs) {
        self.pods.remove(name);
        for pair in labels.iter() {
            remove(&mut self.pods_by_label, pair, name);
        }
    }

    /// Indexes a Service by the pair of its selector that the fewest other Services are indexed by. Otherwise a label
    /// that all Services of a namespace share would make all of them candidates for every Pod.
    pub(super) fn add_service(&mut self, name: &Arc<str>, selector: &Pairs) {
        let others = |pair: &&Pair| self.services_by_pair.get(*pair).map_or(0, HashSet::len);
        let Some(pair) = selector.iter().min_by_key(others).cloned() else {
            return;
        };
        add(&mut self.services_by_pair, &pair, name);
        self.pair_of_service.insert(name.clone(), pair);
    }

    pub(super) fn remove_service(&mut self, name: &Arc<str>) {
        if let Some(pair) = self.pair_of_service.remove(name) {
            remove(&mut self.services_by_pair, &pair, name);
        }
    }

    /// Names of the Services that may select a Pod with these labels.
    pub(super) fn services_for(&self, labels: &Pairs) -> impl Iterator<Item = &Arc<str>> {
        labels
            .iter()
            .filter_map(|pair| self.services_by_pair.get(pair))
            .flatten()
    }

    /// Names of the Pods that a selector may match: the Pods with its rarest label.
    pub(super) fn pods_for(&self, selector: &Pairs) -> impl Iterator<Item = &Arc<str>> {
        let with_label = |pair: &Pair| self.pods_by_label.get(pair);
        let rarest = selector
            .iter()
            .min_by_key(|pair| with_label(pair).map_or(0, HashSet::len));
        rarest.and_then(with_label).into_iter().flatten()
    }
}

fn add(names: &mut HashMap<Pair, Names>, pair: &Pair, name: &Arc<str>) {
    names.entry(pair.clone()).or_default().insert(name.clone());
}

fn remove(names: &mut HashMap<Pair, Names>, pair: &Pair, name: &Arc<str>) {
    if let Some(indexed) = names.get_mut(pair) {
        indexed.remove(name);
        if indexed.is_empty() {
            names.remove(pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        pairs
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn services_that_share_a_label_are_indexed_by_another_label() {
        let mut selection = Selection::default();
        for app in ["a", "b", "c", "d"] {
            selection.add_service(&app.into(), &pairs(&[("app", app), ("env", "prod")]));
        }
        let labels = pairs(&[("app", "c"), ("env", "prod")]);
        let candidates: Vec<_> = selection.services_for(&labels).map(AsRef::as_ref).collect();
        assert!(candidates.contains(&"c"));
        assert!(candidates.len() <= 2, "{candidates:?}");
    }

    #[test]
    fn candidates_of_a_selector_have_its_rarest_label() {
        let mut selection = Selection::default();
        for number in 0..10 {
            let app = if number == 0 { "a" } else { "b" };
            selection.add_pod(
                &format!("pod-{number}").into(),
                &pairs(&[("app", app), ("env", "prod")]),
            );
        }
        let selector = pairs(&[("app", "a"), ("env", "prod")]);
        let candidates: Vec<_> = selection.pods_for(&selector).map(AsRef::as_ref).collect();
        assert_eq!(candidates, ["pod-0"]);
    }

    #[test]
    fn selection_is_empty_after_all_pods_and_services_are_removed() {
        let mut selection = Selection::default();
        let labels = pairs(&[("app", "a"), ("env", "prod")]);
        selection.add_pod(&"pod".into(), &labels);
        selection.add_service(&"service".into(), &labels);
        selection.remove_pod(&"pod".into(), &labels);
        selection.remove_service(&"service".into());
        assert!(selection.is_empty());
        assert!(selection.pods_by_label.is_empty() && selection.services_by_pair.is_empty());
    }
}
