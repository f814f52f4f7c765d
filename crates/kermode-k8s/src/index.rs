//! The index: derives the mesh view from Kubernetes objects, incrementally and in memory. No IO.
//!
//! Each write of an object returns the [`Changes`] of the index, and converts only the Pods that depend on the object:
//! for a Pod, the Pod itself and the Pods that claim one of its IPs; for a Service, the Pods that it selects now or
//! selected before; for an EndpointSlice, no Pod; for a ReplicaSet or Job, its Pods; for a Namespace, its Pods whose
//! mesh changes, and its Pods without a Dataplane. The state does not depend on the order of the writes, with two
//! exceptions: a Pod that cannot be converted keeps its last valid Dataplane, and a Pod whose sidecar a restarted kubelet
//! has not probed yet stays ready (see [`Readiness`](crate::convert::facts::Readiness)).
//!
//! Each Pod is converted only once if the initial lists are applied in the order Namespaces, ReplicaSets and Jobs,
//! Services, Pods. The engine must not publish changes before all initial lists are complete, because a Pod whose
//! Services are not listed yet appears to have no Services.

mod addresses;
mod changes;
mod entry;
mod ip_claims;
mod label_lookup;
mod pool;
mod read;
mod slices;

use std::collections::hash_map;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kermode_model::view::{MeshView, ServiceAddresses, Touched};
use kermode_model::{Mesh, MeshName, ObjectKey, ServiceName, TrafficPermission, VirtualIps};

pub use self::addresses::of_service as service_addresses;
pub use self::changes::{Changes, DataplaneChange, DesiredDataplane, PodIdentity};
use self::entry::PodEntry;
use self::ip_claims::IpClaims;
use self::label_lookup::LabelLookup;
use self::pool::Pool;
use self::slices::Slices;
use crate::convert::facts::{IntermediateFacts, IntermediateId, NamespaceFacts, PodFacts, ServiceFacts};
use crate::convert::{self, ConvertError, ConvertSettings, Converted};

/// Facts of the objects that conversion reads (see [`crate::convert::facts`]), and the mesh view derived from them.
#[derive(Debug, Default)]
pub struct Index {
    settings: ConvertSettings,
    view: MeshView,
    /// Injected Pods only.
    pods: HashMap<ObjectKey, PodEntry>,
    services: HashMap<ObjectKey, ServiceFacts>,
    namespaces: HashMap<Arc<str>, NamespaceFacts>,
    /// ReplicaSets and Jobs, the intermediates between a workload and its Pods.
    intermediates: HashMap<IntermediateId, IntermediateFacts>,
    pods_by_intermediate: HashMap<IntermediateId, HashSet<ObjectKey>>,
    /// For each namespace, the lookup of its Pods and Services by labels.
    lookups: HashMap<Arc<str>, LabelLookup>,
    ip_claims: IpClaims,
    slices: Slices,
    /// Texts that the facts of several objects share.
    pool: Pool,
    /// Number of conversions of Pods so far.
    conversions: u64,
}

// === impl Index: writes ===

impl Index {
    /// Creates an empty index.
    pub fn new(settings: ConvertSettings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Adds or replaces a Pod. A Pod without a sidecar is removed.
    pub fn apply_pod(&mut self, mut pod: PodFacts) -> Changes {
        if !pod.is_injected() {
            return self.remove_pod(&pod.key);
        }
        if let Some(entry) = self.pods.get(&pod.key) {
            pod.remember(&entry.facts);
            if entry.facts == pod {
                return Changes::default();
            }
        }
        pod.deduplicate(&mut self.pool);
        let key = pod.key.clone();
        let mut affected = self.rivals_of(&key);
        let services = self.services_at_ips_of(&key);
        self.unlink(&key);
        self.link(&pod);
        match self.pods.entry(key.clone()) {
            hash_map::Entry::Occupied(mut entry) => entry.get_mut().replace_facts(pod),
            hash_map::Entry::Vacant(entry) => {
                entry.insert(PodEntry::new(pod));
            }
        }
        affected.extend(self.rivals_of(&key));
        affected.insert(key);
        let mut changes = self.reconvert(affected);
        changes.extend(self.update_slice_endpoints(services));
        changes
    }

    /// Removes a Pod.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Changes {
        let rivals = self.rivals_of(key);
        let services = self.services_at_ips_of(key);
        self.unlink(key);
        let mut changes = Changes::default();
        if let Some(mut entry) = self.pods.remove(key) {
            entry.remove_dataplane(&mut self.view, &mut changes);
        }
        changes.extend(self.reconvert(rivals));
        changes.extend(self.update_slice_endpoints(services));
        changes
    }

