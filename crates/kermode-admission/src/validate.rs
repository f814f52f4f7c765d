//! `/validate-kuma-io-v1alpha1`: denies invalid resources of Kermode, and warns about valid resources that will
//! probably not work. The messages name the field and the remedy.

use kermode_crds::annotation::MESH;
use kermode_crds::{Mesh, validate};
use kermode_model::DEFAULT_MESH;
use kube::Api;
use serde_json::Value;

use super::Webhooks;
use super::deadline::Deadlines;
use super::review::{Request, Response};

/// Value of the label `reason` of the metric for an object without a problem or warning.
const VALID: &str = "Valid";

impl Webhooks {
    pub(super) async fn validate(&self, request: Request, deadlines: Deadlines) -> Response {
        let problems = if request.operation == "DELETE" {
            Vec::new()
        } else {
            self.problems(&request, deadlines).await
        };
        if problems.is_empty() {
            let (reason, warnings) = self.warnings(&request, deadlines).await;
            let outcome = if warnings.is_empty() { "allowed" } else { "warned" };
            self.metrics.count("validate", outcome, reason);
            return Response::allow(request.uid).with_warnings(warnings);
        }
        self.metrics.count("validate", "refused", "Invalid");
        Response::deny(request.uid, 422, problems.join("; "))
    }

    async fn problems(&self, request: &Request, deadlines: Deadlines) -> Vec<String> {
        let (object, system_namespace) = (&request.object, self.system_namespace.as_str());
        match request.kind.kind.as_str() {
            "ContainerPatch" => {
                let checked = kermode_inject::validate_container_patch(object, system_namespace);
                to_strings(checked.err().unwrap_or_default())
            }
            "Mesh" => to_strings(validate::mesh(object)),
            "MeshTrafficPermission" => to_strings(validate::traffic_permission(
                object,
                &request.namespace,
                system_namespace,
            )),
            "Dataplane" => {
                let mesh = object["mesh"].as_str().filter(|mesh| !mesh.is_empty());
                let exists = self.mesh_exists(mesh.unwrap_or(DEFAULT_MESH), deadlines).await;
                to_strings(validate::dataplane(object, |_| exists))
            }
            _ => Vec::new(),
        }
    }

    /// Returns warnings about a valid object that will probably not work, with the value of the label `reason` of the
    /// metric.
    async fn warnings(&self, request: &Request, deadlines: Deadlines) -> (&'static str, Vec<String>) {
        let (reason, warnings) = match request.kind.kind.as_str() {
            _ if request.operation == "DELETE" => return (VALID, Vec::new()),
            "ContainerPatch" => (
                "PatchDoesNotApply",
                self.warnings_of_container_patch(&request.object),
            ),
            "MeshTrafficPermission" => self.warnings_of_permission(&request.object, deadlines).await,
            _ => return (VALID, Vec::new()),
        };
        (if warnings.is_empty() { VALID } else { reason }, warnings)
    }

    fn warnings_of_container_patch(&self, object: &Value) -> Vec<String> {
        let Ok(spec) = serde_json::from_value(object["spec"].clone()) else {
            return Vec::new();
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let failure = kermode_inject::try_container_patch(name, &spec, &self.settings);
        let warn = |failure| {
            format!(
                "{failure}; Pods that use this ContainerPatch are denied, unless their other ContainerPatches make it \
                 applicable"
            )
        };
        failure.map(warn).into_iter().collect()
    }

    /// Returns the warnings about the Mesh or the services of a MeshTrafficPermission, with the value of the label
    /// `reason` of the metric.
    async fn warnings_of_permission(
        &self,
        object: &Value,
        deadlines: Deadlines,
    ) -> (&'static str, Vec<String>) {
        if let Some(warning) = self.unknown_mesh_warning(object, deadlines).await {
            return ("MeshNotFound", vec![warning]);
        }
        let mesh = mesh_of(object);
        let warnings = self.service_warnings_of_permission(object, mesh, deadlines).await;
        ("ServiceNotFound", warnings)
    }

    /// Returns a warning about a MeshTrafficPermission whose Mesh does not exist. The permission is accepted, because
    /// its Mesh may be created later.
    async fn unknown_mesh_warning(&self, object: &Value, deadlines: Deadlines) -> Option<String> {
        let mesh = mesh_of(object);
        if !mesh.is_empty() && self.mesh_exists(mesh, deadlines).await {
            return None;
        }
        Some(format!(
            "metadata.labels[{MESH}]: Mesh {mesh:?} does not exist, so this MeshTrafficPermission has no effect: create \
             the Mesh, or correct the label"
        ))
    }

    /// Returns whether a Mesh exists in the directory or in the API server. Returns `true` if the lookup fails, because
    /// an outage of the API server does not make a resource invalid.
    async fn mesh_exists(&self, name: &str, deadlines: Deadlines) -> bool {
        if self.directory.read().meshes.contains(name) {
            return true;
        }
        let api: Api<Mesh> = Api::all(self.client.clone());
        let found = deadlines.look_up(api.get_metadata_opt(name)).await;
        !matches!(found, Ok(Ok(None)))
    }
}

/// Returns the name of the Mesh of a MeshTrafficPermission. An empty label names the Mesh "".
fn mesh_of(object: &Value) -> &str {
    let label = object["metadata"]["labels"][MESH].as_str();
    label.unwrap_or(DEFAULT_MESH)
}

fn to_strings(problems: Vec<impl ToString>) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}
