//! `/validate-kuma-io-v1alpha1`: refuses resources of ours that could not be used, with the field and the remedy.

use kermode_crds::{Mesh, MeshTrafficPermission};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Webhooks;
use super::review::{Request, Response};

impl Webhooks {
    pub(super) fn validate(&self, request: Request) -> Response {
        let problems = match request.kind.kind.as_str() {
            "ContainerPatch" => self.container_patch(&request),
            "Mesh" if request.operation != "DELETE" => converts::<Mesh, kermode_model::Mesh>(&request.object),
            "MeshTrafficPermission" if request.operation != "DELETE" => self.permission(&request),
            _ => Vec::new(),
        };
        if problems.is_empty() {
            self.metrics.count("validate", "allowed", "Valid");
            return Response::allow(request.uid);
        }
        self.metrics.count("validate", "refused", "Invalid");
        Response::deny(request.uid, 422, problems.join("; "))
    }

    fn container_patch(&self, request: &Request) -> Vec<String> {
        let checked = if request.operation == "DELETE" {
            return Vec::new();
        } else {
            kermode_inject::validate_container_patch(&request.object, &self.system_namespace)
        };
        let problems = checked.err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    fn permission(&self, request: &Request) -> Vec<String> {
        if request.namespace != self.system_namespace {
            let namespace = &self.system_namespace;
            return vec![format!(
                "MeshTrafficPermission can only be placed in {namespace} namespace"
            )];
        }
        converts::<MeshTrafficPermission, kermode_model::TrafficPermission>(&request.object)
    }
}

fn converts<W, M>(object: &Value) -> Vec<String>
where
    W: DeserializeOwned,
    for<'w> M: TryFrom<&'w W, Error: ToString>,
{
    match W::deserialize(object) {
        Ok(wire) => M::try_from(&wire)
            .err()
            .map(|error| error.to_string())
            .into_iter()
            .collect(),
        Err(error) => vec![error.to_string()],
    }
}
