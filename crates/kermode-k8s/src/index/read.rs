//! Read access to the index.

use kermode_model::view::MeshView;
use kermode_model::{MeshName, ObjectKey, ServiceName};

use super::Index;
use super::changes::{DataplaneChange, DesiredDataplane, PodIdentity};
use super::entry::{CurrentDataplane, PodEntry};
use crate::convert::ConvertError;
use crate::convert::facts::{NamespaceFacts, PodFacts};

impl Index {
    /// The mesh view.
    pub fn view(&self) -> &MeshView {
        &self.view
    }

    /// Number of conversions of Pods so far.
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

    /// Attributes that identify the proxy of a Pod in authentication. `None` if the mesh view has no Dataplane for the
    /// Pod: the Pod is unknown, was never converted successfully, or has finished, so that its proxy no longer runs.
    pub fn pod_identity(&self, key: &ObjectKey) -> Option<PodIdentity<'_>> {
        let facts = &self.pods.get(key)?.facts;
        self.view.dataplane(key)?;
        Some(PodIdentity {
            service_account: &facts.service_account,
            uid: &facts.uid,
        })
    }

    /// The Dataplane that must exist for a Pod; `None` if the Pod must not have a Dataplane.
    pub fn desired(&self, key: &ObjectKey) -> Option<DesiredDataplane<'_>> {
        self.pods
            .get(key)?
            .current
            .as_ref()
            .map(CurrentDataplane::desired)
    }

    /// All Dataplanes that must exist, in no particular order.
    pub fn all_desired(&self) -> impl Iterator<Item = DesiredDataplane<'_>> {
        let current = self.pods.values().filter_map(|entry| entry.current.as_ref());
        current.map(CurrentDataplane::desired)
    }

    /// Current errors and warnings of all Pods, as the changes that report them, in no particular order.
    pub fn problems(&self) -> impl Iterator<Item = DataplaneChange> {
        self.pods.values().flat_map(PodEntry::problems)
    }

    /// Pods that cannot be converted, with their errors, in no particular order.
    pub fn conversion_errors(&self) -> impl Iterator<Item = (&ObjectKey, &ConvertError)> {
        let pods = self.pods.iter();
        pods.filter_map(|(key, entry)| Some((key, entry.error.as_ref()?)))
    }

    /// Whether a service exists: a Dataplane of the mesh has an inbound of the service, a gateway of the mesh has this
    /// name, or a Kubernetes Service, which may have no Pods, has the port that the name stands for.
    pub fn service_exists(&self, mesh: &MeshName, name: &ServiceName) -> bool {
        let is_gateway = || {
            let mut gateways = self
                .view
                .dataplanes_of(mesh)
                .filter(|dataplane| dataplane.gateway.is_some());
            gateways.any(|gateway| gateway.services().contains(name))
        };
        self.view.service(mesh, name).is_some() || self.has_service_port(name) || is_gateway()
    }

    /// Whether a Kubernetes Service has the port that the name stands for.
    fn has_service_port(&self, name: &ServiceName) -> bool {
        let Some((key, port)) = name.service_port() else {
            return false;
        };
        let service = self.services.get(&key);
        service.is_some_and(|service| service.ports.iter().any(|declared| declared.number == port))
    }

    /// Whether a namespace is being deleted. The API server creates no objects in a terminating namespace.
    pub fn is_terminating(&self, namespace: &str) -> bool {
        self.namespaces
            .get(namespace)
            .is_some_and(|namespace| namespace.is_terminating)
    }
}

impl CurrentDataplane {
    fn desired(&self) -> DesiredDataplane<'_> {
        DesiredDataplane {
            dataplane: &self.dataplane,
            pod_uid: &self.pod_uid,
        }
    }
}
