//! Warnings about names of services that do not exist, in MeshTrafficPermissions and in annotations of Pods. Such an
//! object is accepted, because the service may be created later.

use k8s_openapi::api::core::v1::Service;
use kermode_crds::MeshTrafficPermission;
use kermode_crds::annotation::{DIRECT_ACCESS_SERVICES, REACHABLE_SERVICES};
use kermode_model::{MeshName, ServiceName, direct_access, notation};
use kube::Api;
use serde::Deserialize;
use serde_json::Value;

use super::Webhooks;
use super::deadline::Deadlines;

/// Maximum number of services that are looked up in the API server for one list of names, and that one warning names.
/// The other names of the list are not checked.
const MAX_LOOKUPS: usize = 8;

impl Webhooks {
    /// Returns a warning for each service that a MeshTrafficPermission names and that does not exist in its Mesh.
    pub(super) async fn service_warnings_of_permission(
        &self,
        object: &Value,
        mesh: &str,
        deadlines: Deadlines,
    ) -> Vec<String> {
        let Ok(permission) = MeshTrafficPermission::deserialize(object) else {
            return Vec::new();
        };
        let names = permission.service_references().map(|reference| reference.name);
        let unknown = self.unknown_services(mesh, names, deadlines).await;
        let warning = |name: &str| {
            let first_reference = permission
                .service_references()
                .find(|reference| reference.name == name)?;
            let effect = match first_reference.rule {
                None => "this MeshTrafficPermission",
                Some(_) => "this rule",
            };
            let field = first_reference.field();
            Some(format!(
                "{field}.name: service {name:?} does not exist in Mesh {mesh:?}, so {effect} has no effect: correct the \
                 name, or create the service"
            ))
        };
        unknown.iter().filter_map(|name| warning(name)).collect()
    }

    /// Returns a warning for each annotation of a Pod that lists services that do not exist in the Pod's Mesh.
    pub(super) async fn warnings_of_pod(&self, pod: &Value, mesh: &str, deadlines: Deadlines) -> Vec<String> {
        let mut warnings = Vec::new();
        for key in [DIRECT_ACCESS_SERVICES, REACHABLE_SERVICES] {
            let Some(list) = pod["metadata"]["annotations"][key].as_str() else {
                continue;
            };
            let selects_all =
                |name: &str| key == DIRECT_ACCESS_SERVICES && name == direct_access::ALL_SERVICES;
            let names = notation::list(list).filter(|name| !selects_all(name));
            let unknown = self.unknown_services(mesh, names, deadlines).await;
            if !unknown.is_empty() {
                warnings.push(format!(
                    "annotation {key}: these services do not exist in Mesh {mesh:?}: {}; correct the names, or create \
                     the services",
                    unknown.join(", ")
                ));
            }
        }
        warnings
    }

    /// Returns the names that are no service, without repetitions: no Dataplane of the Mesh has an inbound of the
    /// service, no gateway has the name, and no Kubernetes Service has the port that the name stands for.
    async fn unknown_services<'n>(
        &self,
        mesh: &str,
        names: impl Iterator<Item = &'n str>,
        deadlines: Deadlines,
    ) -> Vec<&'n str> {
        let mut unknown = Vec::new();
        for name in self.services_without_dataplane(mesh, names) {
            if !self.kubernetes_service_exists(name, deadlines).await {
                unknown.push(name);
            }
        }
        unknown
    }

    /// Returns up to [`MAX_LOOKUPS`] of the names that the directory does not have, without repetitions.
    fn services_without_dataplane<'n>(
        &self,
        mesh: &str,
        names: impl Iterator<Item = &'n str>,
    ) -> Vec<&'n str> {
        let mesh = MeshName::from(mesh);
        let directory = self.directory.read();
        let mut absent = Vec::new();
        for name in names {
            if absent.len() == MAX_LOOKUPS {
                break;
            }
            if !absent.contains(&name) && !directory.services.contains(&mesh, &name.into()) {
                absent.push(name);
            }
        }
        absent
    }

    /// Whether the API server has the Kubernetes Service and port that the name stands for. The Service may have no Pods.
    /// Returns `true` if the lookup fails, because an outage of the API server does not make a name wrong.
    async fn kubernetes_service_exists(&self, name: &str, deadlines: Deadlines) -> bool {
        let Some((key, port)) = ServiceName::from(name).service_port() else {
            return false;
        };
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        match deadlines.look_up(api.get_opt(&key.name)).await {
            Ok(Ok(service)) => {
                let spec = service.and_then(|service| service.spec);
                let ports = spec.and_then(|spec| spec.ports).unwrap_or_default();
                ports.iter().any(|declared| declared.port == i32::from(port))
            }
            Ok(Err(_)) | Err(_) => true,
        }
    }
}
