//! Many sidecars, and what they have been sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::client::{self, Who};
use super::population::Sidecar;
use super::probes::Probes;
use crate::https;

/// Sidecars that run until dropped.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    size: usize,
    tasks: JoinSet<()>,
}

/// What sidecars have been sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Responses.
    pub responses: u64,
    /// Their bytes, before TLS.
    pub bytes: u64,
    /// Resources in them.
    pub resources: u64,
}

pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) tls: TlsConnector,
    pub(super) probes: Arc<Probes>,
    /// How many have their whole configuration.
    pub(super) complete: AtomicUsize,
    pub(super) changed: Notify,
    responses: AtomicU64,
    bytes: AtomicU64,
    resources: AtomicU64,
    failures: Mutex<BTreeMap<String, usize>>,
}

// === impl Fleet ===

impl Fleet {
    /// Starts sidecars, all at once.
    ///
    /// # Errors
    /// When the CA is none.
    pub fn start(
        address: SocketAddr,
        ca_pem: &str,
        sidecars: &[Sidecar],
        probes: &Arc<Probes>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            address,
            tls: TlsConnector::from(Arc::new(https::trusting(ca_pem, b"h2")?)),
            probes: probes.clone(),
            complete: AtomicUsize::new(0),
            changed: Notify::new(),
            responses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            resources: AtomicU64::new(0),
            failures: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (number, sidecar) in sidecars.iter().enumerate() {
            let who = Who {
                number,
                id: format!("default.{}.{}", sidecar.name, sidecar.namespace),
                cluster: sidecar.service.clone(),
                authorization: sidecar.authorization.clone(),
            };
            tasks.spawn(client::run(shared.clone(), who));
        }
        Ok(Self {
            shared,
            size: sidecars.len(),
            tasks,
        })
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits until all have their whole configuration; returns when the last one had.
    ///
    /// # Errors
    /// When that takes longer than `most`, with what went wrong most often.
    pub async fn complete(&self, most: Duration) -> Result<Instant> {
        let complete = || self.shared.complete.load(Ordering::Relaxed);
        let wait = async {
            while complete() < self.size {
                self.shared.changed.notified().await;
            }
            Instant::now()
        };
        tokio::time::timeout(most, wait).await.with_context(|| {
            let (complete, size, failures) = (complete(), self.size, self.failures());
            format!("{complete} of {size} sidecars have their configuration after {most:?}; failures: {failures:?}")
        })
    }

    /// Whether all still have their configuration and connection.
    pub fn is_complete(&self) -> bool {
        self.shared.complete.load(Ordering::Relaxed) == self.size
    }

    /// What they have been sent.
    pub fn sent(&self) -> Sent {
        Sent {
            responses: self.shared.responses.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            resources: self.shared.resources.load(Ordering::Relaxed),
        }
    }

    /// What went wrong, and how often.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        self.shared.failures().clone()
    }

    /// Ends all connections.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn count(&self, bytes: usize, resources: usize) {
        self.resources.fetch_add(resources as u64, Ordering::Relaxed);
        self.responses.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn note_failure(&self, error: &anyhow::Error) {
        *self.failures().entry(format!("{error:#}")).or_default() += 1;
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}
