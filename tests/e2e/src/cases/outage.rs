//! Outage, restart and uninstallation of the control plane.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, Fixture, OUTSIDE_NAMESPACE, SYSTEM_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::{check_injection_in_dry_run, demo_pod, is_ready};

/// Time limit of each condition that the tests wait for.
const TIMEOUT: Duration = Duration::from_secs(45);
/// Name of the Pod that is denied during the outage.
const DENIED_POD: &str = "denied-during-outage";
/// Name of the Pod that is admitted after the outage.
const ADMITTED_POD: &str = "admitted-after-outage";

pub(super) async fn only_pods_of_labelled_namespaces_are_denied_while_the_control_plane_is_down(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let before = fixture.client_counters().await?;
    scale_control_plane(fixture, 0).await?;
    let outcome = check_pods_while_down(fixture).await;
    scale_control_plane(fixture, 1).await?;
    fixture.wait_for_rollout(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    outcome?;
    // The control plane is ready again, so a Pod of the labelled namespace must start.
    let admitted_pod = demo_pod(fixture, APP_NAMESPACE, ADMITTED_POD, &["server"])?;
    let admission = wait_for(
        "a Pod of the labelled namespace to be admitted",
        TIMEOUT,
        async || {
            Ok(
                match fixture
                    .pods(APP_NAMESPACE)
                    .create(&PostParams::default(), &admitted_pod)
                    .await
                {
                    Ok(created) => Progress::Done(created),
                    Err(error) => Progress::NotYet(error.to_string()),
                },
            )
        },
    );
    admission.await?;
    wait_for(&format!("Pod {ADMITTED_POD} to be ready"), TIMEOUT, async || {
        let ready = is_ready(&fixture.pods(APP_NAMESPACE).get(ADMITTED_POD).await?);
        Ok(done_if(ready, (), || "the Pod is not ready".to_owned()))
    })
    .await?;
    fixture
        .pods(APP_NAMESPACE)
        .delete(ADMITTED_POD, &DeleteParams::default().grace_period(0))
        .await?;
    Ok(fixture.client_counters().await?.since(&before).request_summary())
}

/// Creates Pods, in dry runs, while the old replica stops and the new replica starts.
pub(super) async fn no_pod_is_denied_while_the_control_plane_restarts(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    check_injection_in_dry_run(fixture).await?;
    let old_replica = fixture.ready_pod_name(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let restart = async {
        fixture
            .restart_deployment(SYSTEM_NAMESPACE, CONTROL_PLANE)
            .await?;
        wait_for(
            "the old Pod of the control plane to be deleted",
            TIMEOUT,
            async || {
                let deleted = fixture
                    .pods(SYSTEM_NAMESPACE)
                    .get_opt(&old_replica)
                    .await?
                    .is_none();
                Ok(done_if(deleted, (), || format!("{old_replica} still exists")))
            },
        )
        .await
    };
    tokio::pin!(restart);
    let mut admitted_count = 0;
    loop {
        tokio::select! {
            restarted = &mut restart => break restarted?,
            outcome = check_injection_in_dry_run(fixture) => {
                outcome.with_context(|| format!("a Pod got no sidecar, after {admitted_count} Pods had got one"))?;
                admitted_count += 1;
            }
        }
    }
    check_injection_in_dry_run(fixture).await?;
    Ok(format!("{admitted_count} Pods were admitted during the restart"))
}

/// Checks that a Pod of a labelled namespace is denied, that a Pod of an unlabelled namespace starts, and that the
/// client still gets responses.
async fn check_pods_while_down(fixture: &Fixture) -> Result<()> {
    wait_for_no_replica(fixture).await?;
    let denied_pod = demo_pod(fixture, APP_NAMESPACE, DENIED_POD, &["server"])?;
    match fixture
        .pods(APP_NAMESPACE)
        .create(&PostParams::default(), &denied_pod)
        .await
    {
        Err(kube::Error::Api(status)) => ensure!(
            status.message.contains("namespace-kuma-injector.kuma.io"),
            "the Pod was denied for another reason than the unreachable webhook: {}",
            status.message
        ),
        Err(error) => return Err(error.into()),
        Ok(_) => {
            fixture
                .pods(APP_NAMESPACE)
                .delete(DENIED_POD, &DeleteParams::default().grace_period(0))
                .await?;
            anyhow::bail!("a Pod of a labelled namespace was admitted without a sidecar");
        }
    }
    let unlabelled_pod = demo_pod(fixture, OUTSIDE_NAMESPACE, "unlabelled", &["server"])?;
    fixture
        .pods(OUTSIDE_NAMESPACE)
        .create(&PostParams::default(), &unlabelled_pod)
        .await
        .context("a Pod of a namespace without the label cannot be created")?;
    wait_for(
        "a Pod of a namespace without the label to be ready",
        TIMEOUT,
        async || {
            let ready = is_ready(&fixture.pods(OUTSIDE_NAMESPACE).get("unlabelled").await?);
            Ok(done_if(ready, (), || "the Pod is not ready".to_owned()))
        },
    )
    .await?;
    fixture
        .pods(OUTSIDE_NAMESPACE)
        .delete("unlabelled", &DeleteParams::default().grace_period(0))
        .await?;
    let before = fixture.client_counters().await?;
    wait_for("responses to the client", TIMEOUT, async || {
        let increase = fixture.client_counters().await?.since(&before);
        Ok(done_if(increase.succeeded >= 20, (), || {
            increase.request_summary()
        }))
    })
    .await
}

/// Waits until all Pods of the control plane are deleted.
pub(super) async fn wait_for_no_replica(fixture: &Fixture) -> Result<()> {
    wait_for(
        "all Pods of the control plane to be deleted",
        TIMEOUT,
        async || {
            let remaining = fixture
                .pods(SYSTEM_NAMESPACE)
                .list(&ListParams::default())
                .await?
                .items
                .len();
            Ok(done_if(remaining == 0, (), || format!("{remaining} Pods remain")))
        },
    )
    .await
}

/// Scales the control plane, without waiting for its replicas.
pub(super) async fn scale_control_plane(fixture: &Fixture, replicas: usize) -> Result<()> {
    fixture.scale(SYSTEM_NAMESPACE, CONTROL_PLANE, replicas).await
}

pub(super) async fn uninstallation_removes_everything(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.uninstall_and_delete_test_objects().await?;
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,\
                 mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let names = fixture
        .cluster
        .kubectl
        .run(&["get", kinds, "--output=name"])
        .await?;
    let remaining: Vec<&str> = names
        .lines()
        .filter(|line| {
            ["kuma", "kong-mesh", "kermode"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    ensure!(
        remaining.is_empty(),
        "objects remain after the uninstallation: {remaining:?}"
    );
    // The Pods of other namespaces must not be affected.
    let pods = fixture.pods("kube-system").list(&ListParams::default()).await?;
    ensure!(
        pods.iter().all(is_ready),
        "not all of these Pods of kube-system are ready: {:?}",
        pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    );
    Ok(String::new())
}
