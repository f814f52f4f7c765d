//! Default objects, created by the leader: the Mesh `default`, and an initial MeshTrafficPermission for each Mesh.
//!
//! The initial permission allows all traffic, so that enabling mTLS does not interrupt traffic. The permission is
//! created once for each Mesh, so users may change or delete it; an annotation of the Mesh records the creation.
//! Kubernetes deletes the permission with its Mesh. When a replica becomes the leader, it creates the Mesh `default` if
//! this Mesh is missing, unless the configuration disables its creation.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kermode_crds::{
    FromSpec, Mesh, MeshSpec, MeshTrafficPermission, MeshTrafficPermissionSpec, PermissionConf, TargetRef,
    annotation,
};
use kermode_model::DEFAULT_MESH;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use super::describe;
use super::failure::{is_conflict, is_not_found};
use super::lease::while_leading;
use super::watch::watch_config;

/// Pause before a failed request is retried. Short and constant, because a mesh without its initial permission denies
/// all traffic once mTLS is enabled.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Creates missing default objects.
pub struct Defaults {
    /// Client of the API server.
    pub client: Client,
    /// Namespace of the control plane, in which the MeshTrafficPermissions are created.
    pub system_namespace: String,
    /// Whether to skip the creation of the Mesh `default`.
    pub skip_mesh_creation: bool,
    /// Whether this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
}

impl Defaults {
    /// Creates missing objects while this replica leads, until the future is dropped.
    pub async fn run(self) {
        while_leading(self.is_leader.clone(), || self.create_missing()).await;
    }

    async fn create_missing(&self) {
        if !self.skip_mesh_creation {
            while let Err(error) = self.create_default_mesh().await {
                log_and_pause("Mesh default cannot be created", &error).await;
            }
        }
        let meshes: Api<PartialObjectMeta<Mesh>> = Api::all(self.client.clone());
        // The watch reports all existing Meshes first.
        let events = watcher(meshes, watch_config());
        let mut changed_meshes = std::pin::pin!(events.default_backoff().applied_objects());
        while let Some(result) = changed_meshes.next().await {
            // The engine watches Meshes too, and logs the error.
            let Ok(mesh) = result else { continue };
            while let Err(error) = self.create_initial_permission(&mesh).await {
                let failure = format!(
                    "initial MeshTrafficPermission of Mesh {0} cannot be created, or Mesh {0} cannot be annotated with \
                     {1}",
                    mesh.name_any(),
                    annotation::INITIAL_POLICIES_CREATED
                );
                log_and_pause(&failure, &error).await;
            }
        }
    }

    async fn create_default_mesh(&self) -> kube::Result<()> {
        let api: Api<Mesh> = Api::all(self.client.clone());
        if api.get_metadata_opt(DEFAULT_MESH).await?.is_some() {
            return Ok(());
        }
        let mesh = Mesh {
            types: Some(Mesh::type_meta()),
            metadata: ObjectMeta {
                name: Some(DEFAULT_MESH.to_owned()),
                ..ObjectMeta::default()
            },
            spec: MeshSpec::default(),
            status: None,
        };
        ok_if_it_exists(api.create(&PostParams::default(), &mesh).await)
    }

    /// Creates the initial permission of a Mesh and records the creation in an annotation of the Mesh. Does nothing if
    /// the Mesh has the annotation or is being deleted.
    async fn create_initial_permission(&self, mesh: &PartialObjectMeta<Mesh>) -> kube::Result<()> {
        if mesh
            .annotations()
            .contains_key(annotation::INITIAL_POLICIES_CREATED)
            || mesh.metadata.deletion_timestamp.is_some()
        {
            return Ok(());
        }
        let name = mesh.name_any();
        let uid = mesh.uid().unwrap_or_default();
        let owner = mesh_reference(&name, uid.clone());
        let api: Api<MeshTrafficPermission> = Api::namespaced(self.client.clone(), &self.system_namespace);
        let created = api.create(&PostParams::default(), &allow_all(&name, owner)).await;
        let is_created = created.is_ok();
        if let Err(error) = created
            && (!is_conflict(&error) || self.must_retry_conflict(&api, mesh).await?)
        {
            return Err(error);
        }
        // The UID makes the API server reject the patch if the Mesh was deleted and created again.
        let annotation_patch = json!({
            "metadata": {"uid": uid, "annotations": {annotation::INITIAL_POLICIES_CREATED: "true"}},
        });
        let meshes: Api<Mesh> = Api::all(self.client.clone());
        match meshes
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(annotation_patch))
            .await
        {
            // The Mesh was deleted. If another Mesh of this name was created, the watch reports it.
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(()),
            patched => patched?,
        };
        if is_created {
            tracing::info!(
                mesh = name,
                "initial MeshTrafficPermission created: it allows all traffic"
            );
        }
        Ok(())
    }

    /// Returns whether a conflict at the creation of an initial permission requires another attempt: the existing
    /// permission belongs to an earlier Mesh of the same name, so Kubernetes will delete it or has just deleted it.
    /// Returns false if no earlier Mesh owns the permission, or if `mesh` itself does not exist any more.
    async fn must_retry_conflict(
        &self,
        api: &Api<MeshTrafficPermission>,
        mesh: &PartialObjectMeta<Mesh>,
    ) -> kube::Result<bool> {
        let name = mesh.name_any();
        let meshes: Api<Mesh> = Api::all(self.client.clone());
        let current = meshes.get_metadata_opt(&name).await?;
        if current.is_none_or(|current| current.uid() != mesh.uid()) {
            return Ok(false);
        }
        let Some(permission) = api.get_metadata_opt(&permission_name(&name)).await? else {
            return Ok(true);
        };
        let mut owners = permission.owner_references().iter();
        Ok(owners
            .any(|owner| owner.kind == Mesh::kind(&()) && Some(&owner.uid) != mesh.metadata.uid.as_ref()))
    }
}

