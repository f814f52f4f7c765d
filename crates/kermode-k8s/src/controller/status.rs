//! Writes parts of the status of Dataplanes in the background, at a limited rate.
//!
//! The leader writes one part: the inbounds. The replica that serves a sidecar writes the other part: the sidecar's
//! connection and configuration. Each part has one [`StatusWriter`] with its own field manager, so the parts do not
//! overwrite each other. The content is computed when the write is due, so a burst of changes results in one write of
//! the last state.

mod schedule;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kermode_crds::{Dataplane, DataplaneStatus};
use kermode_model::ObjectKey;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;

use self::schedule::{NextAction, WriteSchedule};
use super::failure::{describe, is_conflict, is_not_found};
use super::writer::{Metrics, ObservedDataplane, WriteResult};

/// Pause before a failed write is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Status to write.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredStatus {
    /// The fields that the [`StatusWriter`] manages.
    pub status: DataplaneStatus,
    /// If set, the write fails unless the object has this resource version.
    pub resource_version: Option<String>,
}

/// Source of the statuses that a [`StatusWriter`] writes.
pub trait StatusSource: Send + Sync + 'static {
    /// Returns the status to write to a Dataplane; `None` if there is nothing to write. After an error, the writer
    /// calls the function again later.
    fn desired_status<'a>(&'a self, key: &'a ObjectKey)
    -> BoxFuture<'a, kube::Result<Option<DesiredStatus>>>;

    /// Called after a write that succeeded or found no Dataplane. Not called after a failed write, which is retried.
    fn on_write_outcome(&self, key: &ObjectKey, outcome: WriteOutcome);
}

/// Outcome of a write that is not retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The status was written. Contains the Dataplane after the write.
    Written(ObservedDataplane),
    /// The Dataplane does not exist.
    Missing,
}

/// Handle of the status writer; cheap to clone. At most one [`StatusWriter::run`] may be active.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    inner: Arc<StatusWriterInner>,
}

#[derive(Debug)]
struct StatusWriterInner {
    /// Field manager.
    manager: &'static str,
    schedule: Mutex<WriteSchedule>,
    /// Notified when a write is scheduled.
    scheduled: Notify,
}

impl StatusWriter {
    /// Creates a writer with a field manager and a maximum number of writes per second.
    pub fn new(manager: &'static str, max_per_second: u32) -> Self {
        Self {
            inner: Arc::new(StatusWriterInner {
                manager,
                schedule: Mutex::new(WriteSchedule::new(max_per_second)),
                scheduled: Notify::new(),
            }),
        }
    }

    /// Schedules a write of the status of a Dataplane at `due` or later, unless a write of the status is due earlier.
    pub fn push(&self, key: ObjectKey, due: Instant) {
        self.inner.schedule.lock().push(key, due);
        self.inner.scheduled.notify_one();
    }

    /// Removes all scheduled writes.
    pub fn clear(&self) {
        self.inner.schedule.lock().clear();
    }

    /// Writes scheduled statuses until the future is dropped.
    pub async fn run(&self, client: Client, source: &dyn StatusSource, metrics: &Metrics) {
        let resource = ApiResource::erase::<Dataplane>(&());
        loop {
            let next = self.inner.schedule.lock().next(Instant::now());
            match next {
                NextAction::Idle => self.inner.scheduled.notified().await,
                NextAction::Wait(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        () = self.inner.scheduled.notified() => {}
                    }
                }
                NextAction::Write(key) => {
                    let api = Api::namespaced_with(client.clone(), &key.namespace, &resource);
                    self.update(&api, key, source, metrics).await;
                }
            }
        }
    }

    /// Writes the status that the source returns for a Dataplane, if any, and reports the outcome to the source.
    /// Schedules a retry if the source or the write fails.
    async fn update(
        &self,
        api: &Api<DynamicObject>,
        key: ObjectKey,
        source: &dyn StatusSource,
        metrics: &Metrics,
    ) {
        let written = match source.desired_status(&key).await {
            Ok(Some(desired)) => self.write(api, &key, desired).await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match written {
            Ok(object) => {
                metrics.count_write(WriteResult::StatusWritten);
                source.on_write_outcome(&key, WriteOutcome::Written(ObservedDataplane::new(&object)));
            }
            Err(error) if is_not_found(&error) => source.on_write_outcome(&key, WriteOutcome::Missing),
            Err(error) => {
                if !is_conflict(&error) {
                    metrics.count_write(WriteResult::Failed);
                    let failure = format!("Status of Dataplane {key} cannot be written");
                    tracing::warn!("{}", describe(&failure, &error));
                }
                self.push(key, Instant::now() + RETRY_PAUSE);
            }
        }
    }

    async fn write(
        &self,
        api: &Api<DynamicObject>,
        key: &ObjectKey,
        desired: DesiredStatus,
    ) -> kube::Result<DynamicObject> {
        let types = Dataplane::type_meta();
        let mut object = json!({
            "apiVersion": types.api_version,
            "kind": types.kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": desired.status,
        });
        if let Some(version) = desired.resource_version {
            object["metadata"]["resourceVersion"] = version.into();
        }
        let params = PatchParams::apply(self.inner.manager).force();
        api.patch_status(&key.name, &params, &Patch::Apply(object)).await
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    /// A source that cannot determine the status.
    struct FailingSource;

    impl StatusSource for FailingSource {
        fn desired_status<'a>(
            &'a self,
            _: &'a ObjectKey,
        ) -> BoxFuture<'a, kube::Result<Option<DesiredStatus>>> {
            let error = kube::Error::Service("connection refused".into());
            Box::pin(std::future::ready(Err(error)))
        }

        fn on_write_outcome(&self, _: &ObjectKey, _: WriteOutcome) {}
    }

    #[tokio::test]
    async fn status_that_cannot_be_determined_is_requested_again() {
        type ApiResponse = Result<Response<Body>, Infallible>;
        let silent_server = tower::service_fn(|_: Request<Body>| std::future::pending::<ApiResponse>());
        let client = Client::new(silent_server, "default");
        let api = Api::namespaced_with(client, "shop", &ApiResource::erase::<Dataplane>(&()));
        let (writer, metrics) = (StatusWriter::new("test", 10), Metrics::default());
        let key = ObjectKey::new("shop", "web");
        writer.update(&api, key.clone(), &FailingSource, &metrics).await;
        let later = Instant::now() + RETRY_PAUSE;
        assert_eq!(writer.inner.schedule.lock().next(later), NextAction::Write(key));
        assert_eq!(metrics.write_count(WriteResult::Failed), 1);
    }
}
