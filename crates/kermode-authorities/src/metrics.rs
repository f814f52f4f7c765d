//! Metrics of the CAs: phases of rotations, expiry of roots, rotations started, failures to read or write Secrets.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use kermode_identity::{Phase, RotationPlan, RotationReason};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::BackendId;

/// Metrics of the CAs; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    phase: Family<PhaseLabels, Gauge>,
    root_expiry: Family<RootLabels, Gauge<f64, AtomicU64>>,
    /// Generations of the roots in `root_expiry`.
    generations: Arc<Mutex<HashMap<BackendId, BTreeSet<u32>>>>,
    rotations: Family<RotationLabels, Counter>,
    secret_failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    mesh: String,
    backend: String,
    phase: PhaseLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum PhaseLabel {
    Settled,
    Distributing,
    Reissuing,
}

impl PhaseLabel {
    pub(super) const ALL: [Self; 3] = [Self::Settled, Self::Distributing, Self::Reissuing];
}

impl From<Phase> for PhaseLabel {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Settled => Self::Settled,
            Phase::Distributing => Self::Distributing,
            Phase::Reissuing => Self::Reissuing,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RootLabels {
    mesh: String,
    backend: String,
    generation: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RotationLabels {
    mesh: String,
    reason: RotationReasonLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum RotationReasonLabel {
    Requested,
    Ageing,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Phase of the rotation of a mesh's CA: 1 for the current phase, 0 for the others";
        registry.register("mesh_ca_phase", help, self.phase.clone());
        let help = "Expiry of a root that the mesh trusts, in seconds since the Unix epoch";
        registry.register("mesh_ca_expiry_timestamp_seconds", help, self.root_expiry.clone());
        let help = "Rotations of a mesh's CA that this replica started, by reason";
        registry.register("mesh_ca_rotations", help, self.rotations.clone());
        let help = "Failed attempts to read or write the Secrets of CAs";
        registry.register("mesh_ca_secret_failures", help, self.secret_failures.clone());
    }

    pub(super) fn count_secret_failure(&self) {
        self.secret_failures.inc();
    }

    pub(super) fn count_rotation(&self, id: &BackendId, reason: RotationReason) {
        let reason = match reason {
            RotationReason::Requested => RotationReasonLabel::Requested,
            RotationReason::Ageing => RotationReasonLabel::Ageing,
        };
        let mesh = id.mesh.to_string();
        self.rotations
            .get_or_create(&RotationLabels { mesh, reason })
            .inc();
    }

    /// Sets the phase of a backend's rotation and the expiry of its trusted roots. Removes the expiry of other roots.
    pub(super) fn set_phase_and_root_expiry(&self, id: &BackendId, plan: &RotationPlan, now: SystemTime) {
        let current = PhaseLabel::from(plan.phase(now));
        for phase in PhaseLabel::ALL {
            let value = i64::from(phase == current);
            self.phase.get_or_create(&phase_labels(id, phase)).set(value);
        }
        let mut trusted = BTreeSet::new();
        for generation in plan.trusted(now) {
            let expiry = generation.authority.validity().not_after;
            let expiry = expiry.duration_since(UNIX_EPOCH).unwrap_or_default();
            let labels = root_labels(id, generation.number);
            self.root_expiry.get_or_create(&labels).set(expiry.as_secs_f64());
            trusted.insert(generation.number);
        }
        let previous = self.generations.lock().insert(id.clone(), trusted.clone());
        self.remove_root_expiry(id, previous.unwrap_or_default().difference(&trusted));
    }

    /// Removes the phase and the expiry of a backend that no Mesh uses any more.
    pub(super) fn remove_backend(&self, id: &BackendId) {
        for phase in PhaseLabel::ALL {
            self.phase.remove(&phase_labels(id, phase));
        }
        let previous = self.generations.lock().remove(id);
        self.remove_root_expiry(id, previous.unwrap_or_default().iter());
    }

    fn remove_root_expiry<'a>(&self, id: &BackendId, generations: impl Iterator<Item = &'a u32>) {
        for generation in generations {
            self.root_expiry.remove(&root_labels(id, *generation));
        }
    }
}

fn phase_labels(id: &BackendId, phase: PhaseLabel) -> PhaseLabels {
    PhaseLabels {
        mesh: id.mesh.to_string(),
        backend: id.backend.clone(),
        phase,
    }
}

fn root_labels(id: &BackendId, generation: u32) -> RootLabels {
    RootLabels {
        mesh: id.mesh.to_string(),
        backend: id.backend.clone(),
        generation,
    }
}