/// Logs a failure and waits for the pause before the next attempt.
async fn log_and_pause(failure: &str, error: &kube::Error) {
    tracing::warn!("{}; retrying", describe(failure, error));
    tokio::time::sleep(RETRY_PAUSE).await;
}

/// Returns an owner reference to a Mesh, so that Kubernetes deletes the dependent object after the Mesh. The reference
/// does not block the deletion of the Mesh: only a role that may update finalizers of Meshes may create a blocking
/// reference.
pub fn mesh_reference(name: &str, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: Mesh::api_version(&()).into_owned(),
        kind: Mesh::kind(&()).into_owned(),
        name: name.to_owned(),
        uid,
        controller: None,
        block_owner_deletion: None,
    }
}

fn permission_name(mesh: &str) -> String {
    format!("allow-all-{mesh}")
}

fn allow_all(mesh: &str, owner: OwnerReference) -> MeshTrafficPermission {
    let whole_mesh = || TargetRef {
        kind: "Mesh".to_owned(),
        ..TargetRef::default()
    };
    MeshTrafficPermission {
        types: Some(MeshTrafficPermission::type_meta()),
        metadata: ObjectMeta {
            name: Some(permission_name(mesh)),
            labels: Some(BTreeMap::from([(annotation::MESH.to_owned(), mesh.to_owned())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: MeshTrafficPermissionSpec {
            target_ref: whole_mesh(),
            from: vec![FromSpec {
                target_ref: whole_mesh(),
                default: PermissionConf {
                    action: "Allow".to_owned(),
                },
            }],
        },
        status: None,
    }
}

/// Returns success if the object was created or already exists.
fn ok_if_it_exists<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Method;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::super::test_api_server::{self, ApiRequest};
    use super::*;

    /// Returns [`Defaults`] with the client of a simulated API server, and the writes that the server receives. The
    /// server has a Mesh `shop` with the UID `mesh_uid` and accepts all writes. If `permission_owner` is the UID of a
    /// Mesh, the server also has an initial permission that this Mesh owns, and rejects the creation of another one.
    fn mk_defaults(mesh_uid: &'static str, permission_owner: Option<&'static str>) -> (Defaults, Writes) {
        let writes = Writes::default();
        let received = writes.clone();
        let client = test_api_server::client("system", move |request| {
            let ApiRequest { method, uri, body } = request;
            if method != Method::GET {
                received.lock().push((method.clone(), body.clone()));
            }
            match (&method, permission_owner) {
                (&Method::GET, _) if uri.path().ends_with("/meshes/shop") => (200, mk_mesh(mesh_uid)),
                (&Method::GET, Some(owner)) => {
                    let owners = [mesh_reference("shop", owner.to_owned())];
                    let metadata = json!({"name": "allow-all-shop", "ownerReferences": owners});
                    (200, json!({"metadata": metadata}))
                }
                (&Method::POST, Some(_)) => test_api_server::failure(409, "AlreadyExists", "it exists"),
                _ => (200, body),
            }
        });
        let defaults = Defaults {
            client,
            system_namespace: "system".to_owned(),
            skip_mesh_creation: true,
            is_leader: watch::channel(true).1,
        };
        (defaults, writes)
    }

    /// Methods and bodies of writes.
    type Writes = Arc<Mutex<Vec<(Method, Value)>>>;

    fn mk_mesh(uid: &str) -> Value {
        json!({"metadata": {"name": "shop", "uid": uid}})
    }

    async fn create(defaults: &Defaults, uid: &str) -> kube::Result<()> {
        let mesh = serde_json::from_value(mk_mesh(uid)).expect("metadata of a Mesh");
        defaults.create_initial_permission(&mesh).await
    }

    #[tokio::test]
    async fn initial_permission_belongs_to_its_mesh() {
        let (defaults, writes) = mk_defaults("uid-of-shop", None);
        create(&defaults, "uid-of-shop")
            .await
            .expect("the API server accepts every object");
        let writes = writes.lock();
        let [(Method::POST, permission), (Method::PATCH, patch)] = &**writes else {
            panic!("{writes:?}");
        };
        assert_eq!(permission["metadata"]["name"], "allow-all-shop");
        assert_eq!(
            permission["metadata"]["ownerReferences"],
            json!([{"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "name": "shop", "uid": "uid-of-shop"}])
        );
        assert_eq!(patch["metadata"]["uid"], "uid-of-shop");
    }

    #[tokio::test]
    async fn permission_of_an_earlier_mesh_must_be_deleted_before_a_mesh_gets_its_own() {
        let (defaults, writes) = mk_defaults("uid-2", Some("uid-1"));
        create(&defaults, "uid-2")
            .await
            .expect_err("Kubernetes will delete the permission");
        assert_eq!(writes.lock().len(), 1, "the Mesh is not annotated");
        // No second attempt is needed, neither for the current Mesh, which owns the permission, nor for the earlier
        // Mesh, which does not exist any more.
        for uid in ["uid-2", "uid-1"] {
            let (defaults, _) = mk_defaults("uid-2", Some("uid-2"));
            create(&defaults, uid).await.expect("nothing to wait for");
        }
    }
}
