//! Pods without a sidecar: they have no certificate, and mTLS is STRICT.

use anyhow::{Context, Result, ensure};

use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::pods::ip;
use crate::world::{APP, OUTSIDE, SERVER_URL, World};

/// Plain HTTP request over TCP: a response would come from the application.
const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";

pub(super) async fn pod_outside_the_mesh_is_rejected(world: &World) -> Result<Note> {
    world.deployed().await?;
    // A request outside of the mesh succeeds, so the mesh causes the failures below.
    let outsider = world.pod(OUTSIDE, "outsider").await?;
    let url = format!("http://server.{OUTSIDE}.svc/");
    demo::get(&world.cluster.kubectl, OUTSIDE, &outsider, "client", &url).await?;
    rejected(world, OUTSIDE, "outsider").await
}

pub(super) async fn pod_that_opted_out_is_rejected(world: &World) -> Result<Note> {
    world.deployed().await?;
    rejected(world, APP, "opted-out").await
}

async fn rejected(world: &World, namespace: &str, app: &str) -> Result<Note> {
    let kubectl = &world.cluster.kubectl;
    let pod = world.pod(namespace, app).await?;
    let servers = world.ready_pods(APP, "server").await?;
    let server = servers.first().context("no server is ready")?;
    let envoy = Envoy::new(
        kubectl,
        APP,
        server.metadata.name.as_deref().unwrap_or_default(),
        "server",
    );
    let before = envoy
        .statistics("ssl")
        .await?
        .sum("listener.", ".ssl.connection_error");

    let failure = demo::get_expecting_failure(kubectl, namespace, &pod, SERVER_URL).await?;
    let target = format!("{}:8080", ip(server)?);
    let probe = [
        "kermode-demo",
        "tcp-probe",
        &target,
        "--send",
        REQUEST,
        "--expect-fail",
    ];
    kubectl
        .exec(namespace, &pod, "client", &probe)
        .await
        .context("TCP connection to the address of the server")?;

    let after = envoy
        .statistics("ssl")
        .await?
        .sum("listener.", ".ssl.connection_error");
    ensure!(
        after > before,
        "the server's Envoy counted no failed TLS connection: {before} before, {after} after"
    );
    let counters = demo::counters(kubectl, namespace, &pod).await?;
    ensure!(
        counters.succeeded == 0,
        "{app} has received {} responses since its start",
        counters.succeeded
    );
    ensure!(counters.failed > 0, "{app} has not sent a request yet");
    Ok(format!("{failure}; {}", counters.failures()))
}
