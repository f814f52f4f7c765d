//! What is waited for: that an endpoint is, or is no longer, among those of a service, at every client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Notify;

const UNSEEN: u32 = u32::MAX;

/// All that is waited for, by the name of the service's resource.
#[derive(Debug, Default)]
pub struct Probes {
    open: Mutex<HashMap<String, Vec<Arc<Probe>>>>,
}

/// One endpoint that is waited for.
#[derive(Debug)]
pub struct Probe {
    /// Name of the service's resource.
    service: String,
    /// The encoded address.
    needle: Vec<u8>,
    present: bool,
    began: Instant,
    seen: Mutex<Seen>,
    all: Notify,
}

#[derive(Debug)]
struct Seen {
    /// Microseconds by client.
    after: Vec<u32>,
    missing: usize,
}

// === impl Probes ===

impl Probes {
    /// Begins to wait until all of so many clients have, or do not have, an endpoint.
    pub fn begin(&self, service: &str, ip: &str, present: bool, clients: usize) -> Arc<Probe> {
        let probe = Arc::new(Probe {
            service: service.to_owned(),
            needle: needle(ip),
            present,
            began: Instant::now(),
            seen: Mutex::new(Seen {
                after: vec![UNSEEN; clients],
                missing: clients,
            }),
            all: Notify::new(),
        });
        let mut open = lock(&self.open);
        open.entry(service.to_owned()).or_default().push(probe.clone());
        probe
    }

    /// Whether anybody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.open).is_empty()
    }

    /// A client has got the endpoints of a service.
    pub(super) fn on_endpoints(&self, client: usize, service: &str, assignment: &[u8]) {
        let now = Instant::now();
        let mut open = lock(&self.open);
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

    /// Waits until all clients have seen it and returns when each did, in milliseconds since the beginning, sorted.
    ///
    /// # Errors
    /// When that takes longer than `most`.
    pub async fn finish(&self, probe: &Probe, most: Duration) -> Result<Vec<f64>> {
        let finished = tokio::time::timeout(most, probe.all.notified()).await;
        if finished.is_err() {
            lock(&self.open).remove(&probe.service);
        }
        finished.with_context(|| {
            let missing = lock(&probe.seen).missing;
            format!(
                "{missing} clients did not see a change of {} within {most:?}",
                probe.service
            )
        })?;
        let mut after: Vec<f64> = lock(&probe.seen)
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
    /// Whether that was the last client.
    fn on_seen(&self, client: usize, now: Instant) -> bool {
        let mut seen = lock(&self.seen);
        let Some(after) = seen.after.get_mut(client).filter(|after| **after == UNSEEN) else {
            return seen.missing == 0;
        };
        let micros = now.saturating_duration_since(self.began).as_micros();
        *after = u32::try_from(micros).unwrap_or(UNSEEN - 1);
        seen.missing -= 1;
        if seen.missing == 0 {
            self.all.notify_one();
        }
        seen.missing == 0
    }
}

/// An address as it is in an encoded `SocketAddress`: field 2, a string with its length. No other address has it in it.
fn needle(ip: &str) -> Vec<u8> {
    let length = u8::try_from(ip.len()).unwrap_or(u8::MAX);
    [&[0x12, length], ip.as_bytes()].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_counts_once_a_client_and_only_with_that_address() {
        let probes = Probes::default();
        let probe = probes.begin("web", "10.0.0.1", true, 2);
        let other = needle("10.0.0.12");
        let this = needle("10.0.0.1");
        probes.on_endpoints(0, "web", &other);
        probes.on_endpoints(0, "api", &this);
        assert_eq!(lock(&probe.seen).missing, 2);
        probes.on_endpoints(0, "web", &this);
        probes.on_endpoints(0, "web", &this);
        assert_eq!(lock(&probe.seen).missing, 1);
        probes.on_endpoints(1, "web", &[&other[..], &this].concat());
        assert!(probes.is_idle());
        let seen = probes.finish(&probe, Duration::from_secs(5)).await.expect("all");
        assert_eq!(seen.len(), 2);
    }
}
