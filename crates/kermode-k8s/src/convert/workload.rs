//! The workload of a Pod: its top-level controller (docs/design.md#service-less-names).

use super::facts::{IntermediateFacts, IntermediateId, OwnerRef, PodFacts};

/// Returns the top-level controller of a Pod: the owner of its ReplicaSet or Job, else its direct controller.
/// `intermediate` looks up the ReplicaSet or Job.
pub fn top_workload<'o>(
    pod: &PodFacts,
    intermediate: impl FnOnce(&IntermediateId) -> Option<&'o IntermediateFacts>,
) -> Option<OwnerRef> {
    let direct = pod.owner.as_ref()?;
    let owner_of_direct = IntermediateId::of(&pod.key.namespace, direct)
        .and_then(|id| intermediate(&id))
        .and_then(|facts| facts.owner.as_ref());
    Some(owner_of_direct.unwrap_or(direct).clone())
}
