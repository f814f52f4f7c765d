//! Events of the installer, about itself and about pods that it repairs.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

/// Maximum length of an Event's note in bytes. The API server rejects longer notes.
const MAX_NOTE_LENGTH: usize = 1024;

/// Number of Events that wait for the API server. Further Events are dropped.
const MAX_WAITING: usize = 256;

/// Time after which an Event that the API server has not accepted is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes Events one after the other, in the background.
pub(super) struct Events {
    queue: mpsc::Sender<(Event, ObjectReference)>,
    /// The installer's pod.
    installer: ObjectReference,
}

impl Events {
    /// Starts to write Events in the name of the installer's pod. Ends with the runtime.
    pub(super) fn start(client: Client, installer: ObjectReference) -> Self {
        let reporter = Reporter {
            controller: "kuma-cni".to_owned(),
            instance: installer.name.clone(),
        };
        let recorder = Recorder::new(client, reporter);
        let (queue, mut queued) = mpsc::channel(MAX_WAITING);
        tokio::spawn(async move {
            while let Some((event, object)) = queued.recv().await {
                write(&recorder, &event, &object).await;
            }
        });
        Self { queue, installer }
    }

    /// Writes an Event about the installer.
    pub(super) fn about_installer(&self, type_: EventType, reason: &str, note: &str) {
        self.publish(self.installer.clone(), type_, "Install", reason, note);
    }

    /// Writes an Event about a pod.
    pub(super) fn about_pod(&self, pod: ObjectReference, type_: EventType, reason: &str, note: &str) {
        self.publish(pod, type_, "Redirect", reason, note);
    }

    fn publish(&self, object: ObjectReference, type_: EventType, action: &str, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(beginning(note).to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.queue.try_send((event, object)) {
            tracing::debug!(reason, %error, "Event not written");
        }
    }
}

/// Returns the beginning of a note that an Event can contain.
pub(super) fn beginning(note: &str) -> &str {
    &note[..note.floor_char_boundary(MAX_NOTE_LENGTH)]
}

async fn write(recorder: &Recorder, event: &Event, object: &ObjectReference) {
    let (name, reason) = (&object.name, &event.reason);
    match tokio::time::timeout(WRITE_TIMEOUT, recorder.publish(event, object)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(object = ?name, reason, %error, "Event not written"),
        Err(_) => tracing::debug!(object = ?name, reason, "Event not written in time"),
    }
}
