//! Stores the virtual IPs of all meshes in a ConfigMap (docs/design.md#mesh-dns-names).
//!
//! The leader allocates the virtual IPs and writes the ConfigMap. The watch of the engine then delivers them to every
//! replica, so no replica uses an address that is not stored. The resource version in a write makes the API server
//! reject the write if another replica has changed the ConfigMap meanwhile.

mod metrics;
mod observed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kermode_model::{MeshName, ServiceName, VIRTUAL_IPS_CONFIG_MAP as CONFIG_MAP, VirtualIpRange};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::observed::Observed;
use super::failure::{describe, is_conflict, is_not_found};
use super::lease::while_leading;
use super::watch::watch_config;
use crate::service_changes::ServiceChanges;
use crate::shared_index::SharedIndex;
use crate::virtual_ips::{Allocation, Allocator, MAX_TEXT_LENGTH, Table};

pub use self::metrics::{Metrics, WriteResult};

/// Label of the ConfigMap.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kuma-cp");
/// Pause after each round. The first change is written at once; changes during the pause are written together after it.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a failed write is repeated. Meanwhile, new services have no virtual IP.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Pause before a change is written that changes no virtual IP: that a service is no longer in use, or is in use again. A
/// service that is away for a shorter time causes no write.
const LAZY_PAUSE: Duration = Duration::from_mins(1);

/// Allocates virtual IPs and writes them to the ConfigMap.
pub struct VirtualIpWriter {
    /// Client of the API server.
    pub client: Client,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Range of the virtual IPs.
    pub range: VirtualIpRange,
    /// Index with the services of each mesh.
    pub index: SharedIndex,
    /// Notification of new and deleted services.
    pub service_changes: ServiceChanges,
    /// Whether this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
    /// Metrics of the writes.
    pub metrics: Metrics,
    /// Clock, for the times since which services are unused.
    pub now: fn() -> Timestamp,
}

/// State of the leader between rounds.
#[derive(Debug, Default)]
struct State {
    observed: Observed,
    /// The last allocation of each mesh.
    allocations: BTreeMap<MeshName, Allocation>,
    /// Whether the last write failed.
    is_failing: bool,
    /// Time of the next round.
    next_round: Option<Instant>,
    /// Earliest time of the next round.
    not_before: Option<Instant>,
    /// Time at which a change is written that changes no virtual IP.
    lazy_write: Option<Instant>,
}

/// Changes of the ConfigMap.
struct Changes {
    /// The new texts; `None` for an entry to remove.
    texts: BTreeMap<MeshName, Option<String>>,
    /// Whether a service gets or loses a virtual IP.
    has_other_addresses: bool,
}

// === impl VirtualIpWriter ===

impl VirtualIpWriter {
    /// Maintains the ConfigMap while this replica leads, until the future is dropped.
    pub async fn run(self) {
        let writer = &self;
        let work = || async move {
            // Only the leader reports the numbers of services.
            let _reset = writer.metrics.reset_on_drop();
            writer.maintain().await;
        };
        while_leading(self.is_leader.clone(), work).await;
    }

