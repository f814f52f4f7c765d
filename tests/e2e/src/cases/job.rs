//! A Job in the mesh: its init container can use the mesh, and the sidecar does not prevent its completion.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::world::{APP, SERVER_URL, World};

/// Deadline of completion: the sidecar may drain for its whole drain time.
const DEADLINE: Duration = Duration::from_mins(1);
const NAME: &str = "caller";
const IDENTITY: &str = "spiffe://default/caller_e2e-mesh_svc";

pub(super) async fn job_uses_the_mesh_in_its_init_container_and_completes(world: &World) -> Result<Note> {
    world.deployed().await?;
    let call = |name: &str| {
        let image = world.cluster.image("kermode-demo")?;
        anyhow::Ok(json!({"name": name, "image": image, "args": ["get", SERVER_URL]}))
    };
    let job: Job = serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "initContainers": [call("first")?],
            "containers": [call("second")?],
        }}},
    }))?;
    let jobs = Api::<Job>::namespaced(world.cluster.client.clone(), APP);
    jobs.create(&PostParams::default(), &job).await?;
    let outcome = completes(world, &jobs).await;
    jobs.delete(NAME, &DeleteParams::background()).await?;
    outcome?;
    Ok(String::new())
}

async fn completes(world: &World, jobs: &Api<Job>) -> Result<()> {
    wait_for("the Job to complete", DEADLINE, async || {
        let status = jobs.get(NAME).await?.status.unwrap_or_default();
        ensure!(status.failed.unwrap_or(0) == 0, "a Pod of the Job failed");
        Ok(done_if(status.succeeded == Some(1), (), || format!("{status:?}")))
    })
    .await?;
    let pod = pod(world).await?;
    for container in ["first", "second"] {
        let (namespace_flag, container_flag) =
            (format!("--namespace={APP}"), format!("--container={container}"));
        let log = world
            .cluster
            .kubectl
            .run(&["logs", &pod.name_any(), &namespace_flag, &container_flag])
            .await?;
        ensure!(
            log.contains(IDENTITY),
            "the server did not see {IDENTITY} for container {container}: {log}"
        );
    }
    wait_for("the deletion of its Dataplane", DEADLINE, async || {
        let exists = world.dataplanes(APP).get_opt(&pod.name_any()).await?.is_some();
        Ok(done_if(!exists, (), || "it still exists".to_owned()))
    })
    .await
}

async fn pod(world: &World) -> Result<Pod> {
    let labelled = ListParams::default().labels(&format!("job-name={NAME}"));
    let pods = world.pods(APP).list(&labelled).await?;
    pods.items.into_iter().next().context("the Job has no Pod")
}
