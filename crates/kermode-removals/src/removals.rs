//! Handle of all endpoint removals: the state behind a lock, metrics, and notification of watchers. `kuma-cp`, ADS
//! streams and the gRPC service share the handle.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{self, Stream};
use kermode_model::{MeshName, ObjectKey};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::replicas::Replicas;
use crate::state::RemovalState;
use crate::status::{OpenRemoval, RemovalReport, RemovalStatus};

/// Maximum number of proxies that an [`OpenRemoval`] names.
const MAX_EXAMPLES: usize = 20;

/// Interval at which a watched removal is evaluated without a notification. Watchers are notified only when a removal
/// starts or completes, not when the number of pending proxies falls or a disconnected proxy expires.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Function that returns the mesh of a proxy, and the sequence number of the newest published change of the mesh.
/// Returns `None` if the proxy has no Dataplane or if the mesh was never published.
pub type PublishedSequence = dyn Fn(&ObjectKey) -> Option<(MeshName, u64)> + Send + Sync;

/// Handle of all endpoint removals. Cheap to clone; clones share the state.
#[derive(Clone, Debug)]
pub struct EndpointRemovals {
    inner: Arc<RemovalsInner>,
}

#[derive(Debug)]
struct RemovalsInner {
    state: Mutex<RemovalState>,
    /// ID of the next ADS stream.
    next_stream_id: AtomicU64,
    /// Notified whenever a removal starts or completes.
    changed: watch::Sender<()>,
    /// Metric of the time until a removal is acknowledged, in seconds.
    acknowledged_after: Histogram,
}

/// Reports the acknowledgements of one ADS stream. Dropping this value reports the end of the stream.
#[derive(Debug)]
pub struct StreamAcknowledgements {
    inner: Arc<RemovalsInner>,
    proxy: ObjectKey,
    stream_id: u64,
    /// Highest sequence number that was reported.
    acknowledged: u64,
}

// === impl EndpointRemovals ===

impl Default for EndpointRemovals {
    fn default() -> Self {
        let buckets = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
        Self {
            inner: Arc::new(RemovalsInner {
                state: Mutex::default(),
                next_stream_id: AtomicU64::default(),
                changed: watch::Sender::new(()),
                acknowledged_after: Histogram::new(buckets),
            }),
        }
    }
}

impl EndpointRemovals {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
        let help = "Time from publishing the removal of an endpoint until every proxy of this replica has acknowledged it";
        registry.register_with_unit(
            "xds_endpoint_removal_acknowledgement",
            help,
            Unit::Seconds,
            self.inner.acknowledged_after.clone(),
        );
    }

    /// Reports that an endpoint of the mesh was published or is about to be published.
    pub fn on_endpoint_added(&self, endpoint: ObjectKey, mesh: MeshName) {
        self.inner.update(|state, _| {
            state.add_endpoint(endpoint, mesh);
            Vec::new()
        });
    }

    /// Reports that the removal of an endpoint was published. `newest_sequence_of` returns the sequence number of the
    /// newest published change of a mesh. Does nothing for a proxy that is not an endpoint.
    pub fn on_endpoint_removed(
        &self,
        endpoint: &ObjectKey,
        newest_sequence_of: impl FnOnce(&MeshName) -> u64,
    ) {
        let Some(mesh) = self.inner.state.lock().mesh_of(endpoint).cloned() else {
            return;
        };
        let sequence = newest_sequence_of(&mesh);
        self.inner
            .update(|state, now| state.remove_endpoint(endpoint, sequence, now));
    }

    /// Reports that the deletion of a Dataplane was published, and with it the removal of its endpoint. The arguments are
    /// those of [`Self::on_endpoint_removed`].
    pub fn on_dataplane_deleted(&self, proxy: &ObjectKey, newest_sequence_of: impl FnOnce(&MeshName) -> u64) {
        self.on_endpoint_removed(proxy, newest_sequence_of);
        self.inner.update(|state, now| state.delete_dataplane(proxy, now));
    }

    /// Returns the status of an endpoint's removal.
    pub fn status(&self, endpoint: &ObjectKey) -> RemovalStatus {
        self.expire_disconnected_proxies();
        self.inner.state.lock().status(endpoint)
    }

    /// Returns the removals that at least one proxy has not acknowledged, oldest first.
    pub fn open_removals(&self) -> Vec<OpenRemoval> {
        self.expire_disconnected_proxies();
        let now = Instant::now();
        let state = self.inner.state.lock();
        let mut open_removals: Vec<_> = state
            .open_removals()
            .map(|(endpoint, started_at, unacknowledged)| OpenRemoval {
                endpoint: endpoint.clone(),
                age: now.saturating_duration_since(started_at),
                unacknowledged_count: unacknowledged.len(),
                examples: unacknowledged.into_iter().take(MAX_EXAMPLES).cloned().collect(),
            })
            .collect();
        open_removals.sort_by_key(|removal| std::cmp::Reverse(removal.age));
        open_removals
    }

    /// Removes proxies that have been disconnected for too long. No timer does this: all readers of the state call it.
    fn expire_disconnected_proxies(&self) {
        self.inner.update(RemovalState::expire_disconnected_proxies);
    }

    /// Reports that a proxy opened an ADS stream.
    pub fn on_stream_opened(&self, proxy: &ObjectKey, mesh: &MeshName) -> StreamAcknowledgements {
        let stream_id = self.inner.next_stream_id.fetch_add(1, Ordering::Relaxed);
        self.inner
            .update(|state, now| state.open_stream(proxy, mesh, stream_id, now));
        StreamAcknowledgements {
            inner: self.inner.clone(),
            proxy: proxy.clone(),
            stream_id,
            acknowledged: 0,
        }
    }

    /// Returns a stream of reports on an endpoint's removal: the current report, then each report that differs from the
    /// one before. The stream never ends, since a proxy that connects later may still have the endpoint.
    pub fn watch(
        &self,
        endpoint: ObjectKey,
        published_sequence: Arc<PublishedSequence>,
        replicas: watch::Receiver<Replicas>,
    ) -> impl Stream<Item = RemovalReport> + Send + 'static {
        let watcher = RemovalWatcher {
            changed: self.inner.changed.subscribe(),
            removals: self.clone(),
            endpoint,
            published_sequence,
            replicas,
            last_report: None,
        };
        stream::unfold(watcher, async |mut watcher| {
            Some((watcher.next_report().await, watcher))
        })
    }

    /// Returns the current report on an endpoint's removal. Starts a query if the endpoint is unknown.
    fn report(
        &self,
        endpoint: &ObjectKey,
        published_sequence: &PublishedSequence,
        replicas: &Replicas,
    ) -> RemovalReport {
        let is_known = self.inner.state.lock().is_known_endpoint(endpoint);
        if !is_known && let Some((mesh, sequence)) = published_sequence(endpoint) {
            // The configuration that this replica published with this sequence number does not contain the endpoint.
            self.inner
                .update(|state, now| state.start_query(endpoint, mesh, sequence, now));
        }
        RemovalReport {
            status: self.status(endpoint),
            other_replicas: replicas.others.clone(),
            covers_all_proxies: replicas.are_stable(),
        }
    }
}

