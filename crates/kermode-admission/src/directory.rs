//! Directory of the objects that admission reads: Namespaces, Meshes, ContainerPatches, Nodes, and names of services.
//!
//! The directory is separate from the index, so that a burst of Pod events does not delay an admission.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kermode_crds::ContainerPatchSpec;
use kermode_crds::annotation::{SIDECAR_INJECTION, parse_bool};
use kermode_k8s::convert::facts::{NamespaceFacts, Pairs};
use kermode_model::{KubernetesVersion, MeshName, ObjectKey, ServiceName};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Objects that admission reads. The engine updates the directory from its watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<RwLock<Contents>>);

/// Contents of a [`Directory`].
#[derive(Debug, Default)]
pub struct Contents {
    /// Namespaces, by name.
    pub namespaces: HashMap<Arc<str>, Arc<NamespaceRecord>>,
    /// Names of Mesh resources.
    pub meshes: HashSet<Arc<str>>,
    /// ContainerPatches of the control plane's namespace, by name.
    pub container_patches: HashMap<Arc<str>, ContainerPatchSpec>,
    /// Versions of the kubelets of Nodes to which Pods with a sidecar may be scheduled.
    pub nodes: KubeletVersions,
    /// Names of services and gateways.
    pub services: ServiceNames,
}

/// Names of the services that have an endpoint, and names of gateways. A gateway has no inbound, but a permission may name
/// the gateway as a client.
#[derive(Debug, Default)]
pub struct ServiceNames {
    with_endpoints: HashMap<MeshName, HashSet<ServiceName>>,
    gateways: HashMap<ObjectKey, GatewayName>,
}

/// Mesh and name of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayName {
    /// Mesh of the gateway's Dataplane.
    pub mesh: MeshName,
    /// Name of the gateway: the service in its certificate.
    pub service: ServiceName,
}

impl ServiceNames {
    /// Whether the service has an endpoint in the mesh, or a gateway of the mesh has this name.
    pub fn contains(&self, mesh: &MeshName, service: &ServiceName) -> bool {
        let mut gateways = self.gateways.values();
        self.has_endpoint(mesh, service)
            || gateways.any(|gateway| gateway.mesh == *mesh && gateway.service == *service)
    }

    /// Whether the service has an endpoint in the mesh.
    pub fn has_endpoint(&self, mesh: &MeshName, service: &ServiceName) -> bool {
        let services = self.with_endpoints.get(mesh);
        services.is_some_and(|services| services.contains(service))
    }

    /// The name of the gateway with this Dataplane.
    pub fn gateway(&self, dataplane: &ObjectKey) -> Option<&GatewayName> {
        self.gateways.get(dataplane)
    }

    /// Adds or removes a service with an endpoint.
    pub fn set(&mut self, mesh: &MeshName, service: &ServiceName, exists: bool) {
        if exists {
            let services = self.with_endpoints.entry(mesh.clone()).or_default();
            services.insert(service.clone());
        } else if let Some(services) = self.with_endpoints.get_mut(mesh) {
            services.remove(service);
            if services.is_empty() {
                self.with_endpoints.remove(mesh);
            }
        }
    }

    /// Sets the name of the gateway with this Dataplane; `None` if the Dataplane is no gateway or does not exist.
    pub fn set_gateway(&mut self, dataplane: ObjectKey, name: Option<GatewayName>) {
        match name {
            Some(name) => self.gateways.insert(dataplane, name),
            None => self.gateways.remove(&dataplane),
        };
    }
}

/// Versions of kubelets, by Node.
#[derive(Debug, Default)]
pub struct KubeletVersions {
    by_node: HashMap<Arc<str>, KubernetesVersion>,
    /// The same versions, oldest first.
    sorted: BTreeSet<(KubernetesVersion, Arc<str>)>,
}

impl KubeletVersions {
    /// Sets the version of a Node's kubelet; `None` removes the Node.
    pub fn set(&mut self, node: Arc<str>, version: Option<KubernetesVersion>) {
        // Most updates of a Node are heartbeats, which do not change the version.
        if self.by_node.get(&node) == version.as_ref() {
            return;
        }
        if let Some(old) = self.by_node.remove(&node) {
            self.sorted.remove(&(old, node.clone()));
        }
        if let Some(version) = version {
            self.sorted.insert((version, node.clone()));
            self.by_node.insert(node, version);
        }
    }

    /// Returns the Node with the oldest kubelet, and the version of this kubelet; `None` without Nodes.
    pub fn oldest(&self) -> Option<(Arc<str>, KubernetesVersion)> {
        self.sorted
            .first()
            .map(|(version, node)| (node.clone(), *version))
    }
}

/// Labels and annotations of a Namespace.
#[derive(Debug, Default)]
pub struct NamespaceRecord {
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations with `kuma.io/` in the key.
    pub annotations: BTreeMap<String, String>,
}

impl From<&NamespaceFacts> for NamespaceRecord {
    fn from(facts: &NamespaceFacts) -> Self {
        let to_map = |pairs: &Pairs| {
            pairs
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect()
        };
        Self {
            labels: to_map(&facts.labels),
            annotations: to_map(&facts.annotations),
        }
    }
}

impl NamespaceRecord {
    /// Returns whether a label or annotation of the Namespace enables injection.
    pub fn enables_injection(&self) -> bool {
        let mut values = [&self.labels, &self.annotations]
            .into_iter()
            .filter_map(|map| map.get(SIDECAR_INJECTION));
        values.any(|value| parse_bool(SIDECAR_INJECTION, value).unwrap_or(false))
    }
}

impl Directory {
    /// Locks the directory for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.0.read()
    }

    /// Locks the directory for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.0.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_node_changes_when_nodes_are_added_upgraded_and_removed() {
        let mut kubelets = KubeletVersions::default();
        let oldest = |kubelets: &KubeletVersions| {
            kubelets
                .oldest()
                .map(|(node, version)| format!("{node} {version}"))
        };
        assert_eq!(oldest(&kubelets), None);
        kubelets.set("a".into(), Some(KubernetesVersion::new(1, 31)));
        kubelets.set("b".into(), Some(KubernetesVersion::new(1, 28)));
        kubelets.set("c".into(), Some(KubernetesVersion::new(1, 27)));
        assert_eq!(oldest(&kubelets).as_deref(), Some("c 1.27"));
        kubelets.set("c".into(), Some(KubernetesVersion::new(1, 31)));
        assert_eq!(oldest(&kubelets).as_deref(), Some("b 1.28"));
        kubelets.set("b".into(), None);
        assert_eq!(oldest(&kubelets).as_deref(), Some("a 1.31"));
        kubelets.set("a".into(), None);
        kubelets.set("c".into(), None);
        assert_eq!(oldest(&kubelets), None);
    }
}
