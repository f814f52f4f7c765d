//! Detects Pods, usually of Jobs, whose application has terminated and whose sidecar must quit
//! (docs/reference/dataplane.md#finished-jobs).

use super::facts::{PodFacts, RestartPolicy};

/// Whether the application may end, so that its sidecar must quit later ([`sidecar_must_quit`]).
///
/// False if the kubelet terminates the sidecar, or restarts the sidecar after its end: a classic sidecar has no restart
/// policy of its own, so in a Pod with the policy `Always` nothing can end it.
pub fn application_may_finish(pod: &PodFacts) -> bool {
    let is_native = pod.sidecar().is_some_and(|sidecar| sidecar.is_native_sidecar);
    !is_native && pod.restart_policy != Some(RestartPolicy::Always)
}

/// Whether the sidecar still runs although the application has terminated and will not be restarted.
///
/// Always false for a native sidecar, which the kubelet terminates.
pub fn sidecar_must_quit(pod: &PodFacts) -> bool {
    let sidecar = pod.sidecar().filter(|sidecar| !sidecar.is_native_sidecar);
    let is_sidecar_running = sidecar
        .and_then(|sidecar| sidecar.state)
        .is_some_and(|state| state.exit_code.is_none());
    let mut containers = pod
        .application_containers()
        .filter(|container| !container.is_native_sidecar)
        .peekable();
    application_may_finish(pod)
        && is_sidecar_running
        && containers.peek().is_some()
        && containers.all(|container| container.state.is_some_and(|state| state.has_ended))
}
