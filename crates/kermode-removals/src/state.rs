//! State of endpoint removals, and the acknowledged sequence number of each proxy. No IO; the clock is passed in.
//!
//! Every change of the resource store has a sequence number. A proxy acknowledges a sequence number once it has applied
//! every endpoint change up to this number. A removal is pending for the proxies whose acknowledged number is lower
//! than the sequence number of the removal. The proxies are ordered by acknowledged number, so no removal needs a list
//! of its pending proxies.
//!
//! A terminating sidecar asks each replica whether every proxy has acknowledged the removal of its endpoint. A replica
//! that has neither published nor removed the endpoint starts a *query*. The query is complete once every proxy has
//! acknowledged the sequence number that was the newest at the start of the query. A query is stored as a [`Removal`]
//! with `is_published: false`. Metrics and the list of open removals leave out queries.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use kermode_model::{MeshName, ObjectKey};

use crate::replicas::RECONNECT_TIMEOUT;
use crate::status::RemovalStatus;

/// A proxy that has a stream, or whose last stream ended within the [`RECONNECT_TIMEOUT`].
#[derive(Debug)]
struct KnownProxy {
    /// ID by which [`MeshState::proxies_by_acknowledged`] refers to the proxy.
    id: u64,
    mesh: MeshName,
    /// ID of the newest stream; `None` after this stream has ended.
    stream: Option<u64>,
    /// Highest sequence number that the proxy acknowledged.
    acknowledged: u64,
    /// Time at which a stream of the proxy last ended; `None` if no stream has ended.
    last_stream_ended_at: Option<Instant>,
    /// Whether the proxy's Dataplane was deleted. The proxy is removed when its stream ends.
    is_dataplane_deleted: bool,
}

/// Removal of one endpoint, or a query (see the module documentation).
#[derive(Debug)]
struct Removal {
    mesh: MeshName,
    /// Sequence number that a proxy has to acknowledge.
    sequence: u64,
    started_at: Instant,
    /// True for a removal that this replica published, false for a query.
    is_published: bool,
    /// Time from the start until every proxy had acknowledged the removal. A proxy that connects later may still have
    /// the endpoint.
    acknowledged_after: Option<Duration>,
    /// Whether the endpoint's Dataplane was deleted. If so, the removal is discarded once it is complete.
    is_dataplane_deleted: bool,
}

/// Proxies and incomplete removals of one mesh.
#[derive(Debug, Default)]
struct MeshState {
    /// Acknowledged sequence number and ID of each proxy, ordered by sequence number.
    proxies_by_acknowledged: BTreeSet<(u64, u64)>,
    /// Sequence number and endpoint of each incomplete removal or query, ordered by sequence number.
    incomplete_removals: BTreeSet<(u64, ObjectKey)>,
}

/// State of [`crate::removals::EndpointRemovals`].
///
/// A method that returns a `Vec<Duration>` returns one duration for each published removal that the call completed: the
/// time from the publication to the last acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct RemovalState {
    meshes: HashMap<MeshName, MeshState>,
    /// Proxies with a stream, and proxies that may reconnect.
    proxies: HashMap<ObjectKey, KnownProxy>,
    /// Highest [`KnownProxy::id`] so far.
    last_id: u64,
    /// Ended streams: the time of the end and the proxy, oldest first. The proxy may have opened another stream since.
    ended_streams: VecDeque<(Instant, ObjectKey)>,
    /// Mesh of each published endpoint that is not removed.
    endpoints: HashMap<ObjectKey, MeshName>,
    /// Removals and queries, by endpoint.
    removals: HashMap<ObjectKey, Removal>,
    /// Number of queries in [`MeshState::incomplete_removals`] of all meshes.
    incomplete_queries: usize,
}

// === impl RemovalState ===

impl RemovalState {
    /// Adds an endpoint and discards its removal, if any.
    pub(crate) fn add_endpoint(&mut self, endpoint: ObjectKey, mesh: MeshName) {
        self.discard_removal(&endpoint);
        self.endpoints.insert(endpoint, mesh);
    }

