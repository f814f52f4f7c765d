//! Whether an inbound may receive traffic (BEHAVIOUR section 3.4).

use super::facts::{ContainerFacts, PodFacts, PodPhase};

/// Health of an inbound on a container port; `None` when nothing is known, which counts as ready.
///
/// The container that declares the port decides. Where none does, it is served by one that does not say so: then
/// the application as a whole decides, as it does for Kubernetes' own endpoints, so that no traffic reaches
/// it before it is ready. Only where several containers declare their ports, and this is none of them, is it unknown
/// whose it is.
pub(super) fn of_port(pod: &PodFacts, port: u16) -> Option<bool> {
    let declares = |container: &&ContainerFacts| container.ports.iter().any(|(_, number)| *number == port);
    let application = match pod.containers.iter().find(declares) {
        Some(container) => ready(container),
        None if some_container_keeps_its_ports_to_itself(pod) => application_ready(pod),
        None => None,
    };
    with_the_rest(pod, application)
}

/// Health of a Pod as a whole, for one that no Service selects.
pub(super) fn of_pod(pod: &PodFacts) -> Option<bool> {
    with_the_rest(pod, application_ready(pod))
}

fn with_the_rest(pod: &PodFacts, application: Option<bool>) -> Option<bool> {
    if pod.deleting || pod.phase != PodPhase::Active {
        return Some(false);
    }
    match (application, pod.sidecar().and_then(ready)) {
        (Some(application), Some(sidecar)) => Some(application && sidecar),
        (application, sidecar) => application.or(sidecar),
    }
}

fn some_container_keeps_its_ports_to_itself(pod: &PodFacts) -> bool {
    let mut application = pod.application();
    pod.application().count() <= 1 || application.any(|container| container.ports.is_empty())
}

/// Whether all containers of the application that something is known of are ready.
fn application_ready(pod: &PodFacts) -> Option<bool> {
    pod.application().filter_map(ready).reduce(|a, b| a && b)
}

fn ready(container: &ContainerFacts) -> Option<bool> {
    container.state.map(|state| state.ready)
}
