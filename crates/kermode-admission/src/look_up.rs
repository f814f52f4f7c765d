//! What memory does not have yet, such as a Mesh made a moment ago, is asked of the API server. What it says is used
//! for this one answer only: memory follows the watches, which know better what came later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kermode_crds::{ContainerPatch, ContainerPatchSpec, Mesh};
use kermode_inject::Denial;
use kermode_k8s::controller::describe;
use kermode_k8s::convert::facts::NamespaceFacts;
use kube::Api;

use super::Webhooks;
use super::deadline::Deadline;
use crate::directory::NamespaceRecord;

/// A Pod may name any number of ContainerPatches; this many missing ones are worth asking for.
const MOST_PATCHES: usize = 16;

/// What the API server had.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) meshes: HashSet<String>,
    pub(super) container_patches: HashMap<String, ContainerPatchSpec>,
}

impl Webhooks {
    /// A Namespace.
    ///
    /// # Errors
    /// With what to tell when it cannot be read.
    pub(super) async fn namespace(
        &self,
        name: &str,
        deadline: Deadline,
    ) -> Result<Arc<NamespaceRecord>, String> {
        if let Some(record) = self.directory.read().namespaces.get(name) {
            return Ok(record.clone());
        }
        let what = format!("Namespace {name} cannot be read");
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = answered(&what, deadline.look_up(api.get(name)).await)?;
        Ok(Arc::new(NamespaceRecord::from(&NamespaceFacts::from(&namespace))))
    }

    /// Looks for what a Pod was refused for. Whether all of it is there now.
    ///
    /// # Errors
    /// With what to tell when the API server does not say.
    pub(super) async fn look_up(
        &self,
        refusal: &Denial,
        found: &mut Found,
        deadline: Deadline,
    ) -> Result<bool, String> {
        match refusal {
            Denial::MeshNotFound { mesh, .. } => {
                let api: Api<Mesh> = Api::all(self.client.clone());
                let what = format!("Mesh {mesh} cannot be read");
                let there = answered(&what, deadline.look_up(api.get_metadata_opt(mesh)).await)?.is_some();
                if there {
                    found.meshes.insert(mesh.clone());
                }
                Ok(there)
            }
            Denial::ContainerPatchesMissing { names } if names.len() <= MOST_PATCHES => {
                let api: Api<ContainerPatch> = Api::namespaced(self.client.clone(), &self.system_namespace);
                for name in names {
                    let what = format!("ContainerPatch {name} cannot be read");
                    let Some(patch) = answered(&what, deadline.look_up(api.get_opt(name)).await)? else {
                        return Ok(false);
                    };
                    found.container_patches.insert(name.clone(), patch.spec);
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn answered<T, L>(what: &str, result: Result<kube::Result<T>, L>) -> Result<T, String> {
    match result {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(describe(what, &error)),
        Err(_) => Err(format!("{what}: the API server does not answer in time")),
    }
}
