//! The workload of a Pod: its top-level controller (docs/design.md#service-less-names).

use super::facts::{OwnerFacts, OwnerId, PodFacts, Workload};

/// Returns the top-level controller of a Pod: the Deployment of its ReplicaSet, the CronJob of its Job, else its direct
/// controller. If `owner` returns `None` for the Pod's ReplicaSet or Job, the ReplicaSet or Job itself is returned.
pub fn top_workload<'o>(
    pod: &PodFacts,
    owner: impl FnOnce(&OwnerId) -> Option<&'o OwnerFacts>,
) -> Option<Workload> {
    let direct = pod.owner.as_ref()?;
    let above = OwnerId::of(&pod.key.namespace, direct)
        .and_then(|id| owner(&id))
        .and_then(|facts| facts.owner.as_ref());
    Some(above.unwrap_or(direct).clone())
}
