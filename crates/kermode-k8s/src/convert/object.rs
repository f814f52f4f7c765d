//! The Dataplane as the custom resource that is written back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kermode_crds as crds;
use kermode_model::{Dataplane, ObjectKey};

/// The resource of a Dataplane, owned by its Pod, so that it goes when the Pod goes.
pub fn dataplane_object(dataplane: &Dataplane, pod_uid: &str) -> crds::Dataplane {
    crds::Dataplane {
        types: Some(crds::Dataplane::type_meta()),
        metadata: ObjectMeta {
            name: Some(dataplane.key.name.to_string()),
            namespace: Some(dataplane.key.namespace.to_string()),
            owner_references: Some(vec![owner_of(&dataplane.key, pod_uid)]),
            ..ObjectMeta::default()
        },
        mesh: dataplane.mesh.to_string(),
        spec: dataplane.into(),
    }
}

/// The owner reference of a Dataplane: its Pod, which has the same name.
pub fn owner_of(key: &ObjectKey, pod_uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: key.name.to_string(),
        uid: pod_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
