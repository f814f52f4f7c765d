//! Default objects, created by the leader: the Mesh `default`, and an initial MeshTrafficPermission for each Mesh.
//!
//! The initial permission allows all traffic, so that enabling mTLS does not interrupt traffic. The permission is
//! created once for each Mesh, so users may change or delete it; an annotation of the Mesh records the creation. When a
//! replica becomes the leader, it creates the Mesh `default` if this Mesh is missing, unless the configuration disables
//! this.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kermode_crds::{
    FromSpec, Mesh, MeshSpec, MeshTrafficPermission, MeshTrafficPermissionSpec, PermissionConf, TargetRef,
    annotation,
};
use kermode_model::DEFAULT_MESH;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
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
        let events = watcher(meshes, watch_config());
        let mut applied = std::pin::pin!(events.default_backoff().applied_objects());
        while let Some(result) = applied.next().await {
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

    async fn create_initial_permission(&self, mesh: &PartialObjectMeta<Mesh>) -> kube::Result<()> {
        if mesh
            .annotations()
            .contains_key(annotation::INITIAL_POLICIES_CREATED)
            || mesh.metadata.deletion_timestamp.is_some()
        {
            return Ok(());
        }
        let name = mesh.name_any();
        let api: Api<MeshTrafficPermission> = Api::namespaced(self.client.clone(), &self.system_namespace);
        ok_if_it_exists(api.create(&PostParams::default(), &allow_all(&name)).await)?;
        let annotation_patch =
            json!({"metadata": {"annotations": {annotation::INITIAL_POLICIES_CREATED: "true"}}});
        let meshes: Api<Mesh> = Api::all(self.client.clone());
        match meshes
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(annotation_patch))
            .await
        {
            Err(error) if is_not_found(&error) => return Ok(()),
            patched => patched?,
        };
        tracing::info!(
            mesh = name,
            "initial MeshTrafficPermission created: it allows all traffic"
        );
        Ok(())
    }
}

/// Logs a failure and waits for the pause before the next attempt.
async fn log_and_pause(failure: &str, error: &kube::Error) {
    tracing::warn!("{}; retrying", describe(failure, error));
    tokio::time::sleep(RETRY_PAUSE).await;
}

fn allow_all(mesh: &str) -> MeshTrafficPermission {
    let whole_mesh = || TargetRef {
        kind: "Mesh".to_owned(),
        ..TargetRef::default()
    };
    MeshTrafficPermission {
        types: Some(MeshTrafficPermission::type_meta()),
        metadata: ObjectMeta {
            name: Some(format!("allow-all-{mesh}")),
            labels: Some(BTreeMap::from([(annotation::MESH.to_owned(), mesh.to_owned())])),
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