    /// Adds or replaces a Service.
    pub fn apply_service(&mut self, service: ServiceFacts) -> Changes {
        if self.services.get(&service.key) == Some(&service) {
            return Changes::default();
        }
        self.replace_service(&service.key.clone(), Some(service))
    }

    /// Removes a Service.
    pub fn remove_service(&mut self, key: &ObjectKey) -> Changes {
        self.replace_service(key, None)
    }

    /// Adds or replaces a Namespace.
    pub fn apply_namespace(&mut self, namespace: NamespaceFacts) -> Changes {
        let name = namespace.name.clone();
        if self.namespaces.get(&name) == Some(&namespace) {
            return Changes::default();
        }
        self.namespaces.insert(name.clone(), namespace);
        self.reconvert_namespace(&name)
    }

    /// Removes a Namespace. Objects in the Namespace remain until they are removed individually.
    pub fn remove_namespace(&mut self, name: &str) -> Changes {
        match self.namespaces.remove_entry(name) {
            Some((name, _)) => self.reconvert_namespace(&name),
            None => Changes::default(),
        }
    }

    /// Adds or replaces a ReplicaSet or Job. Its Pods may have been applied before, or may follow.
    pub fn apply_intermediate(&mut self, intermediate: IntermediateFacts) -> Changes {
        if self.intermediates.get(&intermediate.id) == Some(&intermediate) {
            return Changes::default();
        }
        let id = intermediate.id.clone();
        self.intermediates.insert(id.clone(), intermediate);
        self.reconvert_pods_of(&id)
    }

    /// Removes a ReplicaSet or Job.
    pub fn remove_intermediate(&mut self, id: &IntermediateId) -> Changes {
        match self.intermediates.remove(id) {
            Some(_) => self.reconvert_pods_of(id),
            None => Changes::default(),
        }
    }

    /// Adds or replaces a Mesh.
    pub fn apply_mesh(&mut self, mesh: Mesh) -> Changes {
        Changes::of_view(self.view.upsert_mesh(mesh))
    }

    /// Removes a Mesh. Its virtual IPs stay as long as the ConfigMap contains them.
    pub fn remove_mesh(&mut self, name: &MeshName) -> Changes {
        Changes::of_view(self.view.remove_mesh(name))
    }

    /// Applies the virtual IPs that the ConfigMap contains, by mesh.
    ///
    /// A service of the index whose virtual IP is missing keeps it, unless another service has it now: the leader stores it
    /// again. A damaged or deleted ConfigMap therefore changes nothing for clients.
    pub fn apply_virtual_ips(&mut self, mut stored: BTreeMap<MeshName, VirtualIps>) -> Changes {
        for mesh in self.view.meshes_with_virtual_ips() {
            stored.entry(mesh.clone()).or_default();
        }
        let mut changes = Changes::default();
        for (mesh, mut virtual_ips) in stored {
            let taken: HashSet<_> = virtual_ips.values().copied().collect();
            let former = self.view.virtual_ips(&mesh);
            for (name, _) in self.view.services(&mesh) {
                if let Some(ip) = former.get(name).filter(|ip| !taken.contains(ip)) {
                    virtual_ips.entry(name.clone()).or_insert(*ip);
                }
            }
            changes.extend(Changes::of_view(self.view.set_virtual_ips(&mesh, virtual_ips)));
        }
        changes
    }

    /// Adds or replaces a MeshTrafficPermission. `mesh` is the mesh of the new version; the replaced version may belong
    /// to another mesh.
    pub fn apply_permission(
        &mut self,
        key: &ObjectKey,
        mesh: &MeshName,
        permission: TrafficPermission,
    ) -> Changes {
        Changes::of_view(self.view.upsert_permission(key, mesh, permission))
    }

    /// Removes a MeshTrafficPermission.
    pub fn remove_permission(&mut self, key: &ObjectKey) -> Changes {
        Changes::of_view(self.view.remove_permission(key))
    }
}

// === impl Index: effects of a write ===

