//! Reconciles one Dataplane of the API server with its desired state.

use std::fmt::Display;
use std::time::{Duration, Instant};

use kermode_crds::Dataplane;
use kermode_model::ObjectKey;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use serde_json::Value;

use super::observed::ContentHash;
use super::{DesiredDataplane, FIELD_MANAGER, ObservedDataplane, WriteResult, WriterInner};
use crate::controller::failure::{describe, is_conflict, is_namespace_terminating, is_not_found};
use crate::controller::recorder::Subject;
use crate::convert::{self, MANAGED_LABELS};

/// Error of a failed reconciliation, which is retried after this pause. The failure has already been logged, except for
/// a conflict, and for a missing Mesh before the pause has reached its maximum.
#[derive(Debug)]
pub(super) struct RetryAfter(pub(super) Duration);

/// Pause after a transient failure, and after the first rejection.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Maximum pause after repeated rejections. Usually a retry succeeds only after a user has changed an object.
const MAX_REJECTION_PAUSE: Duration = Duration::from_mins(1);
/// Delay of a status write. Changes during the delay are written together.
const STATUS_DELAY: Duration = Duration::from_millis(200);

impl WriterInner {
    /// Creates, updates or deletes a Dataplane whose observed state differs from its desired state.
    #[tracing::instrument(name = "write dataplane", level = "debug", skip_all, fields(%key))]
    pub(super) async fn reconcile(&self, key: &ObjectKey) -> Result<(), RetryAfter> {
        let observed = self.observed.lock().get(key).cloned();
        match (self.source.desired(key), observed) {
            (Some(desired), observed) => self.apply(key, &desired, observed).await,
            (None, Some(observed)) if observed.is_owned_by_pod => self.delete(key).await,
            (None, _) => {
                self.rejections.lock().remove(key);
                Ok(())
            }
        }
    }

    /// Writes a desired Dataplane if the observed Dataplane differs.
    async fn apply(
        &self,
        key: &ObjectKey,
        desired: &DesiredDataplane,
        observed: Option<ObservedDataplane>,
    ) -> Result<(), RetryAfter> {
        let object = convert::dataplane_object(&desired.dataplane, &desired.pod_uid);
        let spec = serde_json::to_value(&object.spec).map_err(|error| {
            tracing::error!(dataplane = %key, %error, "Dataplane cannot be serialized");
            RetryAfter(MAX_REJECTION_PAUSE)
        })?;
        let content = ContentHash::of(&object, &spec, &desired.pod_uid);
        if observed
            .as_ref()
            .is_some_and(|observed| observed.content == content)
        {
            self.schedule_status_write(key);
            return Ok(());
        }
        if observed.is_none() && self.source.is_terminating(&key.namespace) {
            return Ok(());
        }
        let mesh = &desired.dataplane.mesh;
        if !self.source.mesh_exists(mesh) {
            self.waiting_for_mesh.add(mesh.clone(), key.clone());
            // The Mesh may have been created between the first check and `add`.
            if !self.source.mesh_exists(mesh) {
                return Err(self.on_missing_mesh(key, desired));
            }
        }
        match self.write(key, &object, spec, content).await {
            Ok(written) => {
                self.report_written(key, desired, observed.as_ref(), content);
                self.update_observed(key, written);
                self.rejections.lock().remove(key);
                self.schedule_status_write(key);
                Ok(())
            }
            // The namespace and its Pods are being deleted.
            Err(error) if is_not_found(&error) || is_namespace_terminating(&error) => Ok(()),
            Err(error) if is_conflict(&error) => Err(RetryAfter(RETRY_PAUSE)),
            Err(error) => Err(self.on_write_error(key, desired, &error)),
        }
    }

