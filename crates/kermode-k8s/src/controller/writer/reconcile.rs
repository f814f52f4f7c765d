//! Reconciles one Dataplane of the API server with its desired state.

use std::fmt::Display;
use std::time::{Duration, Instant};

use kermode_crds::Dataplane;
use kermode_model::ObjectKey;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject};
use serde_json::Value;

use super::observed::Content;
use super::{Desired, FIELD_MANAGER, ObservedDataplane, WriteResult, WriterInner};
use crate::controller::failure::{describe, is_conflict, is_not_found};
use crate::controller::recorder::Subject;
use crate::convert::{self, MANAGED_LABELS};

/// Pause after which a failed write must be retried. The failure has already been reported.
#[derive(Debug)]
pub(super) struct RetryAfter(pub(super) Duration);

/// Pause after a transient failure, and after the first rejection.
const SHORT_PAUSE: Duration = Duration::from_secs(2);
/// Maximum pause after repeated rejections, which only a change of the cluster can end.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// Delay of a status write, which coalesces changes in quick succession.
const COALESCE: Duration = Duration::from_millis(200);

impl WriterInner {
    #[tracing::instrument(name = "write dataplane", level = "debug", skip_all, fields(%key))]
    pub(super) async fn reconcile(&self, key: &ObjectKey) -> Result<(), RetryAfter> {
        let observed = self.observed.lock().get(key).cloned();
        match (self.source.desired(key), observed) {
            (Some(desired), observed) => self.apply(key, &desired, observed).await,
            (None, Some(observed)) if observed.generated => self.delete(key).await,
            (None, _) => {
                self.rejections.lock().remove(key);
                Ok(())
            }
        }
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        desired: &Desired,
        observed: Option<ObservedDataplane>,
    ) -> Result<(), RetryAfter> {
        let object = convert::dataplane_object(&desired.dataplane, &desired.pod_uid);
        let spec = serde_json::to_value(&object.spec).map_err(|error| {
            tracing::error!(dataplane = %key, %error, "Dataplane cannot be serialized");
            RetryAfter(MAX_PAUSE)
        })?;
        let content = Content::of(&object, &spec, &desired.pod_uid);
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
            self.waiting.add(mesh.clone(), key.clone());
            // The Mesh may have been created between the check and the registration.
            if !self.source.mesh_exists(mesh) {
                return Err(self.on_missing_mesh(key, desired));
            }
        }
        match self.put(key, &object, spec, content).await {
            Ok(written) => {
                self.publish_event(key, desired, observed.as_ref(), content);
                self.store_observed(key, written);
                self.rejections.lock().remove(key);
                self.schedule_status_write(key);
                Ok(())
            }
            // The namespace and the Pod are being deleted.
            Err(error) if is_not_found(&error) || is_terminating(&error) => Ok(()),
            Err(error) if is_conflict(&error) => Err(RetryAfter(SHORT_PAUSE)),
            Err(error) => Err(self.on_write_error(key, desired, &error)),
        }
    }

    async fn put(
        &self,
        key: &ObjectKey,
        object: &Dataplane,
        spec: Value,
        content: Content,
    ) -> kube::Result<ObservedDataplane> {
        let resource = ApiResource::erase::<Dataplane>(&());
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&key.name, &params, &Patch::Apply(object)).await?;
        let observed = ObservedDataplane::new(&applied);
        if observed.content == content {
            return Ok(observed);
        }
        // Server-side apply keeps fields of other managers, so they are removed by a replacement.
        let replaced = api
            .replace(&key.name, &replacing(), &without_additions(applied, object, spec))
            .await?;
        self.metrics.count_write(WriteResult::Corrected);
        Ok(ObservedDataplane::new(&replaced))
    }

    /// Publishes an Event for a created or updated Dataplane, but not for changes of health alone.
    fn publish_event(
        &self,
        key: &ObjectKey,
        desired: &Desired,
        observed: Option<&ObservedDataplane>,
        content: Content,
    ) {
        let subject = subject(key, desired);
        let Some(observed) = observed else {
            self.metrics.count_write(WriteResult::Created);
            let message = format!("Created Kuma Dataplane: {}", key.name);
            return self.events.normal(&subject, "CreatedKumaDataplane", &message);
        };
        self.metrics.count_write(WriteResult::Updated);
        if observed.content.shape != content.shape {
            let message = format!("Updated Kuma Dataplane: {}", key.name);
            self.events.normal(&subject, "UpdatedKumaDataplane", &message);
        }
    }

    fn on_write_error(&self, key: &ObjectKey, desired: &Desired, error: &kube::Error) -> RetryAfter {
        let rejected = matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422));
        let pause = if rejected {
            self.pause_after_rejection(key)
        } else {
            SHORT_PAUSE
        };
        if pause >= MAX_PAUSE {
            self.report_generation_failure(key, desired, error);
        }
        self.failed(&format!("Dataplane {key} cannot be written"), error);
        RetryAfter(pause)
    }

    /// Reports a missing Mesh. An Event is published only if the Mesh remains missing: at startup it may be about to be
    /// created.
    fn on_missing_mesh(&self, key: &ObjectKey, desired: &Desired) -> RetryAfter {
        let pause = self.pause_after_rejection(key);
        if pause >= MAX_PAUSE {
            let mesh = &desired.dataplane.mesh;
            let problem = format!("Mesh \"{mesh}\" does not exist: create it or correct kuma.io/mesh");
            tracing::warn!(dataplane = %key, "Dataplane cannot be written: {problem}");
            self.report_generation_failure(key, desired, &problem);
        }
        RetryAfter(pause)
    }

    fn report_generation_failure(&self, key: &ObjectKey, desired: &Desired, problem: &dyn Display) {
        self.metrics.count_generation_failure();
        let message = format!("Failed to generate Kuma Dataplane: {problem}");
        self.events
            .warning(&subject(key, desired), "FailedToGenerateKumaDataplane", &message);
    }

    /// Returns the pause after another rejection of a Dataplane. It grows exponentially: the first rejections may be
    /// transient, for example while a Mesh is being created.
    fn pause_after_rejection(&self, key: &ObjectKey) -> Duration {
        let mut rejections = self.rejections.lock();
        let times = rejections.entry(key.clone()).or_default();
        *times = times.saturating_add(1);
        SHORT_PAUSE
            .saturating_mul(1 << (*times - 1).min(8))
            .min(MAX_PAUSE)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), RetryAfter> {
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        // The object may have been replaced by one that a user created after the observed one was deleted.
        let current = match api.get_metadata_opt(&key.name).await {
            Ok(Some(current)) => current.metadata,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.failed(&format!("Dataplane {key} cannot be read"), &error)),
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
            Err(error) => Err(self.failed(&format!("Dataplane {key} cannot be deleted"), &error)),
        }
    }

    fn failed(&self, failure: &str, error: &kube::Error) -> RetryAfter {
        self.metrics.count_write(WriteResult::Failed);
        tracing::warn!("{}", describe(failure, error));
        RetryAfter(SHORT_PAUSE)
    }

    /// Schedules a write of the status if it is outdated.
    fn schedule_status_write(&self, key: &ObjectKey) {
        if self.status_to_write(key).is_some() {
            self.status.push(key.clone(), Instant::now() + COALESCE);
        }
    }
}

fn subject(key: &ObjectKey, desired: &Desired) -> Subject {
    Subject {
        kind: "Pod",
        key: key.clone(),
        uid: desired.pod_uid.to_string(),
    }
}

fn replacing() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Returns the observed object with the desired labels, owner, mesh and spec, without additions by others.
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

fn is_terminating(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && status.message.contains("being terminated"))
}
