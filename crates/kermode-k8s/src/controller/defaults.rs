//! Objects that the leader makes: the Mesh `default`, and for every Mesh a first MeshTrafficPermission that allows
//! everything, so that switching mTLS on does not cut the mesh off. The permission is made once: what people make of it
//! afterwards stays. The Mesh `default` is there whenever a replica begins to lead, unless the configuration says no.

use std::collections::BTreeMap;
use std::time::Duration;

use super::describe;
use super::lease::while_leading;
use super::watch::watch_config;
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

/// How long after a failed attempt it is made again.
const RETRY: Duration = Duration::from_secs(2);

/// Makes what is missing.
pub struct Defaults {
    /// For reading and writing.
    pub client: Client,
    /// Where permissions live.
    pub system_namespace: String,
    /// Do not make the Mesh `default`.
    pub skip_mesh_creation: bool,
    /// Whether this replica leads.
    pub leading: watch::Receiver<bool>,
}

impl Defaults {
    /// Runs until dropped, working while this replica leads.
    pub async fn run(self) {
        while_leading(self.leading.clone(), || self.work()).await;
    }

    async fn work(&self) {
        if !self.skip_mesh_creation {
            while let Err(error) = self.create_default_mesh().await {
                retry("Mesh default cannot be created", &error).await;
            }
        }
        let meshes: Api<PartialObjectMeta<Mesh>> = Api::all(self.client.clone());
        let events = watcher(meshes, watch_config());
        let mut applied = std::pin::pin!(events.default_backoff().applied_objects());
        while let Some(event) = applied.next().await {
            // A watch that fails is logged where the engine's own one fails too.
            let Ok(mesh) = event else { continue };
            while let Err(error) = self.create_first_permission(&mesh).await {
                let what = format!(
                    "MeshTrafficPermission of Mesh {} cannot be created",
                    mesh.name_any()
                );
                retry(&what, &error).await;
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
        created(api.create(&PostParams::default(), &mesh).await)
    }

    async fn create_first_permission(&self, mesh: &PartialObjectMeta<Mesh>) -> kube::Result<()> {
        if mesh
            .annotations()
            .contains_key(annotation::INITIAL_POLICIES_CREATED)
            || mesh.metadata.deletion_timestamp.is_some()
        {
            return Ok(());
        }
        let name = mesh.name_any();
        let api: Api<MeshTrafficPermission> = Api::namespaced(self.client.clone(), &self.system_namespace);
        created(api.create(&PostParams::default(), &allow_all(&name)).await)?;
        let mark = json!({"metadata": {"annotations": {annotation::INITIAL_POLICIES_CREATED: "true"}}});
        let meshes: Api<Mesh> = Api::all(self.client.clone());
        match meshes
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(mark))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            patched => patched?,
        };
        tracing::info!(
            mesh = name,
            "MeshTrafficPermission that allows all traffic created"
        );
        Ok(())
    }
}

/// Waits before another attempt: a mesh without its first permission refuses everything once mTLS is on.
async fn retry(what: &str, error: &kube::Error) {
    tracing::warn!("{}; retrying", describe(what, error));
    tokio::time::sleep(RETRY).await;
}

fn allow_all(mesh: &str) -> MeshTrafficPermission {
    let everybody = || TargetRef {
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
            target_ref: everybody(),
            from: vec![FromSpec {
                target_ref: everybody(),
                default: PermissionConf {
                    action: "Allow".to_owned(),
                },
            }],
        },
    }
}

fn created<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
