//! `/inject-sidecar`: decides on a Pod and answers with a patch, a refusal, or nothing.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kermode_crds::{ContainerPatch, Mesh};
use kermode_inject::{Context, Injection, Namespace, Outcome, Refusal};
use kermode_k8s::controller::describe;
use kermode_k8s::convert::facts::NamespaceFacts;
use kube::Api;

use super::Webhooks;
use super::review::{Request, Response};
use crate::directory::NamespaceRecord;

const WEBHOOK: &str = "inject";
/// How long the API server may take for what memory does not have; well below the registration's time-out.
const LOOK_UP: Duration = Duration::from_secs(3);

impl Webhooks {
    pub(super) async fn inject(&self, request: Request) -> Response {
        let namespace = Some(request.namespace.as_str())
            .filter(|name| !name.is_empty())
            .unwrap_or("default");
        let namespace = &namespace.to_owned();
        let facts = match self.namespace(namespace).await {
            Ok(facts) => facts,
            Err(problem) => {
                self.metrics.count(WEBHOOK, "refused", "NamespaceNotFound");
                let message = format!("could not retrieve namespace for pod: {problem}");
                return Response::deny(request.uid, 500, message);
            }
        };
        let mut result = self.decide(&request, namespace, &facts);
        if let Err(refusal) = &result
            && self.look_up_missing(refusal).await
        {
            result = self.decide(&request, namespace, &facts);
        }
        self.respond(request, namespace, result)
    }

    fn decide(
        &self,
        request: &Request,
        namespace: &str,
        facts: &NamespaceRecord,
    ) -> Result<Outcome, Refusal> {
        let context = Context {
            namespace: Namespace {
                name: namespace,
                labels: &facts.labels,
                annotations: &facts.annotations,
            },
            control_plane_url: &self.control_plane_url,
            control_plane_ca_pem: &self.control_plane_ca_pem,
            mesh_exists: &|mesh| self.directory.read().meshes.contains(mesh),
            container_patch: &|name| self.directory.read().container_patches.get(name).cloned(),
        };
        kermode_inject::inject(&request.object, &self.settings, &context)
    }

    fn respond(&self, request: Request, namespace: &str, result: Result<Outcome, Refusal>) -> Response {
        let pod = pod_name(&request);
        match result {
            Ok(Outcome::Skipped(reason)) => {
                self.metrics.count(WEBHOOK, "skipped", reason.as_str());
                tracing::debug!(namespace, pod, reason = reason.as_str(), "sidecar not injected");
                Response::allow(request.uid)
            }
            Ok(Outcome::Injected(Injection {
                patch,
                warnings,
                reason,
                mesh,
            })) => {
                self.metrics.count(WEBHOOK, "injected", reason.as_str());
                tracing::debug!(namespace, pod, mesh, reason = reason.as_str(), "sidecar injected");
                match Response::allow(request.uid.clone()).with_patch(&patch) {
                    Ok(response) => response.with_warnings(warnings),
                    Err(error) => Response::deny(request.uid, 500, error.to_string()),
                }
            }
            Err(refusal) => {
                self.metrics.count(WEBHOOK, "refused", refusal.reason());
                tracing::warn!(
                    namespace,
                    pod,
                    reason = refusal.reason(),
                    "Pod refused: {refusal}"
                );
                Response::deny(request.uid, 500, refusal.to_string())
            }
        }
    }

    async fn namespace(&self, name: &str) -> Result<Arc<NamespaceRecord>, String> {
        if let Some(record) = self.directory.read().namespaces.get(name) {
            return Ok(record.clone());
        }
        let api: Api<NamespaceObject> = Api::all(self.client.clone());
        match tokio::time::timeout(LOOK_UP, api.get(name)).await {
            Ok(Ok(namespace)) => Ok(Arc::new(NamespaceRecord::from(&NamespaceFacts::from(&namespace)))),
            Ok(Err(error)) => Err(describe(&format!("Namespace {name} cannot be read"), &error)),
            Err(_) => Err(format!(
                "Namespace {name} cannot be read: the API server does not answer"
            )),
        }
    }

    /// Looks for what a Pod was refused for, which may have been made a moment ago. Whether it is there now.
    async fn look_up_missing(&self, refusal: &Refusal) -> bool {
        let look_up = async {
            match refusal {
                Refusal::MeshNotFound { mesh, .. } => self.look_up_mesh(mesh).await,
                Refusal::ContainerPatchesMissing { names } => self.look_up_patches(names).await,
                _ => false,
            }
        };
        tokio::time::timeout(LOOK_UP, look_up).await.unwrap_or(false)
    }

    async fn look_up_mesh(&self, name: &str) -> bool {
        let api: Api<Mesh> = Api::all(self.client.clone());
        let found = matches!(api.get_metadata_opt(name).await, Ok(Some(_)));
        if found {
            self.directory.write().meshes.insert(name.into());
        }
        found
    }

    async fn look_up_patches(&self, names: &[String]) -> bool {
        let api: Api<ContainerPatch> = Api::namespaced(self.client.clone(), &self.system_namespace);
        for name in names {
            let Ok(Some(patch)) = api.get_opt(name).await else {
                return false;
            };
            self.directory
                .write()
                .container_patches
                .insert(name.as_str().into(), patch.spec);
        }
        true
    }
}

/// The Pod's name, or what its name will begin with.
fn pod_name(request: &Request) -> String {
    let generated = || {
        request
            .object
            .pointer("/metadata/generateName")
            .and_then(serde_json::Value::as_str)
    };
    if request.name.is_empty() {
        generated().unwrap_or_default().to_owned()
    } else {
        request.name.clone()
    }
}
