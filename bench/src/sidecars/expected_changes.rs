//! Expected additions and removals of endpoints, and the time at which each simulated sidecar receives them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Value in place of the lag of a sidecar that has not received the change yet.
const NOT_RECEIVED: u32 = u32::MAX;

/// Changes that at least one sidecar has not received yet.
#[derive(Debug, Default)]
pub struct ExpectedChanges {
    /// Changes by the service of the endpoint.
    pending: Mutex<HashMap<String, Vec<Arc<ExpectedChange>>>>,
}

/// Expected addition or removal of one endpoint.
#[derive(Debug)]
pub struct ExpectedChange {
    /// Service of the endpoint. The resource that contains the endpoint has the same name.
    service: String,
    /// Encoded address of the endpoint.
    encoded_address: Vec<u8>,
    /// Whether the endpoint is added; otherwise it is removed.
    is_addition: bool,
    started_at: Instant,
    receipts: Mutex<Receipts>,
    all_received: Notify,
}

/// Receipts of a change by the sidecars. The lag of a sidecar is the time from the start of the change to its receipt.
#[derive(Debug)]
struct Receipts {
    /// Lag of each sidecar in microseconds, or [`NOT_RECEIVED`], by the sidecar's number.
    lags: Vec<u32>,
    /// Number of sidecars that have not received the change.
    missing: usize,
}

// === impl ExpectedChanges ===

impl ExpectedChanges {
    /// Adds the change of an endpoint. All sidecars must receive the change. Lags are measured from this call.
    pub fn add(
        &self,
        service: &str,
        ip: &str,
        is_addition: bool,
        sidecar_count: usize,
    ) -> Arc<ExpectedChange> {
        let change = Arc::new(ExpectedChange {
            service: service.to_owned(),
            encoded_address: encoded_address(ip),
            is_addition,
            started_at: Instant::now(),
            receipts: Mutex::new(Receipts {
                lags: vec![NOT_RECEIVED; sidecar_count],
                missing: sidecar_count,
            }),
            all_received: Notify::new(),
        });
        let mut pending = self.pending.lock();
        pending
            .entry(service.to_owned())
            .or_default()
            .push(change.clone());
        change
    }

    /// Whether no change is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.lock().is_empty()
    }

    /// Records the changes that a sidecar received with the endpoints of a service. `assignment` is the encoded
    /// `ClusterLoadAssignment`.
    pub(super) fn on_endpoints(&self, sidecar: usize, service: &str, assignment: &[u8]) {
        let now = Instant::now();
        let mut pending = self.pending.lock();
        let Some(changes) = pending.get_mut(service) else {
            return;
        };
        changes.retain(|change| {
            let is_present = assignment
                .windows(change.encoded_address.len())
                .any(|part| part == change.encoded_address);
            is_present != change.is_addition || !change.record(sidecar, now)
        });
        if changes.is_empty() {
            pending.remove(service);
        }
    }

    /// Waits until all sidecars have received a change. Returns the lags of the sidecars, sorted, in milliseconds.
    ///
    /// # Errors
    /// When a sidecar has not received the change after `timeout`. All changes of the service are then given up.
    pub async fn wait(&self, change: &ExpectedChange, timeout: Duration) -> Result<Vec<f64>> {
        let received = tokio::time::timeout(timeout, change.all_received.notified()).await;
        if received.is_err() {
            self.pending.lock().remove(&change.service);
        }
        received.with_context(|| {
            let missing = change.receipts.lock().missing;
            format!(
                "{missing} sidecars have not received a change of {} after {timeout:?}",
                change.service
            )
        })?;
        let receipts = change.receipts.lock();
        let mut lags: Vec<f64> = receipts
            .lags
            .iter()
            .map(|micros| f64::from(*micros) / 1000.0)
            .collect();
        lags.sort_by(f64::total_cmp);
        Ok(lags)
    }
}

// === impl ExpectedChange ===

impl ExpectedChange {
    /// Records that a sidecar received the change. Returns whether all sidecars have received the change.
    fn record(&self, sidecar: usize, now: Instant) -> bool {
        let mut receipts = self.receipts.lock();
        let Some(lag) = receipts.lags.get_mut(sidecar).filter(|lag| **lag == NOT_RECEIVED) else {
            return receipts.missing == 0;
        };
        let micros = now.saturating_duration_since(self.started_at).as_micros();
        *lag = u32::try_from(micros).unwrap_or(NOT_RECEIVED - 1);
        receipts.missing -= 1;
        if receipts.missing == 0 {
            self.all_received.notify_one();
        }
        receipts.missing == 0
    }
}

/// Returns an address as encoded in `SocketAddress`: field 2, a length-prefixed string. Because of the length, the
/// encoding of another address never contains these bytes.
fn encoded_address(ip: &str) -> Vec<u8> {
    let length = u8::try_from(ip.len()).unwrap_or(u8::MAX);
    [&[0x12, length], ip.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_sidecar_is_counted_once_and_only_for_the_expected_address_and_service() {
        let changes = ExpectedChanges::default();
        let change = changes.add("web", "10.0.0.1", true, 2);
        let other = encoded_address("10.0.0.12");
        let expected = encoded_address("10.0.0.1");
        changes.on_endpoints(0, "web", &other);
        changes.on_endpoints(0, "api", &expected);
        assert_eq!(change.receipts.lock().missing, 2);
        changes.on_endpoints(0, "web", &expected);
        changes.on_endpoints(0, "web", &expected);
        assert_eq!(change.receipts.lock().missing, 1);
        changes.on_endpoints(1, "web", &[&other[..], &expected].concat());
        assert!(changes.is_empty());
        let lags = changes.wait(&change, Duration::from_secs(5)).await.expect("all");
        assert_eq!(lags.len(), 2);
    }
}
