//! Writes the status of MeshTrafficPermissions: whether a permission is in effect, and whether the Mesh and the services
//! exist that it names. Only the leader writes, at most every few seconds.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kermode_crds::{MeshTrafficPermission, MeshTrafficPermissionStatus};
use kermode_k8s::controller::describe;
use kermode_k8s::controller::lease::while_leading;
use kermode_k8s::controller::watch::watch_config;
use kermode_k8s::index::Index;
use kermode_k8s::service_changes::ServiceChanges;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::{MeshName, ServiceName, TrafficPermission};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

/// Field manager of the status.
const MANAGER: &str = "kuma-cp-permission";
/// Delay of a write after a change. Further changes during this time are part of the same write.
const COALESCE_TIME: Duration = Duration::from_secs(2);
/// Maximum number of missing services that a message names.
const MAX_NAMED: usize = 8;

/// Controller of the status of MeshTrafficPermissions.
pub struct PermissionStatuses {
    /// Client for reading and writing.
    pub client: Client,
    /// Namespace of the control plane, which contains the permissions.
    pub namespace: String,
    /// Index of Meshes and services.
    pub index: SharedIndex,
    /// Notification that Meshes or services were created or deleted.
    pub changes: ServiceChanges,
    /// Whether this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
}

impl PermissionStatuses {
    /// Writes statuses while this replica is the leader, until the future is dropped.
    pub async fn run(self) {
        while_leading(self.is_leader.clone(), || self.write_statuses()).await;
    }

    /// Writes the status of each permission after changes, until the future is dropped.
    async fn write_statuses(&self) {
        let mut changes = self.changes.subscribe();
        // `changes` holds the sender, so the wait cannot fail.
        let _ = changes.wait_for(|count| *count > 0).await;
        let api: Api<MeshTrafficPermission> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = watcher(api.clone(), watch_config());
        let (permissions, store) = reflector::store();
        let mut touched = std::pin::pin!(events.default_backoff().reflect(store).touched_objects());
        let mut write_at = None;
        loop {
            let deadline = write_at.unwrap_or_else(Instant::now);
            tokio::select! {
                event = touched.next() => match event {
                    Some(Ok(_)) => {}
                    // The engine watches the same objects and logs the error.
                    Some(Err(_)) => continue,
                    None => return,
                },
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep_until(deadline), if write_at.is_some() => {
                    write_at = None;
                    let mut are_all_written = true;
                    for permission in permissions.state() {
                        are_all_written &= self.write(&api, &permission).await;
                    }
                    if are_all_written {
                        continue;
                    }
                }
            }
            write_at = write_at.or(Some(Instant::now() + COALESCE_TIME));
        }
    }

    /// Writes the status of a permission if it has changed. Returns false if the write has to be repeated.
    async fn write(&self, api: &Api<MeshTrafficPermission>, permission: &MeshTrafficPermission) -> bool {
        let name = permission.name_any();
        let missing = Missing::find(permission, &self.index.read());
        let Some(status) = changed_status(permission, &missing, Timestamp::now()) else {
            return true;
        };
        let type_meta = MeshTrafficPermission::type_meta();
        let object = json!({
            "apiVersion": type_meta.api_version,
            "kind": type_meta.kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&name, &params, &Patch::Apply(object)).await {
            Ok(_) => true,
            // The permission was deleted, or its CustomResourceDefinition is that of an earlier version, without status.
            Err(kube::Error::Api(status)) if status.code == 404 => true,
            Err(error) => {
                let failure = format!("Status of MeshTrafficPermission {name} cannot be written");
                tracing::warn!("{}", describe(&failure, &error));
                false
            }
        }
    }
}

/// Mesh and services that a permission names and that do not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// The Mesh.
    Mesh,
    /// Services, each as the path of its first reference and its name.
    Services(Vec<(String, String)>),
}

impl Missing {
    fn find(permission: &MeshTrafficPermission, index: &Index) -> Self {
        let mesh = MeshName::from(permission.mesh());
        if index.view().mesh(&mesh).is_none() {
            return Self::Mesh;
        }
        let mut services: Vec<(String, String)> = Vec::new();
        for reference in permission.service_references() {
            let is_listed = services.iter().any(|(_, name)| name == reference.name);
            if !is_listed && !index.service_exists(&mesh, &ServiceName::from(reference.name)) {
                services.push((reference.field(), reference.name.to_owned()));
            }
        }
        if services.is_empty() {
            Self::Nothing
        } else {
            Self::Services(services)
        }
    }

    /// Returns status, reason and message of the condition `ResolvedRefs`.
    fn condition(&self, mesh: &str) -> (&'static str, &'static str, String) {
        match self {
            Self::Nothing => (
                "True",
                "Resolved",
                "The Mesh and all services that the permission names exist.".to_owned(),
            ),
            Self::Mesh => (
                "False",
                "MeshNotFound",
                format!(
                    "Mesh {mesh:?} does not exist, so the permission has no effect: correct the label kuma.io/mesh, or \
                     create the Mesh."
                ),
            ),
            Self::Services(services) => {
                let named = services.iter().take(MAX_NAMED);
                let named: Vec<_> = named
                    .map(|(field, name)| format!("{field}.name: {name:?}"))
                    .collect();
                let others = services.len() - named.len();
                let others = (others > 0).then(|| format!(" and {others} others"));
                let message = format!(
                    "These services do not exist in Mesh {mesh:?}, so the parts of the permission that name them have no \
                     effect: {}{}. Correct the names, or create the services.",
                    named.join(", "),
                    others.unwrap_or_default()
                );
                ("False", "ServiceNotFound", message)
            }
        }
    }
}

/// Returns the status to write, or `None` if the current status is up to date.
fn changed_status(
    permission: &MeshTrafficPermission,
    missing: &Missing,
    now: Timestamp,
) -> Option<MeshTrafficPermissionStatus> {
    let accepted = match TrafficPermission::try_from(permission) {
        Ok(_) => (
            "True",
            "Valid",
            "The permission is valid and in force.".to_owned(),
        ),
        Err(error) => (
            "False",
            "Invalid",
            format!("{error}. The last valid version stays in force."),
        ),
    };
    let before = permission.status.clone().unwrap_or_default();
    let condition = |type_: &str, (status, reason, message): (&str, &str, String)| {
        let unchanged = before
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_ && condition.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: unchanged
                .map_or(Time(now), |condition| condition.last_transition_time.clone()),
            observed_generation: permission.metadata.generation,
        }
    };
    let desired = MeshTrafficPermissionStatus {
        conditions: vec![
            condition("Accepted", accepted),
            condition("ResolvedRefs", missing.condition(permission.mesh())),
        ],
    };
    (desired != before).then_some(desired)
}

#[cfg(test)]
mod tests;
