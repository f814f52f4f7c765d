//! Metrics of the sidecar's connection to the control plane and of its certificate.

use std::sync::Arc;

use kermode_identity::Validity;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the sidecar. Cheap to clone; clones share the values.
#[derive(Clone, Debug, Default)]
pub struct SidecarMetrics {
    connected: Gauge,
    /// Number of streams of the relay on which the control plane has responded. Two streams overlap while Envoy replaces
    /// its stream.
    streams: Arc<Mutex<usize>>,
    certificate_start: Gauge,
    certificate_expiry: Gauge,
}

/// Counts an open ADS stream until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectedGuard(SidecarMetrics);

// === impl SidecarMetrics ===

impl SidecarMetrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "1 while the sidecar has an ADS stream on which the control plane has responded, else 0";
        registry.register("control_plane_connected", help, self.connected.clone());
        let help = "Start of the validity of the workload's certificate, in seconds since the Unix epoch; 0 without a certificate or without mTLS";
        registry.register(
            "certificate_start_timestamp_seconds",
            help,
            self.certificate_start.clone(),
        );
        let help = "Expiry of the workload's certificate, in seconds since the Unix epoch; 0 without a certificate or without mTLS";
        registry.register(
            "certificate_expiry_timestamp_seconds",
            help,
            self.certificate_expiry.clone(),
        );
    }

    /// Counts an ADS stream whose control plane has responded.
    pub(crate) fn connected(&self) -> ConnectedGuard {
        let mut streams = self.streams.lock();
        *streams += 1;
        self.connected.set(1);
        ConnectedGuard(self.clone())
    }

    /// Records the certificate that the sidecar uses from now on.
    pub(crate) fn set_certificate(&self, validity: Validity) {
        let (start, expiry) = validity.to_unix();
        self.certificate_start.set(start);
        self.certificate_expiry.set(expiry);
    }

    /// Records that the mesh has no mTLS, so the sidecar needs no certificate.
    pub(crate) fn clear_certificate(&self) {
        self.certificate_start.set(0);
        self.certificate_expiry.set(0);
    }
}

#[cfg(test)]
impl SidecarMetrics {
    /// Returns start and expiry of the certificate.
    pub(crate) fn certificate(&self) -> (i64, i64) {
        (self.certificate_start.get(), self.certificate_expiry.get())
    }
}

// === impl ConnectedGuard ===

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        let mut streams = self.0.streams.lock();
        *streams -= 1;
        self.0.connected.set(i64::from(*streams > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecar_is_connected_until_its_last_stream_ends() {
        let metrics = SidecarMetrics::default();
        let old = metrics.connected();
        let new = metrics.connected();
        assert_eq!(metrics.connected.get(), 1);
        drop(old);
        assert_eq!(metrics.connected.get(), 1);
        drop(new);
        assert_eq!(metrics.connected.get(), 0);
    }
}
