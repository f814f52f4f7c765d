//! Pods that start at the same time. Each sends a marker to a server of the mesh from its first instruction on.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use super::super::cni;
use super::TIMEOUT;
use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::is_ready;

/// Number of Pods of a batch.
pub(super) const SIZE: usize = 30;
/// Container of the application.
const CONTAINER: &str = "client";

/// Pods that start at the same time.
pub(super) struct Batch<'f> {
    pub(super) fixture: &'f Fixture,
    /// Name of the Deployment.
    name: String,
}

impl<'f> Batch<'f> {
    pub(super) fn new(fixture: &'f Fixture, name: &str) -> Self {
        Self {
            fixture,
            name: format!("start-{name}"),
        }
    }

    /// Text in the path of each request of the Pods. The server repeats it in its response.
    pub(super) fn marker(&self) -> String {
        format!("readable-{}", self.name)
    }

    /// Creates the Pods. The container is ready once it has got a response. The server accepts only mTLS, so each response
    /// came through the sidecar.
    pub(super) async fn create(&self) -> Result<()> {
        let url = format!("{SERVER_URL}{}", self.marker());
        let labels = json!({"app": self.name});
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": self.name, "namespace": APP_NAMESPACE},
            "spec": {
                "replicas": SIZE,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{
                        "name": CONTAINER,
                        "image": self.fixture.cluster.image("kermode-demo")?,
                        "args": ["client", url, "--interval=30s"],
                        "startupProbe": {
                            "exec": {"command": ["kermode-demo", "get", url]},
                            "periodSeconds": 2,
                            "timeoutSeconds": 10,
                            "failureThreshold": 300,
                        },
                    }]},
                },
            },
        }))?;
        let deployments = self.fixture.deployments(APP_NAMESPACE);
        deployments.create(&PostParams::default(), &deployment).await?;
        Ok(())
    }

    /// Deletes the Pods without grace.
    pub(super) async fn delete(&self) -> Result<()> {
        let kubectl = &self.fixture.cluster.kubectl;
        let namespace = format!("--namespace={APP_NAMESPACE}");
        kubectl
            .run(&["delete", "deployment", &self.name, &namespace])
            .await?;
        let selector = format!("--selector=app={}", self.name);
        let pods = [
            "delete",
            "pods",
            &selector,
            &namespace,
            "--force",
            "--grace-period=0",
        ];
        kubectl.run(&pods).await.map(drop)
    }

    /// Waits until all Pods wait for their redirection.
    pub(super) async fn wait_for_validation(&self) -> Result<()> {
        cni::wait_for_validation(self.fixture, &self.name, TIMEOUT)
            .await
            .map(drop)
    }

    /// Waits until all Pods have started.
    pub(super) async fn wait_for_starts(&self) -> Result<()> {
        self.wait_for_starts_after(&BTreeSet::new()).await
    }

    /// Waits until all Pods have started with other containers than the former ones.
    pub(super) async fn wait_for_starts_after(&self, former: &BTreeSet<String>) -> Result<()> {
        wait_for("all Pods of the batch to start", TIMEOUT, async || {
            // After an outage of the API server, the first request may fail.
            let pods = match self.pods().await {
                Ok(pods) => pods,
                Err(error) => return Ok(Progress::NotYet(format!("{error:#}"))),
            };
            let has_started =
                |pod: &&Pod| is_ready(pod) && container_id(pod).is_some_and(|id| !former.contains(id));
            let count = pods.iter().filter(has_started).count();
            Ok(done_if(count == SIZE, (), || {
                format!("{count} of {SIZE} Pods have started")
            }))
        })
        .await
    }

    /// Returns the IDs of the application's containers.
    pub(super) async fn containers(&self) -> Result<BTreeSet<String>> {
        let pods = self.pods().await?;
        Ok(pods.iter().filter_map(container_id).map(str::to_owned).collect())
    }

    /// Returns the Pods.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>> {
        let selector = ListParams::default().labels(&format!("app={}", self.name));
        Ok(self.fixture.pods(APP_NAMESPACE).list(&selector).await?.items)
    }
}

fn container_id(pod: &Pod) -> Option<&str> {
    status_of(pod, CONTAINER)?.container_id.as_deref()
}

fn status_of<'p>(pod: &'p Pod, container: &str) -> Option<&'p ContainerStatus> {
    let mut statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    statuses.find(|status| status.name == container)
}

/// Returns the time at which a container started. The container, and the label `app` of its only Pod, have this name.
pub(super) async fn start_of_container(fixture: &Fixture, namespace: &str, name: &str) -> Result<Timestamp> {
    wait_for(&format!("container {name} to run"), TIMEOUT, async || {
        let pods = fixture.ready_pods(namespace, name).await?;
        let running = pods
            .iter()
            .filter_map(|pod| status_of(pod, name)?.state.as_ref()?.running.as_ref());
        let starts: Vec<Timestamp> = running
            .filter_map(|state| Some(state.started_at.as_ref()?.0))
            .collect();
        Ok(match starts[..] {
            [start] => Progress::Done(start),
            _ => Progress::NotYet(format!("{} of {} Pods run", starts.len(), pods.len())),
        })
    })
    .await
    .context("the start of a container is unknown")
}