    /// Returns the mesh of an endpoint that is not removed.
    pub(crate) fn mesh_of(&self, endpoint: &ObjectKey) -> Option<&MeshName> {
        self.endpoints.get(endpoint)
    }

    /// Starts the removal of an endpoint. `sequence` is the number with which the removal was published.
    pub(crate) fn remove_endpoint(
        &mut self,
        endpoint: &ObjectKey,
        sequence: u64,
        now: Instant,
    ) -> Vec<Duration> {
        let Some(mesh) = self.endpoints.remove(endpoint) else {
            return Vec::new();
        };
        let is_published = true;
        self.start_removal(endpoint, mesh, sequence, is_published, now)
    }

    /// Returns whether this replica has published the endpoint, or stores a removal or query of the endpoint.
    pub(crate) fn is_known_endpoint(&self, endpoint: &ObjectKey) -> bool {
        self.endpoints.contains_key(endpoint) || self.removals.contains_key(endpoint)
    }

    /// Starts a query of an endpoint, unless the endpoint is known. Proxies that reconnected from another replica may
    /// have the endpoint until they have applied every change up to `sequence`.
    pub(crate) fn start_query(
        &mut self,
        endpoint: &ObjectKey,
        mesh: MeshName,
        sequence: u64,
        now: Instant,
    ) -> Vec<Duration> {
        if self.is_known_endpoint(endpoint) {
            return Vec::new();
        }
        let is_published = false;
        self.start_removal(endpoint, mesh, sequence, is_published, now)
    }

    /// Records that the Dataplane of a proxy was deleted. Called after the removal of the proxy's endpoint was started.
    pub(crate) fn delete_dataplane(&mut self, proxy: &ObjectKey, now: Instant) -> Vec<Duration> {
        let is_complete = self.removals.get_mut(proxy).is_some_and(|removal| {
            removal.is_dataplane_deleted = true;
            removal.acknowledged_after.is_some()
        });
        if is_complete {
            self.removals.remove(proxy);
        }
        let Some(known) = self.proxies.get_mut(proxy) else {
            return Vec::new();
        };
        known.is_dataplane_deleted = true;
        if known.stream.is_none() {
            self.remove_proxy(proxy, now)
        } else {
            Vec::new()
        }
    }

    /// Records a new stream of a proxy. A proxy that is new at this replica, or has changed its mesh, starts with the
    /// acknowledged number 0. A proxy that reconnects keeps its acknowledged number.
    pub(crate) fn open_stream(
        &mut self,
        proxy: &ObjectKey,
        mesh: &MeshName,
        stream: u64,
        now: Instant,
    ) -> Vec<Duration> {
        let has_changed_mesh = self.proxies.get(proxy).is_some_and(|known| known.mesh != *mesh);
        let completed = if has_changed_mesh {
            self.remove_proxy(proxy, now)
        } else {
            Vec::new()
        };
        let mesh_state = self.meshes.entry(mesh.clone()).or_default();
        let last_id = &mut self.last_id;
        let known = self.proxies.entry(proxy.clone()).or_insert_with(|| {
            *last_id += 1;
            mesh_state.proxies_by_acknowledged.insert((0, *last_id));
            KnownProxy {
                id: *last_id,
                mesh: mesh.clone(),
                stream: None,
                acknowledged: 0,
                last_stream_ended_at: None,
                is_dataplane_deleted: false,
            }
        });
        // The newest stream has the highest ID.
        known.stream = known.stream.max(Some(stream));
        known.is_dataplane_deleted = false;
        completed
    }

    /// Records that a proxy has applied every endpoint change up to `sequence`. Acknowledgements of a stream other than
    /// the proxy's newest are ignored.
    pub(crate) fn acknowledge(
        &mut self,
        proxy: &ObjectKey,
        stream: u64,
        sequence: u64,
        now: Instant,
    ) -> Vec<Duration> {
        let Some(known) = self.proxies.get_mut(proxy) else {
            return Vec::new();
        };
        if known.stream != Some(stream) || sequence <= known.acknowledged {
            return Vec::new();
        }
        let mesh = known.mesh.clone();
        let mesh_state = self.meshes.entry(mesh.clone()).or_default();
        mesh_state
            .proxies_by_acknowledged
            .remove(&(known.acknowledged, known.id));
        known.acknowledged = sequence;
        mesh_state.proxies_by_acknowledged.insert((sequence, known.id));
        self.complete_removals(&mesh, now)
    }

