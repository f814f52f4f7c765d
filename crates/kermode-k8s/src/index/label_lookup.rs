//! Finds the Pods that a Service may select, and the Services that may select a Pod, without a scan of the namespace.
//!
//! A Pod is indexed by each of its labels, and a Service by one label of its selector. A lookup returns candidates,
//! which match one label. The caller then evaluates the whole selector for each candidate.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::convert::facts::Pairs;

/// Key and value of a label.
type Label = (Arc<str>, Arc<str>);
/// Names of Pods or Services in the namespace.
type Names = HashSet<Arc<str>>;

/// Lookup of the Pods and Services of one namespace by labels.
#[derive(Debug, Default)]
pub(super) struct LabelLookup {
    pods: Names,
    pods_by_label: HashMap<Label, Names>,
    services_by_label: HashMap<Label, Names>,
    /// Label by which each Service is indexed.
    label_of_service: HashMap<Arc<str>, Label>,
}

impl LabelLookup {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.label_of_service.is_empty()
    }

    /// Names of all Pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.iter()
    }

    pub(super) fn add_pod(&mut self, name: &Arc<str>, labels: &Pairs) {
        self.pods.insert(name.clone());
        for label in labels.iter() {
            add(&mut self.pods_by_label, label, name);
        }
    }

    pub(super) fn remove_pod(&mut self, name: &Arc<str>, labels: &Pairs) {
        self.pods.remove(name);
        for label in labels.iter() {
            remove(&mut self.pods_by_label, label, name);
        }
    }

    /// Indexes a Service by one label of its selector: the label by which the fewest other Services are indexed. If
    /// Services were indexed by a label that all of them share, every Service would be a candidate for every Pod. A
    /// Service with an empty selector is not indexed, because it selects no Pod.
    pub(super) fn add_service(&mut self, name: &Arc<str>, selector: &Pairs) {
        let service_count = |label: &&Label| self.services_by_label.get(*label).map_or(0, HashSet::len);
        let Some(label) = selector.iter().min_by_key(service_count).cloned() else {
            return;
        };
        add(&mut self.services_by_label, &label, name);
        self.label_of_service.insert(name.clone(), label);
    }

    pub(super) fn remove_service(&mut self, name: &Arc<str>) {
        if let Some(label) = self.label_of_service.remove(name) {
            remove(&mut self.services_by_label, &label, name);
        }
    }

    /// Names of the Services that may select a Pod with these labels.
    pub(super) fn services_for(&self, labels: &Pairs) -> impl Iterator<Item = &Arc<str>> {
        labels
            .iter()
            .filter_map(|label| self.services_by_label.get(label))
            .flatten()
    }

    /// Names of the Pods that a selector may match: the Pods that have the selector's rarest label.
    pub(super) fn pods_for(&self, selector: &Pairs) -> impl Iterator<Item = &Arc<str>> {
        let pods_with = |label: &Label| self.pods_by_label.get(label);
        let rarest = selector
            .iter()
            .min_by_key(|label| pods_with(label).map_or(0, HashSet::len));
        rarest.and_then(pods_with).into_iter().flatten()
    }
}

fn add(names_by_label: &mut HashMap<Label, Names>, label: &Label, name: &Arc<str>) {
    names_by_label
        .entry(label.clone())
        .or_default()
        .insert(name.clone());
}

fn remove(names_by_label: &mut HashMap<Label, Names>, label: &Label, name: &Arc<str>) {
    if let Some(names) = names_by_label.get_mut(label) {
        names.remove(name);
        if names.is_empty() {
            names_by_label.remove(label);
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
        let mut lookup = LabelLookup::default();
        for app in ["a", "b", "c", "d"] {
            lookup.add_service(&app.into(), &pairs(&[("app", app), ("env", "prod")]));
        }
        let labels = pairs(&[("app", "c"), ("env", "prod")]);
        let candidates: Vec<_> = lookup.services_for(&labels).map(AsRef::as_ref).collect();
        assert!(candidates.contains(&"c"));
        // One Service may be indexed by the shared label: no Service is indexed yet when it is added.
        assert!(candidates.len() <= 2, "{candidates:?}");
    }

    #[test]
    fn candidates_of_a_selector_are_the_pods_with_its_rarest_label() {
        let mut lookup = LabelLookup::default();
        for number in 0..10 {
            let app = if number == 0 { "a" } else { "b" };
            lookup.add_pod(
                &format!("pod-{number}").into(),
                &pairs(&[("app", app), ("env", "prod")]),
            );
        }
        let selector = pairs(&[("app", "a"), ("env", "prod")]);
        let candidates: Vec<_> = lookup.pods_for(&selector).map(AsRef::as_ref).collect();
        assert_eq!(candidates, ["pod-0"]);
    }

    #[test]
    fn lookup_is_empty_after_all_pods_and_services_are_removed() {
        let mut lookup = LabelLookup::default();
        let labels = pairs(&[("app", "a"), ("env", "prod")]);
        lookup.add_pod(&"pod".into(), &labels);
        lookup.add_service(&"service".into(), &labels);
        lookup.remove_pod(&"pod".into(), &labels);
        lookup.remove_service(&"service".into());
        assert!(lookup.is_empty());
        assert!(lookup.pods_by_label.is_empty() && lookup.services_by_label.is_empty());
    }
}
