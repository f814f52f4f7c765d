//! Events: what `kubectl describe` shows about a Pod.

use k8s_openapi::api::core::v1::ObjectReference;
use kermode_model::ObjectKey;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Writes Events in the control plane's name. Repeats are counted on the first one by Kubernetes' own rules.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// What an Event is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Kind of a core/v1 object: `Pod` or `Namespace`.
    pub kind: &'static str,
    /// The object.
    pub key: ObjectKey,
    /// Its UID, so that `kubectl describe` finds the Event.
    pub uid: String,
}

impl Events {
    /// Events reported by this replica.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: "kuma-cp".to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Writes a Normal Event; a failure is logged, since nothing depends on it.
    pub async fn normal(&self, subject: &Subject, reason: &str, message: String) {
        self.publish(EventType::Normal, subject, reason, message).await;
    }

    /// Writes a Warning Event.
    pub async fn warning(&self, subject: &Subject, reason: &str, message: String) {
        self.publish(EventType::Warning, subject, reason, message).await;
    }

    async fn publish(&self, type_: EventType, subject: &Subject, reason: &str, message: String) {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(subject.kind.to_owned()),
            namespace: Some(subject.key.namespace.to_string()),
            name: Some(subject.key.name.to_string()),
            uid: Some(subject.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            // The API server refuses longer notes.
            note: Some(message.chars().take(1024).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::debug!(object = %subject.key, reason, %error, "event could not be written");
        }
    }
}
