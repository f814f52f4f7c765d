//! What is kept of namespaces and of the controllers between a workload and its pods.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kermode_model::ObjectKey;

use super::Pairs;

/// What is kept of a Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Pairs,
    /// Its annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
    /// Whether it is being deleted: the API server refuses to create objects in it.
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

/// A controller of pods, by kind and name; the namespace is that of the pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Its kind, such as `Deployment`.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Workload {
    /// A workload from its two parts.
    pub fn new(kind: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind: kind.into(),
            name: name.into(),
        }
    }

    /// The controller among the owners of an object; the first owner where none says that it controls.
    pub(super) fn controlling(metadata: &ObjectMeta) -> Option<Self> {
        let owners: &[OwnerReference] = metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let owner = controller.or(owners.first())?;
        Some(Self::new(owner.kind.as_str(), owner.name.as_str()))
    }
}

/// Kinds that stand between a workload and its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    /// Usually made by a Deployment.
    ReplicaSet,
    /// Often made by a CronJob.
    Job,
}

/// One controller that may itself have an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl OwnerId {
    /// The owner of a pod, when it is of a kind that may itself have an owner.
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

/// What is kept of a ReplicaSet or Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerFacts {
    /// Which one it is.
    pub id: OwnerId,
    /// Who controls it.
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