/// State of one watch of a removal.
struct RemovalWatcher {
    removals: EndpointRemovals,
    endpoint: ObjectKey,
    published_sequence: Arc<PublishedSequence>,
    changed: watch::Receiver<()>,
    replicas: watch::Receiver<Replicas>,
    /// Last report that was returned.
    last_report: Option<RemovalReport>,
}

impl RemovalWatcher {
    /// Returns the next report that differs from the last one.
    async fn next_report(&mut self) -> RemovalReport {
        loop {
            self.changed.mark_unchanged();
            let replicas = self.replicas.borrow_and_update().clone();
            let report = self
                .removals
                .report(&self.endpoint, &*self.published_sequence, &replicas);
            if self.last_report.as_ref() != Some(&report) {
                self.last_report = Some(report.clone());
                return report;
            }
            // `changed` cannot be closed, because `removals` holds its sender.
            let _ = tokio::time::timeout(POLL_INTERVAL, async {
                tokio::select! {
                    _ = self.changed.changed() => {}
                    Ok(()) = self.replicas.changed() => {}
                }
            })
            .await;
        }
    }
}

// === impl StreamAcknowledgements ===

impl StreamAcknowledgements {
    /// Reports that the proxy has applied every endpoint change up to a sequence number. `None`, and a number that is
    /// not higher than the last one, are ignored.
    pub fn acknowledge(&mut self, sequence: Option<u64>) {
        let Some(sequence) = sequence.filter(|sequence| *sequence > self.acknowledged) else {
            return;
        };
        self.acknowledged = sequence;
        let (proxy, stream_id) = (&self.proxy, self.stream_id);
        self.inner
            .update(|state, now| state.acknowledge(proxy, stream_id, sequence, now));
    }
}

impl Drop for StreamAcknowledgements {
    fn drop(&mut self) {
        let (proxy, stream_id) = (&self.proxy, self.stream_id);
        self.inner
            .update(|state, now| state.close_stream(proxy, stream_id, now));
    }
}

impl Collector for EndpointRemovals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let removals = self.open_removals();
        let oldest = removals.first().map_or(0.0, |removal| removal.age.as_secs_f64());
        let count = i64::try_from(removals.len()).unwrap_or(i64::MAX);
        let help = "Removed endpoints whose removal some proxy of this replica has not acknowledged";
        let count = ConstGauge::new(count);
        let descriptor =
            encoder.encode_descriptor("xds_endpoint_removals_open", help, None, count.metric_type())?;
        count.encode(descriptor)?;
        let help = "Time since the oldest of these removals was published; 0 without one";
        let oldest = ConstGauge::new(oldest);
        let unit = Some(&Unit::Seconds);
        let descriptor =
            encoder.encode_descriptor("xds_endpoint_removals_oldest", help, unit, oldest.metric_type())?;
        oldest.encode(descriptor)
    }
}

// === impl RemovalsInner ===

impl RemovalsInner {
    /// Applies a change to the state. If removals started or completed, notifies the watchers after releasing the
    /// lock. `change` returns the durations of the removals that it completed.
    fn update(&self, change: impl FnOnce(&mut RemovalState, Instant) -> Vec<Duration>) {
        let mut state = self.state.lock();
        let open_before = state.open_count();
        let completed = change(&mut state, Instant::now());
        let open_count = state.open_count();
        drop(state);
        for duration in &completed {
            self.acknowledged_after.observe(duration.as_secs_f64());
        }
        if open_count != open_before || !completed.is_empty() {
            self.changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests;
