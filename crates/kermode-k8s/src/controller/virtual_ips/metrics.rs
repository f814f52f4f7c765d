//! Metrics of the virtual IPs and of the writes of their ConfigMap.

use std::collections::{BTreeMap, BTreeSet};

use kermode_model::{MeshName, ServiceName};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;

use crate::virtual_ips::Allocation;

/// Counter of writes by result, and numbers of services by mesh and state. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<WriteLabels, Counter>,
    services: Family<ServiceLabels, Gauge>,
    /// Meshes for which numbers are set.
    meshes: Arc<Mutex<BTreeSet<MeshName>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    result: WriteResult,
}

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteResult {
    /// The ConfigMap was created or updated.
    Written,
    /// The ConfigMap was changed concurrently. The write will be repeated.
    Conflict,
    /// The write failed and will be repeated.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    mesh: String,
    state: ServiceState,
}

/// State of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ServiceState {
    /// The mesh has the service, which has a virtual IP.
    Used,
    /// The mesh does not have the service any more. Its virtual IP is reserved.
    Unused,
    /// The mesh has the service, but no virtual IP was free.
    WithoutAddress,
}

/// Removes the numbers of services when it is dropped.
pub(super) struct ResetOnDrop<'m>(&'m Metrics);

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "virtual_ip_writes",
            "Writes of the ConfigMap with virtual IPs, by result",
            self.writes.clone(),
        );
        registry.register(
            "virtual_ip_services",
            "Services by mesh and state of their virtual IP; only the leader reports them",
            self.services.clone(),
        );
    }

    /// Returns the number of writes with a result.
    pub fn write_count(&self, result: WriteResult) -> u64 {
        self.writes.get_or_create(&WriteLabels { result }).get()
    }

    pub(super) fn count(&self, result: WriteResult) {
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }

    /// Sets the numbers of a mesh.
    pub(super) fn set_numbers(&self, mesh: &MeshName, allocation: &Allocation) {
        let unused = allocation.table.unused_count();
        let used = allocation.table.len() - unused;
        let without_address = allocation.without_address.len();
        for (state, number) in [
            (ServiceState::Used, used),
            (ServiceState::Unused, unused),
            (ServiceState::WithoutAddress, without_address),
        ] {
            let gauge = self.services.get_or_create(&labels(mesh, state));
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.meshes.lock().insert(mesh.clone());
    }

    /// Removes the numbers of all other meshes.
    pub(super) fn retain(&self, meshes: &BTreeMap<MeshName, BTreeSet<ServiceName>>) {
        self.meshes.lock().retain(|mesh| {
            let is_kept = meshes.contains_key(mesh);
            if !is_kept {
                self.remove_numbers(mesh);
            }
            is_kept
        });
    }

    /// Returns a guard that removes the numbers of all meshes when it is dropped.
    pub(super) fn reset_on_drop(&self) -> ResetOnDrop<'_> {
        ResetOnDrop(self)
    }

    fn remove_numbers(&self, mesh: &MeshName) {
        for state in [
            ServiceState::Used,
            ServiceState::Unused,
            ServiceState::WithoutAddress,
        ] {
            self.services.remove(&labels(mesh, state));
        }
    }
}

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.retain(&BTreeMap::new());
    }
}

fn labels(mesh: &MeshName, state: ServiceState) -> ServiceLabels {
    ServiceLabels {
        mesh: mesh.to_string(),
        state,
    }
}
