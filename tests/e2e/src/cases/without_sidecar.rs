//! Pods without a sidecar get no response from a server in the mesh, because they have no certificate and mTLS is
//! STRICT.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, PostParams};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_URL};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, ip, is_ready};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);
/// HTTP request that is sent over TCP without TLS. A response could only come from the application.
const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";

pub(super) async fn pod_outside_the_mesh_gets_no_response(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    // For comparison, a request of the same Pod to a server outside of the mesh succeeds. So the mesh causes the
    // failures below.
    let outsider = fixture.ready_pod_name(OUTSIDE_NAMESPACE, "outsider").await?;
    let url = format!("http://server.{OUTSIDE_NAMESPACE}.svc/");
    demo::get(
        &fixture.cluster.kubectl,
        OUTSIDE_NAMESPACE,
        &outsider,
        "client",
        &url,
    )
    .await?;
    check_no_response(fixture, OUTSIDE_NAMESPACE, "outsider").await
}

pub(super) async fn pod_that_opted_out_gets_no_response(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    check_no_response(fixture, APP_NAMESPACE, "opted-out").await
}

/// Name of a Pod with a sidecar that no Service selects. Its server listens on port 8080.
const UNLISTED: &str = "unlisted";

pub(super) async fn port_that_no_service_names_gives_no_response_to_a_pod_outside_the_mesh(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let pod = demo_pod(fixture, APP_NAMESPACE, UNLISTED, &["server"])?;
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &pod).await?;
    let outcome = check_unlisted_port(fixture).await;
    pods.delete(UNLISTED, &DeleteParams::default()).await?;
    outcome
}

async fn check_unlisted_port(fixture: &Fixture) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    let pods = fixture.pods(APP_NAMESPACE);
    let pod = wait_for("the Pod without a Service to be ready", TIMEOUT, async || {
        let pod = pods.get(UNLISTED).await?;
        Ok(done_if(is_ready(&pod), pod.clone(), || {
            format!("{:?}", pod.status)
        }))
    })
    .await?;
    // For comparison, the application responds to a request from inside its Pod.
    demo::get(
        kubectl,
        APP_NAMESPACE,
        UNLISTED,
        "client",
        "http://127.0.0.1:8080/",
    )
    .await?;
    let outsider = fixture.ready_pod_name(OUTSIDE_NAMESPACE, "outsider").await?;
    let url = format!("http://{}:8080/", ip(&pod)?);
    let failure = demo::get_expecting_failure(kubectl, OUTSIDE_NAMESPACE, &outsider, &url).await?;
    let closed = Envoy::new(kubectl, APP_NAMESPACE, UNLISTED, "client")
        .statistics("no_route")
        .await?
        .sum("tcp.inbound_passthrough_", ".downstream_cx_no_route");
    ensure!(
        closed > 0,
        "the Envoy of Pod {UNLISTED} has closed no connection, although the request failed: {failure}"
    );
    Ok(format!("{failure}; Envoy has closed {closed} connections"))
}

async fn check_no_response(fixture: &Fixture, namespace: &str, app: &str) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    let pod = fixture.ready_pod_name(namespace, app).await?;
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    let server = servers.first().context("no server is ready")?;
    let envoy = Envoy::new(
        kubectl,
        APP_NAMESPACE,
        server.metadata.name.as_deref().unwrap_or_default(),
        "server",
    );
    let errors_before = envoy
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
        .context("a request without TLS to the server's Pod did not fail")?;

    let errors_after = envoy
        .statistics("ssl")
        .await?
        .sum("listener.", ".ssl.connection_error");
    ensure!(
        errors_after > errors_before,
        "the server's Envoy counted no failed TLS connection: {errors_before} before, {errors_after} after"
    );
    let counters = demo::counters(kubectl, namespace, &pod).await?;
    ensure!(
        counters.succeeded == 0,
        "{app} has received {} responses since its start",
        counters.succeeded
    );
    ensure!(counters.failed > 0, "{app} has not sent a request yet");
    Ok(format!("{failure}; {}", counters.request_summary()))
}
