//! Changes of the server's Pods while the client sends requests: the client's sidecar must send requests to exactly the
//! ready Pods.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_SERVICE};
use crate::harness::demo::Counters;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;

/// Time limit of each condition that [`check_change`] waits for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Number of responses to check after a change. This number is large enough for every Pod to have sent some.
const CHECKED_RESPONSES: u64 = 60;

pub(super) async fn added_pods_get_requests(fixture: &Fixture) -> Result<Note> {
    check_change(fixture, async || scale_servers(fixture, 5).await).await
}

pub(super) async fn removed_pods_get_no_requests(fixture: &Fixture) -> Result<Note> {
    check_change(fixture, async || scale_servers(fixture, 2).await).await
}

pub(super) async fn only_new_pods_get_requests_after_a_rollout_restart(fixture: &Fixture) -> Result<Note> {
    check_change(fixture, async || {
        fixture.restart_deployment(APP_NAMESPACE, "server").await
    })
    .await
}

pub(super) async fn replacement_of_a_deleted_pod_gets_requests(fixture: &Fixture) -> Result<Note> {
    check_change(fixture, async || {
        let pods = fixture.ready_pods(APP_NAMESPACE, "server").await?;
        let deleted = pods.first().context("no server is ready")?.name_any();
        fixture
            .pods(APP_NAMESPACE)
            .delete(&deleted, &DeleteParams::default())
            .await?;
        wait_for(
            &format!("a replacement of {deleted}"),
            Duration::from_mins(1),
            async || {
                let now = fixture.ready_pods(APP_NAMESPACE, "server").await?;
                let replaced = now.len() == pods.len() && now.iter().all(|pod| pod.name_any() != deleted);
                Ok(done_if(replaced, (), || {
                    format!("{} of {} servers are ready", now.len(), pods.len())
                }))
            },
        )
        .await
    })
    .await
}

/// Changes the server's Pods while the client sends requests. Then waits until the endpoints of the client's Envoy are
/// exactly the ready Pods, and until each ready Pod has responded. Returns a summary of the requests.
async fn check_change(fixture: &Fixture, change: impl AsyncFnOnce() -> Result<()>) -> Result<Note> {
    fixture.ensure_application().await?;
    let before = fixture.client_counters().await?;
    change().await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let envoy = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, &client, "client");
    let pods = wait_for(
        "the client's Envoy to have the ready Pods as endpoints",
        TIMEOUT,
        async || {
            let pods = fixture.ready_pods(APP_NAMESPACE, "server").await?;
            let expected: BTreeSet<String> = pods.iter().map(endpoint_address).collect::<Result<_>>()?;
            let found = envoy.endpoints(SERVER_SERVICE).await?;
            let found: BTreeSet<String> = found
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .collect();
            Ok(done_if(found == expected, pods, || {
                format!("its endpoints are {found:?}, the ready Pods are {expected:?}")
            }))
        },
    )
    .await?;
    let ready_names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let counters_after_change = fixture.client_counters().await?;
    let counters_at_end = wait_for("responses from all ready Pods", TIMEOUT, async || {
        let now = fixture.client_counters().await?;
        let increase = now.since(&counters_after_change);
        let responding: BTreeSet<String> = increase.by_pod.keys().cloned().collect();
        let done = increase.succeeded >= CHECKED_RESPONSES && responding.is_superset(&ready_names);
        Ok(done_if(done, now, || {
            format!(
                "the Pods {responding:?} of {ready_names:?} have responded; {}",
                increase.request_summary()
            )
        }))
    })
    .await?;
    check_responding_pods(&counters_at_end.since(&counters_after_change), &ready_names)?;
    Ok(counters_at_end.since(&before).request_summary())
}

/// Checks that at most a few responses came from Pods that are not in `ready_names`. These Pods are being deleted, and
/// may only finish the requests that they already had.
fn check_responding_pods(increase: &Counters, ready_names: &BTreeSet<String>) -> Result<()> {
    let from_deleted_pods: u64 = increase
        .by_pod
        .iter()
        .filter(|(pod, _)| !ready_names.contains(*pod))
        .map(|(_, count)| count)
        .sum();
    anyhow::ensure!(
        from_deleted_pods <= 5,
        "{from_deleted_pods} responses came from deleted Pods; all responses: {:?}; ready Pods: {ready_names:?}",
        increase.by_pod
    );
    Ok(())
}

/// Scales the servers of the application and waits for the rollout.
pub(super) async fn scale_servers(fixture: &Fixture, replicas: usize) -> Result<()> {
    fixture.scale(APP_NAMESPACE, "server", replicas).await?;
    fixture.wait_for_rollout(APP_NAMESPACE, "server").await
}

/// Returns the address and port of the endpoint that a server's Pod adds to Envoy's cluster.
fn endpoint_address(pod: &Pod) -> Result<String> {
    Ok(format!("{}:8080", ip(pod)?))
}
