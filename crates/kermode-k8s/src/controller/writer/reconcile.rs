//! One Dataplane: makes what the API server has what it should be.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{MutexGuard, PoisonError};
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
use crate::convert::{self, LABELS};

/// A write has failed and been reported; it is to be tried again after that time.
#[derive(Debug)]
pub(super) struct RetryAfter(pub(super) Duration);

/// When to try again what may go well any moment.
const SOON: Duration = Duration::from_secs(2);
/// The longest wait before what the API server refused is tried again: nothing here changes its mind.
const LATER: Duration = Duration::from_mins(1);
/// How long a status waits for a change that may follow the one it tells of.
const COALESCE: Duration = Duration::from_millis(200);

impl WriterInner {
    #[tracing::instrument(name = "write dataplane", level = "debug", skip_all, fields(%key))]
    pub(super) async fn reconcile(&self, key: &ObjectKey) -> Result<(), RetryAfter> {
        let observed = self.observed().get(key).cloned();
        match (self.source.desired(key), observed) {
            (Some(desired), observed) => self.apply(key, &desired, observed).await,
            (None, Some(observed)) if observed.generated => self.delete(key).await,
            (None, _) => {
                self.refused().remove(key);
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
            tracing::error!(dataplane = %key, %error, "Dataplane cannot be serialised");
            RetryAfter(LATER)
        })?;
        let content = Content::of(&object, &spec, &desired.pod_uid);
        if observed
            .as_ref()
            .is_some_and(|observed| observed.content == content)
        {
            self.count_inbounds(key);
            return Ok(());
        }
        if observed.is_none() && self.source.is_terminating(&key.namespace) {
            return Ok(());
        }
        let mesh = &desired.dataplane.mesh;
        if !self.source.mesh_exists(mesh) {
            self.waiting.add(mesh.clone(), key.clone());
            // It may have come between the question and the entry.
            if !self.source.mesh_exists(mesh) {
                return Err(self.without_mesh(key, desired));
            }
        }
        match self.put(key, &object, spec, content).await {
            Ok(written) => {
                self.tell(key, desired, observed.as_ref(), content);
                self.remember(key, written);
                self.refused().remove(key);
                self.count_inbounds(key);
                Ok(())
            }
            // The namespace is going away and the Pod with it.
            Err(error) if is_not_found(&error) || is_terminating(&error) => Ok(()),
            Err(error) if is_conflict(&error) => Err(RetryAfter(SOON)),
            Err(error) => Err(self.not_written(key, desired, &error)),
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
        // Applying leaves what others have added.
        let replaced = api
            .replace(&key.name, &replacing(), &without_additions(applied, object, spec))
            .await?;
        self.metrics.count(WriteResult::Corrected);
        Ok(ObservedDataplane::new(&replaced))
    }

    /// An Event for what an operator wants to see: not for each readiness probe.
    fn tell(
        &self,
        key: &ObjectKey,
        desired: &Desired,
        observed: Option<&ObservedDataplane>,
        content: Content,
    ) {
        let subject = subject(key, desired);
        let Some(observed) = observed else {
            self.metrics.count(WriteResult::Created);
            let message = format!("Created Kuma Dataplane: {}", key.name);
            return self.events.normal(&subject, "CreatedKumaDataplane", &message);
        };
        self.metrics.count(WriteResult::Updated);
        if observed.content.shape != content.shape {
            let message = format!("Updated Kuma Dataplane: {}", key.name);
            self.events.normal(&subject, "UpdatedKumaDataplane", &message);
        }
    }

    fn not_written(&self, key: &ObjectKey, desired: &Desired, error: &kube::Error) -> RetryAfter {
        let refused = matches!(error, kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422));
        let again = if refused { self.wait(key) } else { SOON };
        if again >= LATER {
            self.not_generated(key, desired, error);
        }
        self.failed(&format!("Dataplane {key} cannot be written"), error);
        RetryAfter(again)
    }

    /// A Mesh that is missing at the start is being made; one that stays missing is worth an Event.
    fn without_mesh(&self, key: &ObjectKey, desired: &Desired) -> RetryAfter {
        let again = self.wait(key);
        if again >= LATER {
            let mesh = &desired.dataplane.mesh;
            let problem = format!("there is no Mesh \"{mesh}\": create it or name another");
            tracing::warn!(dataplane = %key, "Dataplane cannot be written: {problem}");
            self.not_generated(key, desired, &problem);
        }
        RetryAfter(again)
    }

    fn not_generated(&self, key: &ObjectKey, desired: &Desired, problem: &dyn Display) {
        self.metrics.not_generated();
        let message = format!("Failed to generate Kuma Dataplane: {problem}");
        self.events
            .warning(&subject(key, desired), "FailedToGenerateKumaDataplane", &message);
    }

    /// How long to wait after another refusal: what is refused now, for want of a Mesh that is being made, may well
    /// be taken in a moment. Only a refusal that stays is worth an Event.
    fn wait(&self, key: &ObjectKey) -> Duration {
        let mut refused = self.refused();
        let times = refused.entry(key.clone()).or_default();
        *times = times.saturating_add(1);
        SOON.saturating_mul(1 << (*times - 1).min(8)).min(LATER)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<ObjectKey, u32>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), RetryAfter> {
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        // The object may be another one by now, written by hand after the one we knew had gone.
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
                self.metrics.count(WriteResult::Deleted);
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(self.failed(&format!("Dataplane {key} cannot be deleted"), &error)),
        }
    }

    fn failed(&self, what: &str, error: &kube::Error) -> RetryAfter {
        self.metrics.count(WriteResult::Failed);
        tracing::warn!("{}", describe(what, error));
        RetryAfter(SOON)
    }

    /// Has the status written where it does not say what is.
    fn count_inbounds(&self, key: &ObjectKey) {
        if self.counted(key).is_some() {
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

/// The object as the API server has it, with our fields as they should be and nothing beside them.
fn without_additions(mut applied: DynamicObject, object: &Dataplane, spec: Value) -> DynamicObject {
    let labels = applied.metadata.labels.get_or_insert_default();
    labels.retain(|key, _| !LABELS.contains(&key.as_str()));
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