    async fn maintain(&self) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let config = watch_config().fields(&format!("metadata.name={CONFIG_MAP}"));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut changes = self.service_changes.subscribe();
        let mut state = State::default();
        // Until the index is complete, services that are not listed yet appear to be missing.
        if changes.wait_for(|count| *count > 0).await.is_err() {
            return;
        }
        loop {
            let is_due = tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => state.observed.on_event(event),
                    Err(error) => {
                        tracing::warn!("ConfigMap {CONFIG_MAP} cannot be watched: {error}; retrying");
                        continue;
                    }
                },
                Ok(()) = changes.changed() => true,
                () = state.until_expiry((self.now)()) => true,
                () = state.until_next_round() => {
                    self.run_round(&mut state).await;
                    continue;
                }
            };
            if is_due && state.observed.is_listed() {
                state.request_round();
            }
        }
    }

    /// Allocates the virtual IPs of all meshes, and writes the ConfigMap if it differs.
    async fn run_round(&self, state: &mut State) {
        let changes = self.allocate_all(state);
        let now = Instant::now();
        // Changes that arrive within the pause are handled after it.
        state.not_before = Some(now + ROUND_PAUSE);
        state.next_round = None;
        if changes.texts.is_empty() {
            state.lazy_write = None;
            state.is_failing = false;
            return;
        }
        let lazy_write = *state.lazy_write.get_or_insert(now + LAZY_PAUSE);
        if !changes.has_other_addresses && now < lazy_write {
            state.next_round = Some(lazy_write);
            return;
        }
        let result = self.write(&state.observed, &changes.texts).await;
        self.on_result(state, result);
    }

    /// Allocates the virtual IPs of the meshes that exist, and of the other meshes that the ConfigMap contains. The latter
    /// have no service, so their addresses expire.
    fn allocate_all(&self, state: &mut State) -> Changes {
        let mut meshes = self.services_by_mesh();
        let observed = state.observed.config_map();
        let stored = observed
            .map(|observed| observed.texts.clone())
            .unwrap_or_default();
        for mesh in stored.keys() {
            meshes.entry(mesh.clone()).or_default();
        }
        state.allocations.retain(|mesh, _| meshes.contains_key(mesh));
        self.metrics.retain(&meshes);
        let mut total_length: usize = stored.values().map(String::len).sum();
        let mut changes = Changes {
            texts: BTreeMap::new(),
            has_other_addresses: false,
        };
        for (mesh, services) in &meshes {
            let stored = stored.get(mesh).map(String::as_str);
            let length_of_others = total_length - stored.map_or(0, str::len);
            let current = Table::parse(stored.unwrap_or_default(), self.range).0;
            let allocation = self.allocate(state, mesh, &current, services, length_of_others);
            let text = allocation.table.to_string();
            total_length = length_of_others + text.len();
            let text = Some(text).filter(|text| !text.is_empty());
            if stored != text.as_deref() {
                changes.has_other_addresses |= current.virtual_ips() != allocation.table.virtual_ips();
                changes.texts.insert(mesh.clone(), text);
            }
            state.allocations.insert(mesh.clone(), allocation);
        }
        changes
    }

    /// Allocates the virtual IPs of one mesh. `length_of_others` is the length of the texts of the other meshes.
    fn allocate(
        &self,
        state: &State,
        mesh: &MeshName,
        current: &Table,
        services: &BTreeSet<ServiceName>,
        length_of_others: usize,
    ) -> Allocation {
        let last = state.allocations.get(mesh);
        let remembered = last.map_or_else(|| self.published(mesh), |last| last.table.clone());
        let max_length = MAX_TEXT_LENGTH.saturating_sub(length_of_others);
        let allocator = Allocator::new(mesh.clone(), self.range, max_length);
        let allocation = allocator.allocate(current, &remembered, services, (self.now)());
        log_services_without_address(mesh, &allocation, last);
        self.metrics.set_numbers(mesh, &allocation);
        allocation
    }

    /// Returns the services of each Mesh that clients can call by a virtual IP.
    fn services_by_mesh(&self) -> BTreeMap<MeshName, BTreeSet<ServiceName>> {
        let index = self.index.read();
        let view = index.view();
        let callable = |mesh: &MeshName| {
            let services = view.services(mesh);
            let callable = services.filter(|(_, service)| service.is_callable_by_virtual_ip());
            callable.map(|(name, _)| name.clone()).collect()
        };
        let meshes = view.meshes();
        meshes
            .map(|mesh| (mesh.name.clone(), callable(&mesh.name)))
            .collect()
    }

    /// Returns the virtual IPs that this replica published before it became the leader.
    fn published(&self, mesh: &MeshName) -> Table {
        let index = self.index.read();
        Table::of(index.view().virtual_ips(mesh))
    }

    /// Records the result of a write, and schedules a repetition if it failed.
    fn on_result(&self, state: &mut State, result: kube::Result<ConfigMap>) {
        let now = Instant::now();
        match result {
            Ok(written) => {
                self.metrics.count(WriteResult::Written);
                tracing::debug!("ConfigMap {CONFIG_MAP} written");
                state.is_failing = false;
                state.lazy_write = None;
                state.observed.on_written(&written);
            }
            // The watch delivers the other version, which is then the base of the next attempt.
            Err(error) if is_conflict(&error) || is_not_found(&error) => {
                self.metrics.count(WriteResult::Conflict);
                tracing::debug!("ConfigMap {CONFIG_MAP} was changed concurrently; retrying");
                state.next_round = Some(now + ROUND_PAUSE);
            }
            Err(error) => {
                self.metrics.count(WriteResult::Failed);
                let message = describe(&format!("ConfigMap {CONFIG_MAP} cannot be written"), &error);
                if state.is_failing {
                    tracing::debug!("{message}; retrying");
                } else {
                    tracing::warn!(
                        "{message}; retrying; the names of new services do not resolve; if the ConfigMap is immutable, delete \
                         it"
                    );
                }
                state.is_failing = true;
                state.not_before = Some(now + RETRY_PAUSE);
                state.next_round = state.not_before;
            }
        }
    }

    /// Creates or updates the ConfigMap.
    async fn write(
        &self,
        observed: &Observed,
        texts: &BTreeMap<MeshName, Option<String>>,
    ) -> kube::Result<ConfigMap> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut object = config_map(texts);
        let Some(observed) = observed.config_map() else {
            let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            return api.create(&PostParams::default(), &object).await;
        };
        object["metadata"]["resourceVersion"] = json!(observed.resource_version);
        let patch = Patch::Merge(object);
        api.patch(CONFIG_MAP, &PatchParams::default(), &patch).await
    }
}