    /// Records the end of a stream. Ignores a stream other than the proxy's newest. The proxy stays known, because its
    /// Envoy keeps the configuration and may reconnect. A proxy whose Dataplane was deleted is removed at once.
    pub(crate) fn close_stream(&mut self, proxy: &ObjectKey, stream: u64, now: Instant) -> Vec<Duration> {
        let Some(known) = self.proxies.get_mut(proxy) else {
            return Vec::new();
        };
        if known.stream != Some(stream) {
            return Vec::new();
        }
        known.stream = None;
        known.last_stream_ended_at = Some(now);
        if known.is_dataplane_deleted {
            return self.remove_proxy(proxy, now);
        }
        self.ended_streams.push_back((now, proxy.clone()));
        // Limits `ended_streams` to the streams that have ended within the timeout.
        self.expire_disconnected_proxies(now)
    }

    /// Removes proxies that have had no stream for the [`RECONNECT_TIMEOUT`].
    pub(crate) fn expire_disconnected_proxies(&mut self, now: Instant) -> Vec<Duration> {
        let mut completed = Vec::new();
        while let Some((ended_at, proxy)) = self.ended_streams.pop_front() {
            if now.saturating_duration_since(ended_at) < RECONNECT_TIMEOUT {
                self.ended_streams.push_front((ended_at, proxy));
                break;
            }
            // The proxy may have opened another stream since. The end of that stream has its own entry.
            let is_expired = |known: &KnownProxy| {
                let last_ended_at = known.last_stream_ended_at.unwrap_or(ended_at);
                known.stream.is_none() && now.saturating_duration_since(last_ended_at) >= RECONNECT_TIMEOUT
            };
            if self.proxies.get(&proxy).is_some_and(is_expired) {
                completed.extend(self.remove_proxy(&proxy, now));
            }
        }
        completed
    }

    /// Returns the status of an endpoint's removal.
    pub(crate) fn status(&self, endpoint: &ObjectKey) -> RemovalStatus {
        let Some(removal) = self.removals.get(endpoint) else {
            return RemovalStatus::NotRemoved;
        };
        let proxies = self.pending_proxy_ids(endpoint, removal).count();
        match removal.acknowledged_after.filter(|_| proxies == 0) {
            Some(after) => RemovalStatus::Acknowledged { after },
            None => RemovalStatus::Pending { proxies },
        }
    }

    /// Returns the published removals that are not complete: the endpoint, the start time, and the proxies that have
    /// not acknowledged the removal.
    pub(crate) fn open_removals(&self) -> impl Iterator<Item = (&ObjectKey, Instant, Vec<&ObjectKey>)> {
        let open = self
            .removals
            .iter()
            .filter(|(_, removal)| removal.is_published && removal.acknowledged_after.is_none());
        open.map(|(endpoint, removal)| {
            let pending_ids: HashSet<u64> = self.pending_proxy_ids(endpoint, removal).collect();
            let pending = self
                .proxies
                .iter()
                .filter(|(_, known)| pending_ids.contains(&known.id));
            (
                endpoint,
                removal.started_at,
                pending.map(|(key, _)| key).collect(),
            )
        })
    }

    /// Returns the number of published removals that are not complete.
    pub(crate) fn open_count(&self) -> usize {
        let incomplete: usize = self
            .meshes
            .values()
            .map(|mesh_state| mesh_state.incomplete_removals.len())
            .sum();
        incomplete.saturating_sub(self.incomplete_queries)
    }

