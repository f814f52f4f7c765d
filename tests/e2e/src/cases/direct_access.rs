//! Direct access: an application calls Pods by their IPs, as Prometheus does. The mesh is STRICT, so a response shows
//! that the connection had mTLS.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::fixture::{APP_NAMESPACE, Fixture};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, ip, is_ready};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Name of the Pod that calls other Pods by their IPs.
const SCRAPER: &str = "scraper";
const SCRAPER_IDENTITY: &str = "URI=spiffe://default/scraper_e2e-mesh_svc";
const SERVER_IDENTITY: &str = "By=spiffe://default/server_e2e-mesh_svc_80";
/// Prefix of the names of Envoy's clusters for direct access.
const CLUSTER_PREFIX: &str = "direct_access_";

pub(super) async fn every_pod_is_called_by_its_ip_and_only_called_pods_have_clusters(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, SCRAPER, &["server"])?;
    pod.annotations_mut()
        .insert("kuma.io/direct-access-services".to_owned(), "*".to_owned());
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &pod).await?;
    let outcome = check_direct_access(fixture).await;
    pods.delete(SCRAPER, &DeleteParams::default()).await?;
    outcome
}

async fn check_direct_access(fixture: &Fixture) -> Result<Note> {
    let pods = fixture.pods(APP_NAMESPACE);
    wait_for("the calling Pod to be ready", TIMEOUT, async || {
        let pod = pods.get(SCRAPER).await?;
        Ok(done_if(is_ready(&pod), (), || format!("{:?}", pod.status)))
    })
    .await?;
    let before = called_addresses(fixture).await?;
    ensure!(
        before.is_empty(),
        "Envoy has clusters for direct access before the first call: {before:?}"
    );
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    let Some((deleted, others)) = servers.split_first() else {
        anyhow::bail!("no server is ready");
    };
    call(fixture, deleted).await?;
    let first = called_addresses(fixture).await?;
    ensure!(
        first == BTreeSet::from([address(deleted)?]),
        "after a call of {}, Envoy has clusters for {first:?}",
        address(deleted)?
    );
    for server in others {
        call(fixture, server).await?;
    }
    check_that_other_pods_have_no_direct_access(fixture, deleted).await?;
    check_replacement(fixture, deleted).await?;
    Ok(format!("{} Pods called by IP", servers.len() + 1))
}

/// Calls a server by its IP, and checks the identities of both ends of the connection.
async fn call(fixture: &Fixture, server: &Pod) -> Result<()> {
    let kubectl = &fixture.cluster.kubectl;
    let url = format!("http://{}/", address(server)?);
    let response = demo::get(kubectl, APP_NAMESPACE, SCRAPER, "client", &url).await?;
    for text in [&server.name_any(), SCRAPER_IDENTITY, SERVER_IDENTITY] {
        ensure!(
            response.contains(text),
            "{text:?} is missing from the response of {url}: {response}"
        );
    }
    Ok(())
}

/// For comparison: a call by IP from a Pod without the annotation leaves its sidecar in plain text, and the server's
/// sidecar closes the connection.
async fn check_that_other_pods_have_no_direct_access(fixture: &Fixture, server: &Pod) -> Result<()> {
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let url = format!("http://{}/", address(server)?);
    demo::get_expecting_failure(&fixture.cluster.kubectl, APP_NAMESPACE, &client, &url).await?;
    Ok(())
}

/// Deletes a server. Its cluster must disappear, and its replacement must be reachable.
async fn check_replacement(fixture: &Fixture, deleted: &Pod) -> Result<()> {
    let pods = fixture.pods(APP_NAMESPACE);
    let before = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    let names_before: BTreeSet<_> = before.iter().map(ResourceExt::name_any).collect();
    pods.delete(&deleted.name_any(), &DeleteParams::default()).await?;
    let replacement = wait_for("a ready replacement of the server", TIMEOUT, async || {
        let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
        let replacement = servers
            .iter()
            .find(|server| !names_before.contains(&server.name_any()));
        let is_complete = servers.len() == before.len();
        Ok(done_if(
            is_complete && replacement.is_some(),
            replacement.cloned(),
            || format!("{} servers are ready", servers.len()),
        ))
    })
    .await?;
    let gone = address(deleted)?;
    wait_for(
        "the cluster of the deleted Pod to disappear",
        TIMEOUT,
        async || {
            let called = called_addresses(fixture).await?;
            Ok(done_if(!called.contains(&gone), (), || {
                format!("clusters for direct access: {called:?}")
            }))
        },
    )
    .await?;
    match replacement {
        Some(replacement) => call(fixture, &replacement).await,
        None => Ok(()),
    }
}

/// Returns the addresses of the clusters for direct access that the calling Pod's Envoy has.
async fn called_addresses(fixture: &Fixture) -> Result<BTreeSet<String>> {
    let envoy = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, SCRAPER, "client");
    let names = envoy.cluster_names().await?;
    let addresses = names.iter().filter_map(|name| name.strip_prefix(CLUSTER_PREFIX));
    Ok(addresses.map(str::to_owned).collect())
}

fn address(server: &Pod) -> Result<String> {
    Ok(format!("{}:8080", ip(server)?))
}
