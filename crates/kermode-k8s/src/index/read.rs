//! Reading the index: for the writer, for the authentication of proxies, for whoever generates configuration.

use kermode_model::ObjectKey;
use kermode_model::view::MeshView;

use super::Index;
use super::changes::{DataplaneChange, Desired, PodIdentity};
use super::entry::{Entry, Made};
use crate::convert::ConvertError;
use crate::convert::facts::{NamespaceFacts, PodFacts};

impl Index {
    /// The mesh view.
    pub fn view(&self) -> &MeshView {
        &self.view
    }

    /// How many times a Pod has been converted so far: the work that writes have caused.
    pub fn conversions(&self) -> u64 {
        self.conversions
    }

    /// An injected Pod.
    pub fn pod(&self, key: &ObjectKey) -> Option<&PodFacts> {
        self.pods.get(key).map(|entry| &entry.facts)
    }

    /// A Namespace.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        self.namespaces.get(name)
    }

    /// Who the proxy of a Pod may be. Nobody, once the Pod has finished: what asks then is not that proxy.
    pub fn pod_entitlement(&self, key: &ObjectKey) -> Option<PodIdentity<'_>> {
        let facts = &self.pods.get(key)?.facts;
        self.view.dataplane(key)?;
        Some(PodIdentity {
            service_account: &facts.service_account,
            uid: &facts.uid,
        })
    }

    /// The Dataplane of that name as it should be; `None` when there should be none.
    pub fn desired(&self, key: &ObjectKey) -> Option<Desired<'_>> {
        self.pods.get(key)?.made.as_ref().map(Made::desired)
    }

    /// All Dataplanes as they should be, in no order.
    pub fn all_desired(&self) -> impl Iterator<Item = Desired<'_>> {
        let made = self.pods.values().filter_map(|entry| entry.made.as_ref());
        made.map(Made::desired)
    }

    /// What there is to tell on Pods, in no order: of those that cannot be converted, and of those that may not be
    /// converted as meant.
    pub fn complaints(&self) -> impl Iterator<Item = DataplaneChange> {
        self.pods.values().flat_map(Entry::complaints)
    }

    /// Pods that cannot be converted, and why, in no order.
    pub fn failed(&self) -> impl Iterator<Item = (&ObjectKey, &ConvertError)> {
        let pods = self.pods.iter();
        pods.filter_map(|(key, entry)| Some((key, entry.error.as_ref()?)))
    }

    /// Whether a namespace is being deleted: nothing can be created in it any more.
    pub fn is_terminating(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|namespace| namespace.deleting)
    }
}

impl Made {
    fn desired(&self) -> Desired<'_> {
        Desired {
            dataplane: &self.dataplane,
            pod_uid: &self.pod_uid,
        }
    }
}
