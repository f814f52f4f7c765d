//! Writes the status of Meshes: the mTLS mode in force, and the numbers of Dataplanes and services. Only the leader
//! writes, at most every few seconds.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kermode_crds::{Mesh, MeshStatus};
use kermode_k8s::controller::describe;
use kermode_k8s::controller::lease::while_leading;
use kermode_k8s::controller::watch::watch_config;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::{MeshName, MtlsMode};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Field manager of the status.
const MANAGER: &str = "kuma-cp-mesh";
/// Delay of a write after a change. Further changes during this time are part of the same write.
const COALESCE_TIME: Duration = Duration::from_secs(2);

/// Controller of the status of Meshes.
pub struct MeshStatuses {
    /// Client for reading and writing.
    pub client: Client,
    /// Index of Dataplanes and services.
    pub index: SharedIndex,
    /// Notified when the number of Dataplanes or services of a mesh may have changed.
    pub changed: Arc<Notify>,
    /// Whether this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
}

impl MeshStatuses {
    /// Writes statuses while this replica is the leader, until the future is dropped.
    pub async fn run(self) {
        while_leading(self.is_leader.clone(), || self.write_statuses()).await;
    }

    /// Writes the status of each Mesh after changes, until the future is dropped.
    async fn write_statuses(&self) {
        let api: Api<Mesh> = Api::all(self.client.clone());
        let events = watcher(api.clone(), watch_config());
        let (meshes, store) = reflector::store();
        let mut touched = std::pin::pin!(events.default_backoff().reflect(store).touched_objects());
        let mut write_at = None;
        loop {
            let due = write_at.unwrap_or_else(Instant::now);
            tokio::select! {
                event = touched.next() => match event {
                    Some(Ok(_)) => {}
                    // The engine watches the same objects and logs the error.
                    Some(Err(_)) => continue,
                    None => return,
                },
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(due), if write_at.is_some() => {
                    write_at = None;
                    for mesh in meshes.state() {
                        self.write(&api, &mesh).await;
                    }
                    continue;
                }
            }
            write_at = write_at.or(Some(Instant::now() + COALESCE_TIME));
        }
    }

    async fn write(&self, api: &Api<Mesh>, mesh: &Mesh) {
        let name = mesh.name_any();
        let (dataplanes, services) = self.count_dataplanes_and_services(&MeshName::from(name.as_str()));
        let Some(status) = changed_status(mesh, dataplanes, services, Timestamp::now()) else {
            return;
        };
        let type_meta = Mesh::type_meta();
        let object = json!({
            "apiVersion": type_meta.api_version,
            "kind": type_meta.kind,
            "metadata": {"name": name},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&name, &params, &Patch::Apply(object)).await {
            Ok(_) => {}
            // The Mesh was deleted.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                tracing::warn!(
                    "{}",
                    describe(&format!("Status of Mesh {name} cannot be written"), &error)
                );
                // Schedules a retry.
                self.changed.notify_one();
            }
        }
    }

    /// Returns the number of Dataplanes and of services of a mesh.
    fn count_dataplanes_and_services(&self, mesh: &MeshName) -> (usize, usize) {
        let index = self.index.read();
        let view = index.view();
        (view.dataplanes_of(mesh).count(), view.services(mesh).count())
    }
}

/// Returns the status to write, or `None` if the current status is up to date.
fn changed_status(mesh: &Mesh, dataplanes: usize, services: usize, now: Timestamp) -> Option<MeshStatus> {
    let before = mesh.status.clone().unwrap_or_default();
    let converted = kermode_model::Mesh::try_from(mesh);
    let mtls = match &converted {
        Ok(mesh) => match mesh.mtls.as_ref().map(|mtls| mtls.mode) {
            Some(MtlsMode::Strict) => Some("STRICT".to_owned()),
            Some(MtlsMode::Permissive) => Some("PERMISSIVE".to_owned()),
            None => Some("Disabled".to_owned()),
        },
        // The last valid version stays in force.
        Err(_) => before.mtls.clone(),
    };
    let (accepted, reason, message) = match converted {
        Ok(_) => ("True", "Valid", "The Mesh is valid and in force.".to_owned()),
        Err(error) => (
            "False",
            "Invalid",
            format!("{error}. The last valid version stays in force."),
        ),
    };
    let unchanged_condition = before
        .conditions
        .iter()
        .find(|condition| condition.status == accepted);
    let changed_at =
        unchanged_condition.map_or(Time(now), |condition| condition.last_transition_time.clone());
    let desired = MeshStatus {
        mtls,
        dataplanes,
        services,
        conditions: vec![Condition {
            type_: "Accepted".to_owned(),
            status: accepted.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: changed_at,
            observed_generation: mesh.metadata.generation,
        }],
    };
    (desired != before).then_some(desired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_mesh(mtls: serde_json::Value) -> Mesh {
        let object = json!({"metadata": {"name": "default", "generation": 3}, "spec": {"mtls": mtls}});
        serde_json::from_value(object).expect("a Mesh")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn status_is_written_only_when_it_changed() {
        let backend = json!({"name": "ca", "type": "builtin"});
        let mut mesh = mk_mesh(json!({"enabledBackend": "ca", "backends": [backend]}));
        let first = changed_status(&mesh, 2, 1, at(1)).expect("the first status");
        assert_eq!(
            (first.mtls.as_deref(), first.dataplanes, first.services),
            (Some("STRICT"), 2, 1)
        );
        mesh.status = Some(first);
        assert_eq!(changed_status(&mesh, 2, 1, at(2)), None);
        let second = changed_status(&mesh, 3, 1, at(3)).expect("a changed status");
        assert_eq!(second.conditions[0].last_transition_time, Time(at(1)));
    }

    #[test]
    fn status_of_an_invalid_mesh_has_the_error_and_keeps_the_mode_in_force() {
        let mut mesh = mk_mesh(json!({"enabledBackend": "nowhere"}));
        mesh.status = Some(MeshStatus {
            mtls: Some("STRICT".to_owned()),
            ..MeshStatus::default()
        });
        let written = changed_status(&mesh, 0, 0, at(1)).expect("a changed status");
        assert_eq!(written.mtls.as_deref(), Some("STRICT"));
        assert_eq!(written.conditions[0].status, "False");
        assert!(
            written.conditions[0]
                .message
                .starts_with("spec.mtls.enabledBackend: "),
            "{}",
            written.conditions[0].message
        );
    }
}
