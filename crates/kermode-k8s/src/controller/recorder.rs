//! Writes Kubernetes Events in a background task.

use k8s_openapi::api::core::v1::ObjectReference;
use kermode_model::ObjectKey;
use kube::Client;
pub use kube::runtime::events::EventType;
use kube::runtime::events::{Event, Recorder, Reporter};
use tokio::sync::mpsc;

/// Maximum number of queued Events. Further Events are dropped, because Events are only informative.
const QUEUE_SIZE: usize = 4096;

/// Maximum length of an Event's note (its message) in bytes. The API server rejects longer notes.
const MAX_NOTE_LENGTH: usize = 1024;

/// Handle of the task that writes Events; cheap to clone. The methods only queue Events. Repeated Events are aggregated
/// as in client-go.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    queue: mpsc::Sender<(Event, ObjectReference)>,
}

/// Object that an Event is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Kind of the object, in the API version `v1`, such as `Pod`.
    pub kind: &'static str,
    /// Namespace and name of the object.
    pub key: ObjectKey,
    /// UID of the object. `kubectl describe` finds Events by this UID.
    pub uid: String,
}

impl EventRecorder {
    /// Starts the task that writes Events. The task ends when the last handle is dropped. `instance` is the name of
    /// this replica.
    pub fn start(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: "kuma-cp".to_owned(),
            instance,
        };
        let recorder = Recorder::new(client, reporter);
        let (queue, mut events) = mpsc::channel::<(Event, ObjectReference)>(QUEUE_SIZE);
        tokio::spawn(async move {
            while let Some((event, reference)) = events.recv().await {
                if let Err(error) = recorder.publish(&event, &reference).await {
                    tracing::debug!(object = ?reference.name, reason = event.reason, %error, "Event not written");
                }
            }
        });
        Self { queue }
    }

    /// Queues a Normal Event with the action `Reconcile`.
    pub fn normal(&self, subject: &Subject, reason: &str, message: &str) {
        self.publish_for_subject(EventType::Normal, subject, "Reconcile", reason, message);
    }

    /// Queues a Warning Event with the action `Reconcile`.
    pub fn warning(&self, subject: &Subject, reason: &str, message: &str) {
        self.publish_for_subject(EventType::Warning, subject, "Reconcile", reason, message);
    }

    /// Queues a Warning Event with an action of its own. An Event with the subject, reason and action of an earlier
    /// Event is aggregated into the earlier one, whose message stays. Use this method if the messages matter.
    pub fn warning_with_action(&self, subject: &Subject, action: &str, reason: &str, message: &str) {
        self.publish_for_subject(EventType::Warning, subject, action, reason, message);
    }

    fn publish_for_subject(
        &self,
        type_: EventType,
        subject: &Subject,
        action: &str,
        reason: &str,
        message: &str,
    ) {
        let object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(subject.kind.to_owned()),
            namespace: Some(subject.key.namespace.to_string()),
            name: Some(subject.key.name.to_string()),
            uid: Some(subject.uid.clone()),
            ..ObjectReference::default()
        };
        self.publish(object, type_, action, reason, message);
    }

    /// Queues an Event about an object of any kind, in the namespace of the object. `action` names the operation that
    /// caused the Event.
    pub fn publish(
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
            note: Some(shortened(message).to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.queue.try_send((event, object)) {
            let (mpsc::error::TrySendError::Full((_, object))
            | mpsc::error::TrySendError::Closed((_, object))) = error;
            let (namespace, name) = (object.namespace.as_deref(), object.name.as_deref());
            tracing::debug!(
                namespace,
                name,
                reason,
                "Event dropped: the queue is full or closed"
            );
        }
    }
}

/// Returns the beginning of a message that fits into an Event's note.
fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(MAX_NOTE_LENGTH)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_note_is_cut_to_whole_characters_within_the_limit_in_bytes() {
        assert_eq!(shortened("short"), "short");
        let long = format!("x{}", "\u{e9}".repeat(MAX_NOTE_LENGTH));
        assert_eq!(shortened(&long), &long[..MAX_NOTE_LENGTH - 1]);
    }
}
