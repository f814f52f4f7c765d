//! Containers that run as the sidecar's user: their traffic would not be redirected (BEHAVIOUR section 2.10).

use crate::denial::{Denial, quoted};
use crate::pod::{Container, Pod};

/// Refuses application containers that do; init containers may on purpose, which is worth a warning.
pub(crate) fn check(pod: &Pod<'_>, uid: u32, warnings: &mut Vec<String>) -> Result<(), Denial> {
    let as_sidecar = |containers: &[Container<'_>]| -> Vec<String> {
        let runs_as_it =
            |container: &&Container<'_>| container.run_as_user().or(pod.run_as_user) == Some(i64::from(uid));
        let found = containers.iter().filter(runs_as_it);
        found.map(|container| container.name.to_owned()).collect()
    };
    let names = as_sidecar(&pod.containers);
    if !names.is_empty() {
        return Err(Denial::SameUid { names });
    }
    let names = as_sidecar(&pod.init_containers);
    if !names.is_empty() {
        warnings.push(format!(
            "init containers [{}] run as UID {uid}, the sidecar's: their traffic is not redirected",
            quoted(&names)
        ));
    }
    Ok(())
}