impl Index {
    /// Adds, replaces or removes a Service, and converts the Pods that its old or new version selects.
    fn replace_service(&mut self, key: &ObjectKey, new: Option<ServiceFacts>) -> Changes {
        let old = self.services.remove(key);
        let selected = |service: &ServiceFacts| self.pods_selected_by(service);
        let affected: HashSet<_> = old.iter().chain(&new).flat_map(selected).collect();
        let mut changes = Changes {
            touched: self.replace_addresses(old.as_ref(), new.as_ref()),
            ..Changes::default()
        };
        self.set_service(key, new);
        changes.extend(self.reconvert(affected));
        changes.extend(self.update_slice_endpoints([key.clone()]));
        changes
    }

    /// Stores or removes a Service, and updates the lookup by labels.
    fn set_service(&mut self, key: &ObjectKey, service: Option<ServiceFacts>) {
        let lookup = self.lookups.entry(key.namespace.clone()).or_default();
        lookup.remove_service(&key.name);
        if let Some(service) = service {
            if service.yields_inbounds() {
                lookup.add_service(&key.name, &service.selector);
            }
            self.services.insert(key.clone(), service);
        }
        self.remove_empty_lookup(&key.namespace);
    }

    /// Replaces the addresses of a Service's ports in the mesh view.
    fn replace_addresses(&mut self, old: Option<&ServiceFacts>, new: Option<&ServiceFacts>) -> Vec<Touched> {
        let current: HashMap<ServiceName, ServiceAddresses> =
            new.into_iter().flat_map(addresses::of_service).collect();
        let previous = old.into_iter().flat_map(addresses::of_service);
        let removed: Vec<_> = previous.filter(|(name, _)| !current.contains_key(name)).collect();
        let mut touched = Vec::new();
        for (name, _) in removed {
            touched.extend(self.view.set_addresses(&name, None));
        }
        for (name, addresses) in current {
            touched.extend(self.view.set_addresses(&name, Some(addresses)));
        }
        touched
    }

    fn pods_selected_by(&self, service: &ServiceFacts) -> Vec<ObjectKey> {
        let namespace = &service.key.namespace;
        let lookup = self.lookups.get(namespace).into_iter();
        let candidates = lookup.flat_map(|lookup| lookup.pods_for(&service.selector));
        candidates
            .filter_map(|name| self.pods.get(&ObjectKey::new(namespace.clone(), name.clone())))
            .filter(|entry| convert::selects(service, &entry.facts))
            .map(|entry| entry.key().clone())
            .collect()
    }

    /// Converts those Pods of a Namespace whose mesh has changed or that have no Dataplane.
    fn reconvert_namespace(&mut self, name: &Arc<str>) -> Changes {
        let namespace = self.namespaces.get(name);
        let pods = self.lookups.get(name).into_iter().flat_map(LabelLookup::pods);
        let keys = pods.map(|pod| ObjectKey::new(name.clone(), pod.clone()));
        // The Namespace affects only the mesh of a Pod, and only if the Pod itself has no annotation `kuma.io/mesh`.
        let needs_conversion = |entry: &PodEntry| match &entry.current {
            Some(current) => current.dataplane.mesh != convert::mesh_of(&entry.facts, namespace),
            None => true,
        };
        let affected: Vec<_> = keys
            .filter(|key| self.pods.get(key).is_some_and(needs_conversion))
            .collect();
        self.reconvert(affected)
    }

    /// Converts the Pods of a ReplicaSet or Job.
    fn reconvert_pods_of(&mut self, id: &IntermediateId) -> Changes {
        let pods = self.pods_by_intermediate.get(id);
        let keys: Vec<_> = pods.into_iter().flatten().cloned().collect();
        self.reconvert(keys)
    }

    /// Converts Pods, for the first time or again, and updates their Dataplanes and the Services that have their IPs as
    /// endpoints.
    fn reconvert(&mut self, keys: impl IntoIterator<Item = ObjectKey>) -> Changes {
        let mut changes = Changes::default();
        let mut services = HashSet::new();
        for key in keys {
            let Some(result) = self.pods.get(&key).map(|entry| self.convert_pod(&entry.facts)) else {
                continue;
            };
            self.conversions += 1;
            let is_ip_taken = self.is_ip_taken(&key);
            if let Some(entry) = self.pods.get_mut(&key) {
                entry.apply_result(result, is_ip_taken, &mut self.view, &mut changes);
            }
            services.extend(self.services_at_ips_of(&key));
        }
        changes.extend(self.update_slice_endpoints(services));
        changes
    }

