//! Probes, each of which waits until every client has, or no longer has, one endpoint of a service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Marks a client that has not seen the change.
const UNSEEN: u32 = u32::MAX;

/// Open probes, by the name of the service's resource.
#[derive(Debug, Default)]
pub struct Probes {
    open: Mutex<HashMap<String, Vec<Arc<Probe>>>>,
}

/// Expected addition or removal of one endpoint.
#[derive(Debug)]
pub struct Probe {
    /// Name of the service's resource.
    service: String,
    /// Encoded address of the endpoint.
    needle: Vec<u8>,
    present: bool,
    started_at: Instant,
    seen: Mutex<Seen>,
    all: Notify,
}

#[derive(Debug)]
struct Seen {
    /// Microseconds until each client saw the change.
    after: Vec<u32>,
    missing: usize,
}

// === impl Probes ===

impl Probes {
    /// Starts a probe: all clients have to see the endpoint (`present`) or its removal.
    pub fn begin(&self, service: &str, ip: &str, present: bool, clients: usize) -> Arc<Probe> {
        let probe = Arc::new(Probe {
            service: service.to_owned(),
            needle: needle(ip),
            present,
            started_at: Instant::now(),
            seen: Mutex::new(Seen {
                after: vec![UNSEEN; clients],
                missing: clients,
            }),
            all: Notify::new(),
        });
        let mut open = self.open.lock();
        open.entry(service.to_owned()).or_default().push(probe.clone());
        probe
    }

    /// Whether no probe is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open.lock().is_empty()
    }

    /// Records that a client received the endpoints of a service.
    pub(super) fn on_endpoints(&self, client: usize, service: &str, assignment: &[u8]) {
        let now = Instant::now();
        let mut open = self.open.lock();
        let Some(probes) = open.get_mut(service) else {
            return;
        };
        probes.retain(|probe| {
            let present = assignment
                .windows(probe.needle.len())
                .any(|part| part == probe.needle);
            present != probe.present || !probe.on_seen(client, now)
        });
        if probes.is_empty() {
            open.remove(service);
        }
    }

    /// Waits until all clients have seen the change. Returns the sorted lags, in milliseconds since the start.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn finish(&self, probe: &Probe, timeout: Duration) -> Result<Vec<f64>> {
        let finished = tokio::time::timeout(timeout, probe.all.notified()).await;
        if finished.is_err() {
            self.open.lock().remove(&probe.service);
        }
        finished.with_context(|| {
            let missing = probe.seen.lock().missing;
            format!(
                "{missing} clients have not received a change of {} after {timeout:?}",
                probe.service
            )
        })?;
        let mut after: Vec<f64> = probe
            .seen
            .lock()
            .after
            .iter()
            .map(|micros| f64::from(*micros) / 1000.0)
            .collect();
        after.sort_by(f64::total_cmp);
        Ok(after)
    }
}

// === impl Probe ===

impl Probe {
    /// Records that a client saw the change. Returns whether it was the last one.
    fn on_seen(&self, client: usize, now: Instant) -> bool {
        let mut seen = self.seen.lock();
        let Some(after) = seen.after.get_mut(client).filter(|after| **after == UNSEEN) else {
            return seen.missing == 0;
        };
        let micros = now.saturating_duration_since(self.started_at).as_micros();
        *after = u32::try_from(micros).unwrap_or(UNSEEN - 1);
        seen.missing -= 1;
        if seen.missing == 0 {
            self.all.notify_one();
        }
        seen.missing == 0
    }
}

/// Returns an address as encoded in `SocketAddress`: field 2, a length-prefixed string. No other address contains it.
fn needle(ip: &str) -> Vec<u8> {
    let length = u8::try_from(ip.len()).unwrap_or(u8::MAX);
    [&[0x12, length], ip.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn probe_counts_each_client_once_and_only_its_own_address() {
        let probes = Probes::default();
        let probe = probes.begin("web", "10.0.0.1", true, 2);
        let other = needle("10.0.0.12");
        let this = needle("10.0.0.1");
        probes.on_endpoints(0, "web", &other);
        probes.on_endpoints(0, "api", &this);
        assert_eq!(probe.seen.lock().missing, 2);
        probes.on_endpoints(0, "web", &this);
        probes.on_endpoints(0, "web", &this);
        assert_eq!(probe.seen.lock().missing, 1);
        probes.on_endpoints(1, "web", &[&other[..], &this].concat());
        assert!(probes.is_idle());
        let seen = probes.finish(&probe, Duration::from_secs(5)).await.expect("all");
        assert_eq!(seen.len(), 2);
    }
}
