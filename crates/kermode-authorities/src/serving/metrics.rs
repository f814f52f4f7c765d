//! Metrics of the control plane's CA: phase of its rotation, expiry of its roots, failures to read or write its Secrets.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::secrets::ServingPlan;
use crate::metrics::PhaseLabel;

/// Metrics of the control plane's CA; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    phase: Family<PhaseLabels, Gauge>,
    root_expiry: Family<RootLabels, Gauge<f64, AtomicU64>>,
    secret_failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: PhaseLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RootLabels {
    generation: u32,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Phase of the rotation of the control plane's CA: 1 for the current phase, 0 for the others";
        registry.register("control_plane_ca_phase", help, self.phase.clone());
        let help = "Expiry of a root of the control plane, in seconds since the Unix epoch";
        registry.register(
            "control_plane_ca_expiry_timestamp_seconds",
            help,
            self.root_expiry.clone(),
        );
        let help = "Failed attempts to read or write the Secrets of the control plane's CA";
        registry.register(
            "control_plane_ca_secret_failures",
            help,
            self.secret_failures.clone(),
        );
    }

    pub(super) fn count_secret_failure(&self) {
        self.secret_failures.inc();
    }

    /// Sets the phase of the rotation and the expiry of the trusted roots.
    pub(super) fn set(&self, plan: &ServingPlan, now: SystemTime) {
        let current = PhaseLabel::from(plan.phase(now));
        for phase in PhaseLabel::ALL {
            let value = i64::from(phase == current);
            self.phase.get_or_create(&PhaseLabels { phase }).set(value);
        }
        self.root_expiry.clear();
        for trusted in plan.trusted(now) {
            let generation = trusted.number;
            let expiry = trusted.authority.validity().not_after;
            let expiry = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.root_expiry
                .get_or_create(&RootLabels { generation })
                .set(expiry.as_secs_f64());
        }
    }
}
