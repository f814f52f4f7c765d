//! The end of a Pod: what its sidecar does from the start of the termination to the end of the application.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::demo;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, is_ready};

/// Time limit of each wait.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Name of the Pod.
const NAME: &str = "leaving";
/// Duration of the Pod's preStop hook, in seconds. The checks between the start and the end of the termination take
/// less.
const HOOK_SECONDS: u64 = 10;
/// Drain time of the sidecar. The Pod ends long before, because nothing is in progress.
const DRAIN_TIME: Duration = Duration::from_secs(50);
/// URL of Envoy's readiness.
const READY_URL: &str = "http://127.0.0.1:9901/ready";

pub(super) async fn native_sidecar_drains_while_the_application_runs_and_ends_with_it(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, NAME, &["server"])?;
    let drain_time = format!("{}s", DRAIN_TIME.as_secs());
    let annotations = [("kuma.io/sidecar-drain-time".to_owned(), drain_time)];
    pod.metadata.annotations = Some(annotations.into());
    let spec = pod.spec.as_mut().context("the Pod has no spec")?;
    spec.termination_grace_period_seconds = Some(60);
    let container = spec.containers.first_mut().context("the Pod has no container")?;
    container.lifecycle = serde_json::from_value(json!({"preStop": {"sleep": {"seconds": HOOK_SECONDS}}}))?;
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &pod).await?;
    let outcome = check(fixture).await;
    if outcome.is_err() {
        pods.delete(NAME, &DeleteParams::default().grace_period(0))
            .await?;
    }
    outcome
}

async fn check(fixture: &Fixture) -> Result<Note> {
    let pods = fixture.pods(APP_NAMESPACE);
    let kubectl = &fixture.cluster.kubectl;
    wait_for("the Pod to be ready", TIMEOUT, async || {
        let pod = pods.get(NAME).await?;
        Ok(done_if(is_ready(&pod), (), || format!("{:?}", pod.status)))
    })
    .await?;
    demo::get(kubectl, APP_NAMESPACE, NAME, "client", READY_URL)
        .await
        .context("Envoy is not ready before the termination")?;

    let start = Instant::now();
    pods.delete(NAME, &DeleteParams::default()).await?;
    wait_for("Envoy's /ready to fail", TIMEOUT, async || {
        let arguments = ["kermode-demo", "get", READY_URL];
        let output = kubectl.exec(APP_NAMESPACE, NAME, "client", &arguments).await;
        let state = match output {
            Ok(printed) => printed,
            Err(error) => format!("{error:#}"),
        };
        Ok(done_if(state.contains("503"), (), || state.clone()))
    })
    .await?;
    demo::get(kubectl, APP_NAMESPACE, NAME, "client", SERVER_URL)
        .await
        .context("the application of the terminating Pod calls a service")?;
    wait_for("the end of the Pod", TIMEOUT, async || {
        let pod = pods.get_opt(NAME).await?;
        Ok(done_if(pod.is_none(), (), || {
            format!("{:?}", pod.map(|pod| pod.status))
        }))
    })
    .await?;
    let took = start.elapsed();
    let hook = Duration::from_secs(HOOK_SECONDS);
    ensure!(
        took >= hook,
        "the Pod ended after {took:?}, before its preStop hook of {hook:?}"
    );
    ensure!(
        took < hook + DRAIN_TIME / 2,
        "the Pod ended after {took:?}, although its application ended after {hook:?}"
    );
    Ok(format!(
        "the Pod ended {:.1} s after the hook of its application",
        took.saturating_sub(hook).as_secs_f32()
    ))
}
