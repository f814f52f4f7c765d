//! Many simulated sidecars, and counts of the responses that they received.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::client::{self, SidecarIdentity};
use super::expected_changes::ExpectedChanges;
use super::objects::Sidecar;
use crate::https;

/// Simulated sidecars. Dropping the value ends them.
#[derive(Debug)]
pub struct Fleet {
    state: Arc<FleetState>,
    size: usize,
    tasks: JoinSet<()>,
}

/// Counts of the ADS responses that all sidecars together have received so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedCounts {
    /// Number of responses.
    pub responses: u64,
    /// Size of the responses in bytes, before TLS.
    pub bytes: u64,
    /// Number of resources in the responses.
    pub resources: u64,
}

pub(super) struct FleetState {
    /// Address of the control plane.
    pub(super) address: SocketAddr,
    pub(super) tls: TlsConnector,
    pub(super) expected_changes: Arc<ExpectedChanges>,
    /// Number of sidecars with their whole configuration.
    pub(super) configured_count: AtomicUsize,
    /// Notified after each increase of `configured_count`.
    pub(super) configured_increased: Notify,
    responses: AtomicU64,
    bytes: AtomicU64,
    resources: AtomicU64,
    /// Number of failed connections by error.
    failures: Mutex<BTreeMap<String, usize>>,
}

// === impl Fleet ===

impl Fleet {
    /// Starts all sidecars at once.
    ///
    /// # Errors
    /// When the CA cannot be parsed.
    pub fn start(
        address: SocketAddr,
        ca_pem: &str,
        sidecars: &[Sidecar],
        expected_changes: &Arc<ExpectedChanges>,
    ) -> Result<Self> {
        let state = Arc::new(FleetState {
            address,
            tls: TlsConnector::from(Arc::new(https::client_config(ca_pem, b"h2")?)),
            expected_changes: expected_changes.clone(),
            configured_count: AtomicUsize::new(0),
            configured_increased: Notify::new(),
            responses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            resources: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (number, sidecar) in sidecars.iter().enumerate() {
            let identity = SidecarIdentity {
                number,
                id: format!("default.{}.{}", sidecar.name, sidecar.namespace),
                cluster: sidecar.cluster.clone(),
                authorization: sidecar.authorization.clone(),
            };
            tasks.spawn(client::run(state.clone(), identity));
        }
        Ok(Self {
            state,
            size: sidecars.len(),
            tasks,
        })
    }

    /// Number of sidecars.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until all sidecars have their whole configuration. Returns the time at which the last one was configured.
    ///
    /// # Errors
    /// When not all sidecars are configured within `timeout`. The error contains the failures of the sidecars.
    pub async fn wait_until_configured(&self, timeout: Duration) -> Result<Instant> {
        let configured_count = || self.state.configured_count.load(Ordering::Relaxed);
        let wait = async {
            while configured_count() < self.size {
                self.state.configured_increased.notified().await;
            }
            Instant::now()
        };
        tokio::time::timeout(timeout, wait).await.with_context(|| {
            format!(
                "{} of {} sidecars have their configuration after {timeout:?}; failures: {:?}",
                configured_count(),
                self.size,
                self.failures()
            )
        })
    }

    /// Whether all sidecars are connected and have their whole configuration.
    pub fn all_configured(&self) -> bool {
        self.state.configured_count.load(Ordering::Relaxed) == self.size
    }

    /// Returns the counts of received responses.
    pub fn received(&self) -> ReceivedCounts {
        ReceivedCounts {
            responses: self.state.responses.load(Ordering::Relaxed),
            bytes: self.state.bytes.load(Ordering::Relaxed),
            resources: self.state.resources.load(Ordering::Relaxed),
        }
    }

    /// Returns the number of failed connections by error.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        self.state.failures.lock().clone()
    }

    /// Ends all sidecars and their connections.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

// === impl FleetState ===

impl FleetState {
    /// Counts a received response.
    pub(super) fn count_response(&self, bytes: usize, resources: usize) {
        self.resources.fetch_add(resources as u64, Ordering::Relaxed);
        self.responses.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a failed connection.
    pub(super) fn record_failure(&self, error: &anyhow::Error) {
        let mut failures = self.failures.lock();
        *failures.entry(format!("{error:#}")).or_default() += 1;
    }
}

impl std::fmt::Debug for FleetState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetState")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
