//! Metrics of the sidecar's connection to the control plane and of its certificate.

use kermode_identity::Validity;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the sidecar. Cheap to clone; clones share the values.
#[derive(Clone, Debug, Default)]
pub struct SidecarMetrics {
    connected: Gauge,
    certificate_start: Gauge,
    certificate_expiry: Gauge,
}

/// Counts an open ADS stream until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectedGuard(Gauge);

// === impl SidecarMetrics ===

impl SidecarMetrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Open ADS streams to the control plane: 1, or 0 while the sidecar is not connected";
        registry.register("control_plane_connected", help, self.connected.clone());
        let help = "Start of the validity of the workload's certificate, in seconds since the Unix epoch; 0 without a certificate";
        registry.register(
            "certificate_start_timestamp_seconds",
            help,
            self.certificate_start.clone(),
        );
        let help =
            "Expiry of the workload's certificate, in seconds since the Unix epoch; 0 without a certificate";
        registry.register(
            "certificate_expiry_timestamp_seconds",
            help,
            self.certificate_expiry.clone(),
        );
    }

    /// Counts an ADS stream whose control plane has responded.
    pub(crate) fn connected(&self) -> ConnectedGuard {
        self.connected.inc();
        ConnectedGuard(self.connected.clone())
    }

    /// Records the certificate that the sidecar uses from now on.
    pub(crate) fn set_certificate(&self, validity: Validity) {
        let (start, expiry) = validity.to_unix();
        self.certificate_start.set(start);
        self.certificate_expiry.set(expiry);
    }
}

// === impl ConnectedGuard ===

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
