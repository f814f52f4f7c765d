//! The ConfigMaps with the roots of the control plane, as the watch last delivered them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use super::{CONFIG_MAP, ENTRY, MANAGED_BY};

/// ConfigMaps by namespace.
#[derive(Debug, Default)]
pub(super) struct ObservedConfigMaps {
    by_namespace: BTreeMap<Arc<str>, ObservedConfigMap>,
    /// ConfigMaps of a list that is not complete yet.
    listed: BTreeMap<Arc<str>, ObservedConfigMap>,
    /// Whether a list was completed. Before, a missing ConfigMap is not known to be missing.
    is_listed: bool,
}

#[derive(Debug, PartialEq)]
struct ObservedConfigMap {
    /// Roots in PEM; `None` for a ConfigMap without the entry.
    roots: Option<Arc<str>>,
    /// Whether the control plane has written the ConfigMap.
    is_managed: bool,
}

impl ObservedConfigMaps {
    /// Applies an event of the watch.
    pub(super) fn on_event(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                if let Some((namespace, observed)) = read(object) {
                    self.listed.insert(namespace, observed);
                }
            }
            Event::InitDone => {
                self.by_namespace = std::mem::take(&mut self.listed);
                self.is_listed = true;
            }
            Event::Apply(object) => {
                if let Some((namespace, observed)) = read(object) {
                    self.by_namespace.insert(namespace, observed);
                }
            }
            Event::Delete(object) => {
                if object.name_any() == CONFIG_MAP {
                    self.by_namespace
                        .remove(object.namespace().unwrap_or_default().as_str());
                }
            }
        }
    }

    /// Records a write, so that it is not repeated before the watch delivers it.
    pub(super) fn on_written(&mut self, namespace: Arc<str>, roots: Arc<str>) {
        let written = ObservedConfigMap {
            roots: Some(roots),
            is_managed: true,
        };
        self.by_namespace.insert(namespace, written);
    }

    /// Returns the namespaces whose ConfigMap is missing or has other roots: the `needed` ones, and those that have a
    /// ConfigMap from the control plane. A Pod that comes to such a namespace later would trust the old roots.
    pub(super) fn outdated(&self, needed: &BTreeSet<Arc<str>>, roots: &Arc<str>) -> Vec<Arc<str>> {
        if !self.is_listed {
            return Vec::new();
        }
        let is_current = |namespace: &Arc<str>| {
            let observed = self.by_namespace.get(namespace);
            observed.is_some_and(|observed| observed.roots.as_ref() == Some(roots))
        };
        let managed = self
            .by_namespace
            .iter()
            .filter(|(_, observed)| observed.is_managed)
            .map(|(namespace, _)| namespace);
        let all: BTreeSet<&Arc<str>> = needed.iter().chain(managed).collect();
        all.into_iter()
            .filter(|namespace| !is_current(namespace))
            .cloned()
            .collect()
    }
}

/// Returns the namespace and the relevant parts of the ConfigMap; `None` for a ConfigMap with another name.
fn read(mut object: ConfigMap) -> Option<(Arc<str>, ObservedConfigMap)> {
    if object.name_any() != CONFIG_MAP {
        return None;
    }
    let (label, value) = MANAGED_BY;
    let roots = object.data.as_mut().and_then(|data| data.remove(ENTRY));
    let observed = ObservedConfigMap {
        roots: roots.map(Into::into),
        is_managed: object.labels().get(label).is_some_and(|found| found == value),
    };
    Some((object.namespace().unwrap_or_default().into(), observed))
}
