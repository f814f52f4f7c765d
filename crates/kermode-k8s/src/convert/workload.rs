//! The workload a Pod belongs to: its top controller (decision 3).

use super::facts::{OwnerFacts, OwnerId, PodFacts, Workload};

/// The top controller of a Pod, when it has one: the Deployment of its ReplicaSet, the CronJob of its Job, else what
/// controls it directly. While nothing is known of the ReplicaSet or Job, that one itself.
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
