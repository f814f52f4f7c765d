//! Health of inbounds: whether they may receive traffic (docs/reference/dataplane.md#health).
//!
//! No inbound of a terminating or finished Pod is ready. For any other Pod, its condition `Ready` decides. The kubelet
//! computes the condition from containers and readiness gates. The node controller sets the condition to false if the
//! node is dead; container statuses do not change then. Container statuses decide only for a Pod without the condition,
//! such as a Pod from a file.

use super::facts::{ContainerFacts, PodFacts, PodPhase};

/// Returns the health of an inbound on a container port; `None` if it is unknown, which counts as ready.
///
/// For a Pod without the condition `Ready`, an inbound is ready if the sidecar and the application are ready. The
/// health of the application is determined as follows:
///
/// - If a container declares the port, the application is ready if this container is ready.
/// - Otherwise, if the application has only one container, or a container that declares no ports, this container may
///   serve the port. The application is then ready if all its containers are ready, as for Kubernetes endpoints.
/// - Otherwise the health of the application is unknown, and only the health of the sidecar counts.
pub(super) fn of_port(pod: &PodFacts, port: u16) -> Option<bool> {
    let declares = |container: &&ContainerFacts| container.ports.iter().any(|(_, number)| *number == port);
    let application_health = match pod.containers.iter().find(declares) {
        Some(container) => container_ready(container),
        None if may_serve_undeclared_ports(pod) => application_ready(pod),
        None => None,
    };
    combined(pod, application_health)
}

/// Returns the health of a service-less Pod as a whole.
pub(super) fn of_pod(pod: &PodFacts) -> Option<bool> {
    combined(pod, application_ready(pod))
}

/// Returns the health of an inbound: the state or the condition `Ready` of the Pod if one of them decides, otherwise
/// the health of the application combined with that of the sidecar.
fn combined(pod: &PodFacts, application_health: Option<bool>) -> Option<bool> {
    if pod.is_terminating || pod.phase != PodPhase::Active {
        return Some(false);
    }
    if let Some(readiness) = pod.readiness {
        return Some(readiness.is_ready());
    }
    match (application_health, pod.sidecar().and_then(container_ready)) {
        (Some(application), Some(sidecar)) => Some(application && sidecar),
        (application, sidecar) => application.or(sidecar),
    }
}

fn may_serve_undeclared_ports(pod: &PodFacts) -> bool {
    let mut containers = pod.application_containers();
    pod.application_containers().count() <= 1 || containers.any(|container| container.ports.is_empty())
}

/// Whether all application containers whose state is known are ready; `None` if no state is known.
fn application_ready(pod: &PodFacts) -> Option<bool> {
    pod.application_containers()
        .filter_map(container_ready)
        .reduce(|all_ready, ready| all_ready && ready)
}

fn container_ready(container: &ContainerFacts) -> Option<bool> {
    container.state.map(|state| state.ready)
}
