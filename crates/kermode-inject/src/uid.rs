//! Detects containers that run as the sidecar's user. The traffic of this user is not redirected
//! (docs/reference/injection.md#sidecar-user).

use crate::denial::{Denial, quoted};
use crate::pod::{Container, Pod};

/// Denies a Pod whose application containers run as the sidecar's user. Init containers may use this user on purpose,
/// so they give a warning only.
pub(crate) fn check(pod: &Pod<'_>, sidecar_uid: u32, warnings: &mut Vec<String>) -> Result<(), Denial> {
    let names = names_with_uid(&pod.containers, pod, sidecar_uid);
    if !names.is_empty() {
        return Err(Denial::SameUid { names });
    }
    let names = names_with_uid(&pod.init_containers, pod, sidecar_uid);
    if !names.is_empty() {
        warnings.push(format!(
            "init containers [{}] run as UID {sidecar_uid} of the sidecar, so their traffic is not redirected: use \
             another runAsUser unless this is intended",
            quoted(&names)
        ));
    }
    Ok(())
}

/// Returns the names of the containers that run as user `uid`. The Pod's `runAsUser` is the default of its containers.
fn names_with_uid(containers: &[Container<'_>], pod: &Pod<'_>, uid: u32) -> Vec<String> {
    containers
        .iter()
        .filter(|container| container.run_as_user().or(pod.run_as_user) == Some(i64::from(uid)))
        .map(|container| container.name.to_owned())
        .collect()
}