    fn start_removal(
        &mut self,
        endpoint: &ObjectKey,
        mesh: MeshName,
        sequence: u64,
        is_published: bool,
        now: Instant,
    ) -> Vec<Duration> {
        let mesh_state = self.meshes.entry(mesh.clone()).or_default();
        mesh_state
            .incomplete_removals
            .insert((sequence, endpoint.clone()));
        self.incomplete_queries += usize::from(!is_published);
        let removal = Removal {
            mesh: mesh.clone(),
            sequence,
            started_at: now,
            is_published,
            acknowledged_after: None,
            is_dataplane_deleted: false,
        };
        self.removals.insert(endpoint.clone(), removal);
        self.complete_removals(&mesh, now)
    }

    /// Returns the IDs of the proxies that have not acknowledged a removal.
    fn pending_proxy_ids<'a>(
        &'a self,
        endpoint: &ObjectKey,
        removal: &Removal,
    ) -> impl Iterator<Item = u64> + use<'a> {
        // The sidecar of the endpoint does not have to acknowledge the removal.
        let own_id = self.proxies.get(endpoint).map(|known| known.id);
        let mesh_state = self.meshes.get(&removal.mesh);
        let behind =
            mesh_state.map(|mesh_state| mesh_state.proxies_by_acknowledged.range(..(removal.sequence, 0)));
        behind
            .into_iter()
            .flatten()
            .map(|(_, id)| *id)
            .filter(move |id| Some(*id) != own_id)
    }

    /// Completes the incomplete removals of a mesh that every proxy has acknowledged, in the order of their sequence
    /// numbers.
    fn complete_removals(&mut self, mesh: &MeshName, now: Instant) -> Vec<Duration> {
        let mut completed = Vec::new();
        while let Some((_, endpoint)) = self
            .meshes
            .get(mesh)
            .and_then(|mesh_state| mesh_state.incomplete_removals.first())
        {
            let endpoint = endpoint.clone();
            let is_pending = self
                .removals
                .get(&endpoint)
                .is_some_and(|removal| self.pending_proxy_ids(&endpoint, removal).next().is_some());
            if is_pending {
                break;
            }
            completed.extend(self.complete_removal(&endpoint, now));
        }
        completed
    }

    /// Completes a removal or query. Returns how long the removal took; `None` for a query.
    fn complete_removal(&mut self, endpoint: &ObjectKey, now: Instant) -> Option<Duration> {
        let removal = self.removals.get_mut(endpoint)?;
        let after = now.saturating_duration_since(removal.started_at);
        removal.acknowledged_after = Some(after);
        let is_published = removal.is_published;
        self.incomplete_queries -= usize::from(!is_published);
        let sequence_and_endpoint = (removal.sequence, endpoint.clone());
        if let Some(mesh_state) = self.meshes.get_mut(&removal.mesh) {
            mesh_state.incomplete_removals.remove(&sequence_and_endpoint);
        }
        if removal.is_dataplane_deleted {
            self.removals.remove(endpoint);
        }
        is_published.then_some(after)
    }

    fn discard_removal(&mut self, endpoint: &ObjectKey) {
        let Some(removal) = self.removals.remove(endpoint) else {
            return;
        };
        let sequence_and_endpoint = (removal.sequence, endpoint.clone());
        if let Some(mesh_state) = self.meshes.get_mut(&removal.mesh)
            && mesh_state.incomplete_removals.remove(&sequence_and_endpoint)
        {
            self.incomplete_queries -= usize::from(!removal.is_published);
        }
    }

    /// Removes a proxy and completes the removals that only this proxy had not acknowledged.
    fn remove_proxy(&mut self, proxy: &ObjectKey, now: Instant) -> Vec<Duration> {
        let Some(known) = self.proxies.remove(proxy) else {
            return Vec::new();
        };
        if let Some(mesh_state) = self.meshes.get_mut(&known.mesh) {
            mesh_state
                .proxies_by_acknowledged
                .remove(&(known.acknowledged, known.id));
        }
        let completed = self.complete_removals(&known.mesh, now);
        let is_unused = |mesh_state: &MeshState| {
            mesh_state.proxies_by_acknowledged.is_empty() && mesh_state.incomplete_removals.is_empty()
        };
        if self.meshes.get(&known.mesh).is_some_and(is_unused) {
            self.meshes.remove(&known.mesh);
        }
        completed
    }
}

#[cfg(test)]
mod tests;
