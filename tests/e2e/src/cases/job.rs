//! A Job in the mesh: its init container can use the mesh, and the sidecar does not prevent the completion of the Job.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Time limit of each wait. The completion of the Job includes the drain time of the sidecar.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Name of the Job.
const NAME: &str = "caller";
/// Identity of the Job's Pod, which is service-less. The demo server repeats the client's identity in its response.
const IDENTITY: &str = "spiffe://default/caller_e2e-mesh_svc";

pub(super) async fn job_uses_the_mesh_in_its_init_container_and_completes(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let request_container = |name: &str| {
        let image = fixture.cluster.image("kermode-demo")?;
        anyhow::Ok(json!({"name": name, "image": image, "args": ["get", SERVER_URL]}))
    };
    let job: Job = serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "initContainers": [request_container("first")?],
            "containers": [request_container("second")?],
        }}},
    }))?;
    let jobs = Api::<Job>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    jobs.create(&PostParams::default(), &job).await?;
    let outcome = check_job(fixture, &jobs).await;
    jobs.delete(NAME, &DeleteParams::background()).await?;
    outcome?;
    Ok(String::new())
}

async fn check_job(fixture: &Fixture, jobs: &Api<Job>) -> Result<()> {
    wait_for("the Job to complete", TIMEOUT, async || {
        let status = jobs.get(NAME).await?.status.unwrap_or_default();
        ensure!(status.failed.unwrap_or(0) == 0, "a Pod of the Job failed");
        Ok(done_if(status.succeeded == Some(1), (), || format!("{status:?}")))
    })
    .await?;
    let pod = job_pod(fixture).await?;
    for container in ["first", "second"] {
        let (namespace_flag, container_flag) = (
            format!("--namespace={APP_NAMESPACE}"),
            format!("--container={container}"),
        );
        let log = fixture
            .cluster
            .kubectl
            .run(&["logs", &pod.name_any(), &namespace_flag, &container_flag])
            .await?;
        ensure!(
            log.contains(IDENTITY),
            "the server did not see {IDENTITY} for container {container}: {log}"
        );
    }
    wait_for("the deletion of the Job's Dataplane", TIMEOUT, async || {
        let exists = fixture
            .dataplanes(APP_NAMESPACE)
            .get_opt(&pod.name_any())
            .await?
            .is_some();
        Ok(done_if(!exists, (), || "the Dataplane still exists".to_owned()))
    })
    .await
}

async fn job_pod(fixture: &Fixture) -> Result<Pod> {
    let selector = ListParams::default().labels(&format!("job-name={NAME}"));
    let pods = fixture.pods(APP_NAMESPACE).list(&selector).await?;
    pods.items.into_iter().next().context("the Job has no Pod")
}
