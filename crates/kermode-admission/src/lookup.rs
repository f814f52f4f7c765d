//! Lookups in the API server for objects that the directory does not have yet, such as a Mesh created a moment ago. The
//! result of a lookup is used for one response and not added to the directory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kermode_crds::{ContainerPatch, ContainerPatchSpec, Mesh};
use kermode_inject::Denial;
use kermode_k8s::controller::describe;
use kermode_k8s::convert::facts::NamespaceFacts;
use kube::Api;

use super::Webhooks;
use super::deadline::{DeadlineExceeded, Deadlines};
use crate::directory::NamespaceRecord;

/// Maximum number of ContainerPatches that are looked up for one Pod. If the directory lacks more ContainerPatches, the
/// Pod is denied without a lookup.
const MAX_PATCH_LOOKUPS: usize = 16;

/// Objects found in the API server.
#[derive(Debug, Default)]
pub(super) struct FoundObjects {
    pub(super) meshes: HashSet<String>,
    pub(super) container_patches: HashMap<String, ContainerPatchSpec>,
}

impl Webhooks {
    /// Returns a Namespace from the directory, or else from the API server.
    ///
    /// # Errors
    /// A message for the user if the Namespace cannot be read.
    pub(super) async fn find_namespace(
        &self,
        name: &str,
        deadlines: Deadlines,
    ) -> Result<Arc<NamespaceRecord>, String> {
        if let Some(record) = self.directory.read().namespaces.get(name) {
            return Ok(record.clone());
        }
        let problem = format!("Namespace {name} cannot be read");
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = read_result(&problem, deadlines.look_up(api.get(name)).await)?;
        Ok(Arc::new(NamespaceRecord::from(&NamespaceFacts::from(&namespace))))
    }

    /// Looks up the objects whose absence from the directory caused a denial, and adds them to `found`. Returns whether
    /// all of them exist. Returns false without a lookup if the denial has another cause, or if more than
    /// [`MAX_PATCH_LOOKUPS`] ContainerPatches are absent.
    ///
    /// # Errors
    /// A message for the user if an object cannot be read.
    pub(super) async fn look_up(
        &self,
        denial: &Denial,
        found: &mut FoundObjects,
        deadlines: Deadlines,
    ) -> Result<bool, String> {
        match denial {
            Denial::MeshNotFound { mesh, .. } => {
                let api: Api<Mesh> = Api::all(self.client.clone());
                let problem = format!("Mesh {mesh} cannot be read");
                let exists =
                    read_result(&problem, deadlines.look_up(api.get_metadata_opt(mesh)).await)?.is_some();
                if exists {
                    found.meshes.insert(mesh.clone());
                }
                Ok(exists)
            }
            Denial::ContainerPatchesMissing { names } if names.len() <= MAX_PATCH_LOOKUPS => {
                let api: Api<ContainerPatch> = Api::namespaced(self.client.clone(), &self.system_namespace);
                for name in names {
                    let problem = format!("ContainerPatch {name} cannot be read");
                    let Some(patch) = read_result(&problem, deadlines.look_up(api.get_opt(name)).await)?
                    else {
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

/// Converts the error or the timeout of a read to a message for the user. The message begins with `problem`.
fn read_result<T>(problem: &str, result: Result<kube::Result<T>, DeadlineExceeded>) -> Result<T, String> {
    match result {
        Ok(Ok(object)) => Ok(object),
        Ok(Err(error)) => Err(describe(problem, &error)),
        Err(DeadlineExceeded) => Err(format!("{problem}: the API server does not respond in time")),
    }
}
