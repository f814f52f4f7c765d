//! Events: what `kubectl describe` shows about a Pod.

use k8s_openapi::api::core::v1::ObjectReference;
use kermode_model::ObjectKey;
use kube::Client;
pub use kube::runtime::events::EventType;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio::sync::mpsc;

/// How many Events may wait to be written; further ones are dropped, since nothing depends on them.
const WAITING: usize = 4096;

/// Writes Events in the control plane's name, off the caller's path. Repeats are counted on the first one by
/// Kubernetes' own rules. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    waiting: mpsc::Sender<(Event, ObjectReference)>,
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
    /// Starts the task that writes, which ends with the last handle. `instance` names this replica.
    pub fn start(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: "kuma-cp".to_owned(),
            instance,
        };
        let recorder = Recorder::new(client, reporter);
        let (waiting, mut events) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        tokio::spawn(async move {
            while let Some((event, reference)) = events.recv().await {
                if let Err(error) = recorder.publish(&event, &reference).await {
                    tracing::debug!(object = ?reference.name, reason = event.reason, %error, "Event not written");
                }
            }
        });
        Self { waiting }
    }

    /// Writes a Normal Event.
    pub fn normal(&self, subject: &Subject, reason: &str, message: &str) {
        self.publish(EventType::Normal, subject, reason, message);
    }

    /// Writes a Warning Event.
    pub fn warning(&self, subject: &Subject, reason: &str, message: &str) {
        self.publish(EventType::Warning, subject, reason, message);
    }

    fn publish(&self, type_: EventType, subject: &Subject, reason: &str, message: &str) {
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(subject.kind.to_owned()),
            namespace: Some(subject.key.namespace.to_string()),
            name: Some(subject.key.name.to_string()),
            uid: Some(subject.uid.clone()),
            ..ObjectReference::default()
        };
        self.about(object, type_, "Reconcile", reason, message);
    }

    /// Writes an Event about an object of any kind, in the namespace that the reference names. `action` is what was
    /// being done.
    pub fn about(
        &self,
        object: ObjectReference,
        type_: EventType,
        action: &str,
        reason: &str,
        message: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            // The API server refuses longer notes.
            note: Some(message.chars().take(1024).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.waiting.try_send((event, object)) {
            let (mpsc::error::TrySendError::Full((_, object))
            | mpsc::error::TrySendError::Closed((_, object))) = error;
            let (namespace, name) = (object.namespace.as_deref(), object.name.as_deref());
            tracing::debug!(namespace, name, reason, "Event dropped: too many are waiting");
        }
    }
}
