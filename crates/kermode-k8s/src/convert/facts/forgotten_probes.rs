//! Restarts of the kubelet: up to Kubernetes 1.34, a restarted kubelet reports a container with probes as not ready until
//! it has probed the container again (<https://github.com/kubernetes/kubernetes/issues/100277>).

use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec, PodStatus};

use super::pod::is_sidecar;

/// Whether a Pod is not ready only because a restarted kubelet has forgotten the result of the sidecar's startup probe.
///
/// The kubelet starts the containers of the application after the startup probe of a native sidecar has succeeded. A
/// sidecar that runs at least as long as the application, and counts as not started, has therefore started before. The
/// application must be ready, and the Pod must have no readiness gate, so that nothing else can make it not ready.
pub(super) fn only_sidecar_is_not_ready(spec: &PodSpec, status: &PodStatus) -> bool {
    let has_gates = spec
        .readiness_gates
        .as_ref()
        .is_some_and(|gates| !gates.is_empty());
    let native_sidecars = spec.init_containers.iter().flatten();
    let native_sidecars =
        native_sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let (own, others): (Vec<_>, Vec<_>) = native_sidecars.partition(|container| is_sidecar(container));
    let init_status = |name: &str| find(status.init_container_statuses.as_deref(), name);
    let sidecar = own.first().and_then(|container| init_status(&container.name));
    let Some(sidecar) = sidecar.filter(|sidecar| !has_gates && sidecar.started == Some(false)) else {
        return false;
    };
    let Some(sidecar_started_at) = running_since(sidecar) else {
        return false;
    };
    let others_are_ready = others
        .iter()
        .all(|container| init_status(&container.name).is_some_and(|status| status.ready));
    let application_is_ready = spec.containers.iter().all(|container| {
        find(status.container_statuses.as_deref(), &container.name).is_some_and(|status| {
            status.ready && running_since(status).is_some_and(|started_at| started_at >= sidecar_started_at)
        })
    });
    others_are_ready && application_is_ready
}

fn find<'s>(statuses: Option<&'s [ContainerStatus]>, name: &str) -> Option<&'s ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}

/// Returns the time since which a container runs, in seconds since the Unix epoch.
fn running_since(status: &ContainerStatus) -> Option<i64> {
    let running = status.state.as_ref()?.running.as_ref()?;
    Some(running.started_at.as_ref()?.0.as_second())
}
