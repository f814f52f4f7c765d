//! Facts of Namespaces, and of the ReplicaSets and Jobs between a workload and its Pods.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kermode_model::ObjectKey;

use super::Pairs;

/// Facts of a Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Pairs,
    /// Annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
    /// Whether the Namespace is being deleted. The API server does not create objects in it.
    pub deleting: bool,
}

impl From<&Namespace> for NamespaceFacts {
    fn from(namespace: &Namespace) -> Self {
        let metadata = &namespace.metadata;
        Self {
            name: metadata.name.as_deref().unwrap_or_default().into(),
            labels: Pairs::all(metadata.labels.as_ref()),
            annotations: Pairs::kuma_only(metadata.annotations.as_ref()),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

/// A controller of Pods, by kind and name, in the namespace of the Pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Kind, such as `Deployment`.
    pub kind: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Workload {
    /// Creates a workload from kind and name.
    pub fn new(kind: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind: kind.into(),
            name: name.into(),
        }
    }

    /// Returns the controlling owner of an object, or its first owner if none is marked as controller.
    pub(super) fn controlling(metadata: &ObjectMeta) -> Option<Self> {
        let owners: &[OwnerReference] = metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let owner = controller.or(owners.first())?;
        Some(Self::new(owner.kind.as_str(), owner.name.as_str()))
    }
}

/// Kinds of controllers between a workload and its Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    /// Usually owned by a Deployment.
    ReplicaSet,
    /// Often owned by a CronJob.
    Job,
}

/// Identifier of a controller that may itself have an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId {
    /// Kind.
    pub kind: OwnerKind,
    /// Namespace and name.
    pub key: ObjectKey,
}

impl OwnerId {
    /// Returns the identifier of a Pod's owner if it is of a kind that may itself have an owner.
    pub fn of(namespace: &Arc<str>, owner: &Workload) -> Option<Self> {
        let kind = match &*owner.kind {
            "ReplicaSet" => OwnerKind::ReplicaSet,
            "Job" => OwnerKind::Job,
            _ => return None,
        };
        let key = ObjectKey::new(namespace.clone(), owner.name.clone());
        Some(Self { kind, key })
    }
}

/// Facts of a ReplicaSet or Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerFacts {
    /// Identifier.
    pub id: OwnerId,
    /// Controlling owner.
    pub owner: Option<Workload>,
}

impl OwnerFacts {
    fn new(kind: OwnerKind, metadata: &ObjectMeta) -> Self {
        let id = OwnerId {
            kind,
            key: super::pod::key_of(metadata),
        };
        let owner = Workload::controlling(metadata);
        Self { id, owner }
    }
}

impl From<&ReplicaSet> for OwnerFacts {
    fn from(replica_set: &ReplicaSet) -> Self {
        Self::new(OwnerKind::ReplicaSet, &replica_set.metadata)
    }
}

impl From<&Job> for OwnerFacts {
    fn from(job: &Job) -> Self {
        Self::new(OwnerKind::Job, &job.metadata)
    }
}
