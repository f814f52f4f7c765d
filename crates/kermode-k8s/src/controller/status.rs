//! Writes a part of Dataplanes' status, off everybody's path: coalesced, only on change, only so many a second.
//!
//! Each part has one writer with a field manager of its own, so that parts never contradict one another. What a
//! write says is asked for when it is due, so that a burst of changes is one write of the last of them.

mod schedule;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kermode_crds::{Dataplane, DataplaneStatus};
use kermode_model::ObjectKey;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;

use self::schedule::{NextWrite, WriteSchedule};
use super::failure::{describe, is_conflict, is_not_found};
use super::writer::{Metrics, ObservedDataplane, WriteResult};

/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedStatus {
    /// The fields that this writer has.
    pub status: DataplaneStatus,
    /// Write only if the object has still this version.
    pub version: Option<String>,
}

/// Who knows what a status should say.
pub trait StatusSource: Send + Sync + 'static {
    /// What is to be written of a Dataplane; `None` when nothing is.
    fn wanted<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Option<WantedStatus>>;

    /// It has been written; or there is no such Dataplane.
    fn written(&self, key: &ObjectKey, outcome: WriteOutcome);
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The object is this now.
    Written(ObservedDataplane),
    /// There is none.
    Missing,
}

/// The writer; cheap to clone. [`StatusWriter::push`] from anywhere, [`StatusWriter::run`] once.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    inner: Arc<StatusWriterInner>,
}

#[derive(Debug)]
struct StatusWriterInner {
    manager: &'static str,
    schedule: Mutex<WriteSchedule>,
    pushed: Notify,
}

impl StatusWriter {
    /// A writer under that field manager, of at most that many writes a second.
    pub fn new(manager: &'static str, per_second: u32) -> Self {
        Self {
            inner: Arc::new(StatusWriterInner {
                manager,
                schedule: Mutex::new(WriteSchedule::new(per_second)),
                pushed: Notify::new(),
            }),
        }
    }

    /// Has a status written, not before `at`.
    pub fn push(&self, key: ObjectKey, at: Instant) {
        self.schedule().push(key, at);
        self.inner.pushed.notify_one();
    }

    /// Forgets what was pushed.
    pub fn clear(&self) {
        self.schedule().clear();
    }

    /// Writes until dropped.
    pub async fn run(&self, client: Client, source: &dyn StatusSource, metrics: &Metrics) {
        let resource = ApiResource::erase::<Dataplane>(&());
        loop {
            let step = self.schedule().step(Instant::now());
            match step {
                NextWrite::Idle => self.inner.pushed.notified().await,
                NextWrite::Wait(until) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        () = self.inner.pushed.notified() => {}
                    }
                }
                NextWrite::Write(key) => {
                    let Some(wanted) = source.wanted(&key).await else {
                        continue;
                    };
                    let api = Api::namespaced_with(client.clone(), &key.namespace, &resource);
                    match self.write(&api, &key, wanted).await {
                        Ok(object) => {
                            metrics.count(WriteResult::Status);
                            source.written(&key, WriteOutcome::Written(ObservedDataplane::new(&object)));
                        }
                        Err(error) if is_not_found(&error) => source.written(&key, WriteOutcome::Missing),
                        Err(error) => {
                            if !is_conflict(&error) {
                                metrics.count(WriteResult::Failed);
                                let what = format!("Status of Dataplane {key} cannot be written");
                                tracing::warn!("{}", describe(&what, &error));
                            }
                            self.push(key, Instant::now() + RETRY);
                        }
                    }
                }
            }
        }
    }

    async fn write(
        &self,
        api: &Api<DynamicObject>,
        key: &ObjectKey,
        wanted: WantedStatus,
    ) -> kube::Result<DynamicObject> {
        let types = Dataplane::type_meta();
        let mut object = json!({
            "apiVersion": types.api_version,
            "kind": types.kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": wanted.status,
        });
        if let Some(version) = wanted.version {
            object["metadata"]["resourceVersion"] = version.into();
        }
        let params = PatchParams::apply(self.inner.manager).force();
        api.patch_status(&key.name, &params, &Patch::Apply(object)).await
    }

    fn schedule(&self) -> MutexGuard<'_, WriteSchedule> {
        self.inner.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
