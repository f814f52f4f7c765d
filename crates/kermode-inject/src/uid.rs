//! Detects containers that run as the sidecar's user, whose traffic is not redirected
//! (docs/reference/injection.md#sidecar-user).

use crate::denial::{Denial, quoted};
use crate::pod::{Container, Pod};

/// Denies a Pod with such application containers. Init containers may use the sidecar's user on purpose and cause a
/// warning only.
pub(crate) fn check(pod: &Pod<'_>, uid: u32, warnings: &mut Vec<String>) -> Result<(), Denial> {
    let as_sidecar = |containers: &[Container<'_>]| -> Vec<String> {
        let runs_as_sidecar =
            |container: &&Container<'_>| container.run_as_user().or(pod.run_as_user) == Some(i64::from(uid));
        let found = containers.iter().filter(runs_as_sidecar);
        found.map(|container| container.name.to_owned()).collect()
    };
    let names = as_sidecar(&pod.containers);
    if !names.is_empty() {
        return Err(Denial::SameUid { names });
    }
    let names = as_sidecar(&pod.init_containers);
    if !names.is_empty() {
        warnings.push(format!(
            "init containers [{}] run as UID {uid} of the sidecar, so their traffic is not redirected: use another \
             runAsUser unless this is intended",
            quoted(&names)
        ));
    }
    Ok(())
}
