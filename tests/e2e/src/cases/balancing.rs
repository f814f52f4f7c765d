//! Load balancing by the client's sidecar, shown by the statistics of its Envoy.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt;

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_SERVICE};
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;

pub(super) async fn client_sidecar_balances_requests_over_all_servers(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let pods = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let before = fixture.client_counters().await?;
    let increase = wait_for(
        "60 responses, at least one from every server",
        Duration::from_secs(30),
        async || {
            let increase = fixture.client_counters().await?.since(&before);
            let responding: BTreeSet<String> = increase.by_pod.keys().cloned().collect();
            let done = increase.succeeded >= 60 && responding == names;
            Ok(done_if(done, increase.clone(), || {
                format!(
                    "responses by Pod: {:?}; {}",
                    increase.by_pod,
                    increase.request_summary()
                )
            }))
        },
    )
    .await?;
    ensure!(increase.failed == 0, "{}", increase.request_summary());

    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let endpoints = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, &client, "client")
        .endpoints(SERVER_SERVICE)
        .await?;
    let addresses: BTreeSet<String> = endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    let expected: BTreeSet<String> = pods
        .iter()
        .map(|pod| Ok(format!("{}:8080", ip(pod)?)))
        .collect::<Result<_>>()?;
    ensure!(
        addresses == expected,
        "Envoy's endpoints of {SERVER_SERVICE} are {addresses:?}, the Pods are {expected:?}"
    );
    let idle: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.requests == 0)
        .collect();
    ensure!(idle.is_empty(), "Envoy sent no request to the endpoints {idle:?}");
    let counts: Vec<String> = endpoints
        .iter()
        .map(|endpoint| endpoint.requests.to_string())
        .collect();
    Ok(format!(
        "requests that Envoy sent to each endpoint: {}",
        counts.join(", ")
    ))
}
