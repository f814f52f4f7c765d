//! The classic sidecar, an ordinary container: the default for API servers before 1.29, and an annotation selects it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, containers, pod};
use crate::world::{APP, SERVER_URL, World};

/// Deadline from the creation of a Pod to the end of its application.
const DEADLINE: Duration = Duration::from_mins(1);
const NAME: &str = "classic";

pub(super) async fn classic_sidecar_is_ready_before_the_application_starts(world: &World) -> Result<Note> {
    world.deployed().await?;
    let mut caller = pod(world, APP, NAME, &["get", SERVER_URL, "--count", "5"])?;
    let annotations = [
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/wait-for-dataplane-ready", "true"),
    ];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
    caller.annotations_mut().extend(annotations);
    if let Some(spec) = &mut caller.spec {
        spec.restart_policy = Some("Never".to_owned());
    }
    let pods = world.pods(APP);
    let created = pods.create(&PostParams::default(), &caller).await?;
    // The application makes each request once and is not restarted, so it fails unless the mesh works from the start.
    let ended = wait_for("the application to end", DEADLINE, async || {
        let status = pods.get(NAME).await?.status.unwrap_or_default();
        let mut statuses = status.container_statuses.iter().flatten();
        let application = statuses.find(|status| status.name == "client");
        let ended = application.and_then(|status| status.state.as_ref()?.terminated.clone());
        Ok(done_if(ended.is_some(), ended, || format!("{application:?}")))
    })
    .await;
    pods.delete(NAME, &DeleteParams::default().grace_period(0))
        .await?;
    let ended = ended?.context("the application has not ended")?;
    ensure!(ended.exit_code == 0, "the application ended with {ended:?}");
    let (init, containers) = containers(&created);
    ensure!(
        init == ["kuma-init"] && containers == [SIDECAR, "client"],
        "{} has {init:?} and {containers:?}",
        created.name_any()
    );
    Ok(String::new())
}