// === impl State ===

impl State {
    /// Requests a round as soon as the pause after the last round is over.
    fn request_round(&mut self) {
        let now = Instant::now();
        let earliest = self.not_before.map_or(now, |not_before| not_before.max(now));
        self.next_round = Some(self.next_round.map_or(earliest, |next| next.min(earliest)));
    }

    /// Waits until the next round; forever if there is nothing to do.
    async fn until_next_round(&self) {
        match self.next_round {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until an address of a former service expires; forever if there is none, or if a round is due anyway.
    async fn until_expiry(&self, now: Timestamp) {
        let tables = self.allocations.values().map(|allocation| &allocation.table);
        let next = tables.filter_map(|table| table.time_to_expiry(now)).min();
        match next.filter(|_| self.next_round.is_none()) {
            // At least a second, because the time is stored in whole seconds.
            Some(pause) => tokio::time::sleep(pause.max(ROUND_PAUSE)).await,
            None => std::future::pending().await,
        }
    }
}

/// Logs the services without a virtual IP if their number has changed.
fn log_services_without_address(mesh: &MeshName, allocation: &Allocation, last: Option<&Allocation>) {
    let count = allocation.without_address.len();
    let last_count = last.map_or(0, |last| last.without_address.len());
    match allocation.without_address.first() {
        Some(first) if count != last_count => tracing::error!(
            %mesh,
            "{count} services of the mesh, the first of them {first}, have no virtual IP, because the range dnsServer.CIDR or \
             the ConfigMap {CONFIG_MAP} is full; their names do not resolve. Configure a larger range, or use fewer services."
        ),
        None if last_count > 0 => tracing::info!(%mesh, "every service of the mesh has a virtual IP again"),
        _ => {}
    }
}

fn config_map(texts: &BTreeMap<MeshName, Option<String>>) -> Value {
    let (label, value) = MANAGED_BY;
    let data: BTreeMap<_, _> = texts.iter().map(|(mesh, text)| (mesh.as_str(), text)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "labels": {label: value}},
        "data": data,
    })
}