    /// Applies the object, and replaces it if other managers have added fields. Returns the written state.
    async fn write(
        &self,
        key: &ObjectKey,
        object: &Dataplane,
        spec: Value,
        content: ContentHash,
    ) -> kube::Result<ObservedDataplane> {
        let resource = ApiResource::erase::<Dataplane>(&());
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&key.name, &params, &Patch::Apply(object)).await?;
        let observed = ObservedDataplane::new(&applied);
        if observed.content == content {
            return Ok(observed);
        }
        // Server-side apply keeps the fields of other managers. Replacing the object removes them.
        let replaced = api
            .replace(
                &key.name,
                &replace_params(),
                &without_additions(applied, object, spec),
            )
            .await?;
        self.metrics.count_write(WriteResult::Corrected);
        Ok(ObservedDataplane::new(&replaced))
    }

    /// Counts a created or updated Dataplane. Publishes an Event, unless only the health of inbounds has changed.
    fn report_written(
        &self,
        key: &ObjectKey,
        desired: &DesiredDataplane,
        observed: Option<&ObservedDataplane>,
        content: ContentHash,
    ) {
        let subject = subject(key, desired);
        let Some(observed) = observed else {
            self.metrics.count_write(WriteResult::Created);
            let message = format!("Created Kuma Dataplane: {}", key.name);
            return self.events.normal(&subject, "CreatedKumaDataplane", &message);
        };
        self.metrics.count_write(WriteResult::Updated);
        if observed.content.without_health != content.without_health {
            let message = format!("Updated Kuma Dataplane: {}", key.name);
            self.events.normal(&subject, "UpdatedKumaDataplane", &message);
        }
    }

    /// Counts and logs a failed write. After repeated rejections by the API server, also publishes an Event.
    fn on_write_error(&self, key: &ObjectKey, desired: &DesiredDataplane, error: &kube::Error) -> RetryAfter {
        let is_rejected = matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422));
        let pause = if is_rejected {
            self.pause_after_rejection(key)
        } else {
            RETRY_PAUSE
        };
        if pause >= MAX_REJECTION_PAUSE {
            self.report_persistent_failure(key, desired, error);
        }
        self.report_failure(&format!("Dataplane {key} cannot be written"), error);
        RetryAfter(pause)
    }

    /// Counts a rejection because of a missing Mesh. Reports the missing Mesh only when the pause has reached its
    /// maximum, because the Mesh may be created soon, for example at startup.
    fn on_missing_mesh(&self, key: &ObjectKey, desired: &DesiredDataplane) -> RetryAfter {
        let pause = self.pause_after_rejection(key);
        if pause >= MAX_REJECTION_PAUSE {
            let mesh = &desired.dataplane.mesh;
            let problem = format!(
                "Mesh \"{mesh}\" does not exist: create the Mesh, or correct the annotation kuma.io/mesh"
            );
            tracing::warn!(dataplane = %key, "Dataplane cannot be written: {problem}");
            self.report_persistent_failure(key, desired, &problem);
        }
        RetryAfter(pause)
    }

    /// Counts a Dataplane that still cannot be written after several attempts, and publishes an Event on its Pod.
    fn report_persistent_failure(&self, key: &ObjectKey, desired: &DesiredDataplane, problem: &dyn Display) {
        self.metrics.count_generation_failure();
        let message = format!("Failed to generate Kuma Dataplane: {problem}");
        self.events
            .warning(&subject(key, desired), "FailedToGenerateKumaDataplane", &message);
    }

    /// Counts another rejection of a Dataplane, and returns the pause until the next attempt. The pause grows
    /// exponentially: the first rejections may be transient, for example while a Mesh is being created.
    fn pause_after_rejection(&self, key: &ObjectKey) -> Duration {
        let mut rejections = self.rejections.lock();
        let count = rejections.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        RETRY_PAUSE
            .saturating_mul(1 << (*count - 1).min(8))
            .min(MAX_REJECTION_PAUSE)
    }

    /// Deletes a Dataplane that is not desired, unless a user has created it.
    async fn delete(&self, key: &ObjectKey) -> Result<(), RetryAfter> {
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        // A user may have replaced the observed object with another object of the same name.
        let current = match api.get_metadata_opt(&key.name).await {
            Ok(Some(current)) => current.metadata,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.report_failure(&format!("Dataplane {key} cannot be read"), &error)),
        };
        if !current
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == "Pod")
        {
            return Ok(());
        }
        let preconditions = Preconditions {
            uid: current.uid,
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => {
                self.metrics.count_write(WriteResult::Deleted);
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(self.report_failure(&format!("Dataplane {key} cannot be deleted"), &error)),
        }
    }

    /// Counts and logs a failed request. Returns the pause until the retry.
    fn report_failure(&self, failure: &str, error: &kube::Error) -> RetryAfter {
        self.metrics.count_write(WriteResult::Failed);
        tracing::warn!("{}", describe(failure, error));
        RetryAfter(RETRY_PAUSE)
    }

    /// Schedules a write of the leader's part of the status if it is outdated.
    fn schedule_status_write(&self, key: &ObjectKey) {
        if self.status_to_write(key).is_some() {
            self.status.push(key.clone(), Instant::now() + STATUS_DELAY);
        }
    }
}

/// Returns the subject of the Events about a Dataplane: its Pod, which has the same namespace and name.
fn subject(key: &ObjectKey, desired: &DesiredDataplane) -> Subject {
    Subject {
        kind: "Pod",
        key: key.clone(),
        uid: desired.pod_uid.to_string(),
    }
}

fn replace_params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Returns the applied object with the managed labels, the owner and the mesh of `object`, and with `spec` (the spec of
/// `object` as JSON). Additions of other field managers to these parts are removed.
fn without_additions(mut applied: DynamicObject, object: &Dataplane, spec: Value) -> DynamicObject {
    let labels = applied.metadata.labels.get_or_insert_default();
    labels.retain(|key, _| !MANAGED_LABELS.contains(&key.as_str()));
    labels.extend(object.metadata.labels.clone().unwrap_or_default());
    applied
        .metadata
        .owner_references
        .clone_from(&object.metadata.owner_references);
    applied.data["mesh"] = object.mesh.clone().into();
    applied.data["spec"] = spec;
    applied
}
