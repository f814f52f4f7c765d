//! Volumes of the sidecar in the Pod: added, brought up to date, or removed if they are no longer needed.

use serde_json::Value;

use crate::denial::Denial;
use crate::leftovers::contains;
use crate::names::{CA_VOLUME, TMP_VOLUME, TOKEN_VOLUME};
use crate::pod::Pod;

/// Names of the sidecar's volumes, each with its volume source. A volume of the Pod with this name and another source
/// is not the sidecar's.
const OWN_VOLUMES: [(&str, &str); 3] = [
    (TMP_VOLUME, "emptyDir"),
    (TOKEN_VOLUME, "projected"),
    (CA_VOLUME, "projected"),
];

/// Changes of a Pod's list of volumes. The indices are those of the incoming Pod.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct VolumeChanges {
    /// Volumes that take the place of outdated ones.
    pub(crate) replaced: Vec<(usize, Value)>,
    /// Indices of the volumes that are no longer needed, in ascending order.
    pub(crate) removed: Vec<usize>,
    /// New volumes.
    pub(crate) added: Vec<Value>,
}

/// Returns the changes by which a Pod gets the `needed` volumes. Volumes of an earlier injection that are no longer
/// needed are removed, if `was_injected` and no container of the application mounts them.
///
/// # Errors
/// When a volume of the Pod has the name of a needed volume, but another volume source.
pub(crate) fn changes(
    pod: &Pod<'_>,
    object: &str,
    needed: Vec<Value>,
    was_injected: bool,
) -> Result<VolumeChanges, Denial> {
    let mut changes = VolumeChanges::default();
    if was_injected {
        let is_unneeded = |(name, volume): (&str, &Value)| {
            is_own(name, volume)
                && !needed.iter().any(|needed| needed["name"] == name)
                && !is_mounted(pod, name)
        };
        let volumes = pod.volumes.iter().enumerate();
        changes.removed = volumes
            .filter(|(_, volume)| is_unneeded((volume.name, volume.json)))
            .map(|(index, _)| index)
            .collect();
    }
    for volume in needed {
        let mut present = pod.volumes.iter().enumerate();
        match present.find(|(_, present)| volume["name"] == present.name) {
            None => changes.added.push(volume),
            Some((_, present)) if !is_own(present.name, present.json) => {
                return Err(Denial::VolumeNameTaken {
                    volume: present.name.to_owned(),
                    object: object.to_owned(),
                });
            }
            Some((_, present)) if contains(present.json, &volume) => {}
            Some((index, _)) => changes.replaced.push((index, volume)),
        }
    }
    Ok(changes)
}

fn is_own(name: &str, volume: &Value) -> bool {
    OWN_VOLUMES
        .iter()
        .any(|(own_name, source)| *own_name == name && volume.get(source).is_some_and(Value::is_object))
}

fn is_mounted(pod: &Pod<'_>, name: &str) -> bool {
    let mut containers = pod.containers.iter().chain(&pod.init_containers);
    containers.any(|container| {
        container
            .list("volumeMounts")
            .iter()
            .any(|mount| mount["name"] == name)
    })
}
