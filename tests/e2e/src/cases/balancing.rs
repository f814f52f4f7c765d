//! Load balancing by the client's sidecar, according to its statistics.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::ResourceExt;

use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;
use crate::world::{APP, SERVER, World};

pub(super) async fn client_sidecar_balances_requests_over_all_replicas(world: &World) -> Result<Note> {
    world.deployed().await?;
    let pods = world.ready_pods(APP, "server").await?;
    let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let before = world.counters().await?;
    let gained = wait_for(
        "60 responses, at least one from every replica",
        Duration::from_secs(30),
        async || {
            let gained = world.counters().await?.since(&before);
            let pods: BTreeSet<String> = gained.by_pod.keys().cloned().collect();
            let done = gained.succeeded >= 60 && pods == names;
            Ok(done_if(done, gained.clone(), || {
                format!("{:?}; {}", gained.by_pod, gained.failures())
            }))
        },
    )
    .await?;
    ensure!(gained.failed == 0, "{}", gained.failures());

    let client = world.pod(APP, "client").await?;
    let endpoints = Envoy::new(&world.cluster.kubectl, APP, &client, "client")
        .endpoints(SERVER)
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
        "Envoy's endpoints of {SERVER} are {addresses:?}, the Pods are {expected:?}"
    );
    let idle: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.requests == 0)
        .collect();
    ensure!(idle.is_empty(), "Envoy sent no request to {idle:?}");
    let counts: Vec<String> = endpoints
        .iter()
        .map(|endpoint| endpoint.requests.to_string())
        .collect();
    Ok(format!(
        "Envoy sent {} requests to its endpoints",
        counts.join(", ")
    ))
}
