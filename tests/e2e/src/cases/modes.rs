//! The classic sidecar mode, in which the sidecar is an ordinary container instead of an init container. This mode is
//! the default for API servers before 1.29; here, an annotation selects it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, container_names, demo_pod};

/// Time limit from the creation of a Pod to the end of its application.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Name of the Pod.
const NAME: &str = "classic";

pub(super) async fn classic_sidecar_is_ready_before_the_application_starts(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, NAME, &["get", SERVER_URL, "--count", "5"])?;
    let annotations = [
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/wait-for-dataplane-ready", "true"),
    ];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
    pod.annotations_mut().extend(annotations);
    if let Some(spec) = &mut pod.spec {
        spec.restart_policy = Some("Never".to_owned());
    }
    let pods = fixture.pods(APP_NAMESPACE);
    let created = pods.create(&PostParams::default(), &pod).await?;
    // The application sends each request once and is not restarted, so it fails if it starts before the sidecar is
    // ready.
    let termination = wait_for("the application to end", TIMEOUT, async || {
        let status = pods.get(NAME).await?.status.unwrap_or_default();
        let mut statuses = status.container_statuses.iter().flatten();
        let application = statuses.find(|status| status.name == "client");
        let termination = application.and_then(|status| status.state.as_ref()?.terminated.clone());
        Ok(done_if(termination.is_some(), termination, || {
            format!("{application:?}")
        }))
    })
    .await;
    pods.delete(NAME, &DeleteParams::default().grace_period(0))
        .await?;
    let termination = termination?.context("the application has not ended")?;
    ensure!(
        termination.exit_code == 0,
        "the application failed: {termination:?}"
    );
    let (init_containers, containers) = container_names(&created);
    ensure!(
        init_containers == ["kuma-init"] && containers == [SIDECAR, "client"],
        "Pod {} has the init containers {init_containers:?} and the containers {containers:?}",
        created.name_any()
    );
    Ok(String::new())
}
