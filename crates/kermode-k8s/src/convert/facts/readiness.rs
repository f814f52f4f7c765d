//! Readiness of a Pod, without the effect of a restarted kubelet on its sidecar.
//!
//! Up to Kubernetes 1.34, a restarted kubelet forgets the results of probes, and reports a container as not ready until it
//! has probed the container again (<https://github.com/kubernetes/kubernetes/issues/100277>). It probes a native sidecar
//! twice: first its startup probe, then its readiness probe. The first state differs from all others, because the kubelet
//! starts the application for the first time only after the sidecar has started. The second one looks like a failed
//! readiness probe, so the control plane has to remember the first.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec, PodStatus};

use super::pod::is_sidecar;

/// Readiness of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The condition `Ready` is true.
    Ready,
    /// The condition `Ready` is false, but the native sidecar is ready or does not run, or the condition is unknown.
    NotReady,
    /// The condition `Ready` is false, and the native sidecar runs and is not ready.
    SidecarNotReady {
        /// Whether everything except the native sidecar is ready.
        others_are_ready: bool,
        /// Start of the sidecar's container, in seconds since the Unix epoch.
        running_since: i64,
        /// Whether the sidecar is not ready because a restarted kubelet has not probed it yet.
        is_forgotten: bool,
    },
}

/// Native sidecars of a Pod: that of the mesh, and all others.
struct NativeSidecars<'s> {
    own: Option<&'s Container>,
    others: Vec<&'s Container>,
}

// === impl Readiness ===

impl Readiness {
    /// Reads the condition `Ready`. `None` if the Pod does not have this condition.
    pub(super) fn read(spec: &PodSpec, status: &PodStatus) -> Option<Self> {
        let mut conditions = status.conditions.iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready")?;
        Some(match ready.status.as_str() {
            "True" => Self::Ready,
            "False" => Self::of_unready(spec, status).unwrap_or(Self::NotReady),
            _ => Self::NotReady,
        })
    }

    /// Whether the Pod may receive requests.
    pub fn is_ready(self) -> bool {
        match self {
            Self::Ready => true,
            Self::NotReady => false,
            Self::SidecarNotReady {
                others_are_ready,
                is_forgotten,
                ..
            } => others_are_ready && is_forgotten,
        }
    }

    /// Returns this readiness, completed by the former readiness of the same Pod: a sidecar that a restarted kubelet has
    /// not probed keeps this state until the sidecar is ready or stops. A sidecar that is not ready for another reason
    /// fails its liveness probe, too, and the kubelet restarts it.
    #[must_use]
    pub(crate) fn after(mut self, former: Self) -> Self {
        if let Self::SidecarNotReady {
            is_forgotten,
            running_since,
            ..
        } = &mut self
            && let Self::SidecarNotReady {
                is_forgotten: true,
                running_since: former_start,
                ..
            } = former
        {
            *is_forgotten |= *running_since == former_start;
        }
        self
    }

    /// Returns the readiness of a Pod whose condition `Ready` is false; `None` if its native sidecar is ready, does not
    /// run or does not exist.
    fn of_unready(spec: &PodSpec, status: &PodStatus) -> Option<Self> {
        let sidecars = NativeSidecars::of(spec);
        let init_status = |name: &str| find(status.init_container_statuses.as_deref(), name);
        let sidecar = init_status(&sidecars.own?.name).filter(|sidecar| !sidecar.ready)?;
        let running_since = start_time(sidecar)?;
        let application: Vec<_> = spec
            .containers
            .iter()
            .map(|container| find(status.container_statuses.as_deref(), &container.name))
            .collect();
        let others = sidecars.others.iter().map(|sidecar| init_status(&sidecar.name));
        let mut others = others.chain(application.iter().copied());
        let mut gates = spec.readiness_gates.iter().flatten();
        Some(Self::SidecarNotReady {
            others_are_ready: gates.next().is_none()
                && others.all(|status| status.is_some_and(|status| status.ready)),
            running_since,
            is_forgotten: sidecar.started == Some(false)
                && application
                    .iter()
                    .all(|status| status.is_some_and(|status| has_started_after(status, sidecar))),
        })
    }
}

// === impl NativeSidecars ===

impl<'s> NativeSidecars<'s> {
    fn of(spec: &'s PodSpec) -> Self {
        let init_containers = spec.init_containers.iter().flatten();
        let native =
            init_containers.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let (own, others): (Vec<_>, Vec<_>) = native.partition(|container| is_sidecar(container));
        Self {
            own: own.first().copied(),
            others,
        }
    }
}

fn find<'s>(statuses: Option<&'s [ContainerStatus]>, name: &str) -> Option<&'s ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}

/// Whether the first start of a running container of the application shows that the native sidecar had started. If both
/// have been restarted, it does not.
fn has_started_after(application: &ContainerStatus, sidecar: &ContainerStatus) -> bool {
    (application.restart_count == 0 || sidecar.restart_count == 0)
        && start_time(application).is_some_and(|start| Some(start) >= start_time(sidecar))
}

/// Returns the start of a running container, in seconds since the Unix epoch.
fn start_time(status: &ContainerStatus) -> Option<i64> {
    let running = status.state.as_ref()?.running.as_ref()?;
    Some(running.started_at.as_ref()?.0.as_second())
}
