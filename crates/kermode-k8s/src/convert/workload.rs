//! The workload of a Pod: its top-level controller (docs/design.md#service-less-names).

use super::facts::{IntermediateFacts, IntermediateId, OwnerRef, PodFacts};

/// Returns the top-level controller of a Pod: the Deployment of its ReplicaSet, the CronJob of its Job, else its direct
/// controller. If `intermediate` returns `None` for the Pod's ReplicaSet or Job, the ReplicaSet or Job itself is
/// returned.
pub fn top_workload<'o>(
    pod: &PodFacts,
    intermediate: impl FnOnce(&IntermediateId) -> Option<&'o IntermediateFacts>,
) -> Option<OwnerRef> {
    let direct = pod.owner.as_ref()?;
    let above = IntermediateId::of(&pod.key.namespace, direct)
        .and_then(|id| intermediate(&id))
        .and_then(|facts| facts.owner.as_ref());
    Some(above.unwrap_or(direct).clone())
}