    /// Returns the Services whose EndpointSlices contain an IP of a Pod.
    fn services_at_ips_of(&self, key: &ObjectKey) -> HashSet<ObjectKey> {
        let pod = self.pods.get(key).map(|entry| &entry.facts);
        let services = pod.into_iter().flat_map(|pod| self.slices.services_at(pod));
        services.cloned().collect()
    }

    fn convert_pod(&self, pod: &PodFacts) -> Result<Option<Converted>, ConvertError> {
        let namespace = &pod.key.namespace;
        let lookup = self.lookups.get(namespace).into_iter();
        let candidates = lookup.flat_map(|lookup| lookup.services_for(&pod.labels));
        let services = convert::selecting_services(
            candidates.filter_map(|name| {
                self.services
                    .get(&ObjectKey::new(namespace.clone(), name.clone()))
            }),
            pod,
        );
        let workload = convert::top_workload(pod, |id| self.intermediates.get(id));
        let namespace_facts = self.namespaces.get(namespace);
        convert::convert(pod, &services, namespace_facts, workload.as_ref(), &self.settings)
    }

    /// Returns the other Pods that claim an IP of a Pod.
    fn rivals_of(&self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let pod = self.pods.get(key).map(|entry| &entry.facts);
        let ips = pod.into_iter().flat_map(PodFacts::held_ips);
        ips.flat_map(|ip| self.ip_claims.rivals(ip, key))
            .cloned()
            .collect()
    }

    /// Returns whether another Pod takes an IP from a Pod (see [`takes_ip_from`]).
    fn is_ip_taken(&self, key: &ObjectKey) -> bool {
        let facts = |key: &ObjectKey| self.pods.get(key).map(|entry| &entry.facts);
        let Some(pod) = facts(key) else {
            return false;
        };
        let mut rivals = pod.held_ips().flat_map(|ip| self.ip_claims.rivals(ip, key));
        rivals.any(|rival| facts(rival).is_some_and(|rival| takes_ip_from(rival, pod)))
    }

    /// Adds a Pod to the lookups by labels, by intermediate and by IP.
    fn link(&mut self, pod: &PodFacts) {
        for ip in pod.held_ips() {
            self.ip_claims.add(ip, &pod.key);
        }
        let lookup = self.lookups.entry(pod.key.namespace.clone()).or_default();
        lookup.add_pod(&pod.key.name, &pod.labels);
        if let Some(id) = intermediate_of(pod) {
            self.pods_by_intermediate
                .entry(id)
                .or_default()
                .insert(pod.key.clone());
        }
    }

    /// Removes a Pod from the lookups by labels, by intermediate and by IP.
    fn unlink(&mut self, key: &ObjectKey) {
        let Some(entry) = self.pods.get(key) else {
            return;
        };
        for ip in entry.facts.held_ips() {
            self.ip_claims.remove(ip, key);
        }
        if let Some(lookup) = self.lookups.get_mut(&key.namespace) {
            lookup.remove_pod(&key.name, &entry.facts.labels);
        }
        if let Some(id) = intermediate_of(&entry.facts)
            && let hash_map::Entry::Occupied(mut pods) = self.pods_by_intermediate.entry(id)
        {
            pods.get_mut().remove(key);
            if pods.get().is_empty() {
                pods.remove();
            }
        }
        self.remove_empty_lookup(&key.namespace);
    }

    /// Removes the lookup by labels of a namespace that has no Pods and no Services.
    fn remove_empty_lookup(&mut self, namespace: &Arc<str>) {
        if self.lookups.get(namespace).is_some_and(LabelLookup::is_empty) {
            self.lookups.remove(namespace);
        }
    }
}

/// Returns whether an IP that both Pods claim belongs to `pod`. A Pod that is not being deleted takes the IP from a Pod
/// that is being deleted. Otherwise, the IP belongs to the Pod that got its IPs later. If the timestamps are equal, the
/// names decide, so that every order of writes gives the same state.
fn takes_ip_from(pod: &PodFacts, other: &PodFacts) -> bool {
    let rank = |pod: &PodFacts| (!pod.is_terminating, pod.has_ips_since);
    rank(pod)
        .cmp(&rank(other))
        .then_with(|| pod.key.cmp(&other.key))
        .is_gt()
}

/// Returns the identifier of the ReplicaSet or Job that owns a Pod; `None` if the Pod has no such owner.
fn intermediate_of(pod: &PodFacts) -> Option<IntermediateId> {
    let owner = pod.owner.as_ref()?;
    IntermediateId::of(&pod.key.namespace, owner)
}

#[cfg(test)]
pub(crate) mod builders;
#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
