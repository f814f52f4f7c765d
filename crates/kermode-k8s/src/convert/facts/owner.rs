//! Owners of objects, and facts of intermediates. An intermediate is a ReplicaSet or Job between a workload, such as a
//! Deployment, and its Pods.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kermode_model::ObjectKey;

/// Owner of an object. An owner is in the object's namespace, or cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerRef {
    /// Kind, such as `Deployment`.
    pub kind: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl OwnerRef {
    /// Creates a reference from kind and name.
    pub fn new(kind: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind: kind.into(),
            name: name.into(),
        }
    }

    /// Returns the controlling owner of an object, or its first owner if no owner is marked as the controller.
    pub(super) fn controlling(metadata: &ObjectMeta) -> Option<Self> {
        let owners: &[OwnerReference] = metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let owner = controller.or(owners.first())?;
        Some(Self::new(owner.kind.as_str(), owner.name.as_str()))
    }
}

/// Kind of an intermediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntermediateKind {
    /// A ReplicaSet, which is usually owned by a Deployment.
    ReplicaSet,
    /// A Job, which is often owned by a CronJob.
    Job,
}

/// Identifier of an intermediate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IntermediateId {
    /// Kind.
    pub kind: IntermediateKind,
    /// Namespace and name.
    pub key: ObjectKey,
}

impl IntermediateId {
    /// Returns the identifier of a Pod's owner; `None` if the owner is not an intermediate.
    pub fn of(namespace: &Arc<str>, owner: &OwnerRef) -> Option<Self> {
        let kind = match &*owner.kind {
            "ReplicaSet" => IntermediateKind::ReplicaSet,
            "Job" => IntermediateKind::Job,
            _ => return None,
        };
        let key = ObjectKey::new(namespace.clone(), owner.name.clone());
        Some(Self { kind, key })
    }
}

/// Facts of an intermediate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntermediateFacts {
    /// Identifier.
    pub id: IntermediateId,
    /// Controlling owner.
    pub owner: Option<OwnerRef>,
}

impl IntermediateFacts {
    fn new(kind: IntermediateKind, metadata: &ObjectMeta) -> Self {
        let id = IntermediateId {
            kind,
            key: super::pod::key_of(metadata),
        };
        let owner = OwnerRef::controlling(metadata);
        Self { id, owner }
    }
}

impl From<&ReplicaSet> for IntermediateFacts {
    fn from(replica_set: &ReplicaSet) -> Self {
        Self::new(IntermediateKind::ReplicaSet, &replica_set.metadata)
    }
}

impl From<&Job> for IntermediateFacts {
    fn from(job: &Job) -> Self {
        Self::new(IntermediateKind::Job, &job.metadata)
    }
}
