//! Pods without a sidecar get no response from a server in the mesh, because they have no certificate and mTLS is
//! STRICT.

use anyhow::{Context, Result, ensure};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_URL};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::pods::ip;

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
