//! Events of the installer, about itself and about pods that it repairs.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Maximum length of an Event's note in bytes. The API server rejects longer notes.
const MAX_NOTE_LENGTH: usize = 1024;

/// Writes Events.
pub(super) struct Events {
    recorder: Recorder,
    /// The installer's pod.
    installer: ObjectReference,
}

impl Events {
    /// Writes Events in the name of the installer's pod.
    pub(super) fn new(client: Client, installer: ObjectReference) -> Self {
        let reporter = Reporter {
            controller: "kuma-cni".to_owned(),
            instance: installer.name.clone(),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            installer,
        }
    }

    /// Writes an Event about the installer, in the background.
    pub(super) fn about_installer(&self, type_: EventType, reason: &str, note: &str) {
        self.publish(self.installer.clone(), type_, "Install", reason, note);
    }

    /// Writes an Event about a pod, in the background.
    pub(super) fn about_pod(&self, pod: ObjectReference, type_: EventType, reason: &str, note: &str) {
        self.publish(pod, type_, "Redirect", reason, note);
    }

    fn publish(&self, object: ObjectReference, type_: EventType, action: &str, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note[..note.floor_char_boundary(MAX_NOTE_LENGTH)].to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &object).await {
                tracing::debug!(object = ?object.name, reason = event.reason, %error, "Event not written");
            }
        });
    }
}
