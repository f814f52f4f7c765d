//! Pods without a sidecar get no response from a server in the mesh, because they have no certificate and mTLS is
//! STRICT. A Pod of the mesh gets responses from servers without a sidecar.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use super::probes::{events_about, summary};
use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_URL};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::host;
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

/// Headless Service of the server outside of the mesh.
const HEADLESS_OUTSIDE: &str = "
apiVersion: v1
kind: Service
metadata: {name: server-headless, namespace: e2e-outside}
spec:
  clusterIP: None
  selector: {app: server}
  ports: [{port: 8080}]
";

pub(super) async fn service_of_a_namespace_without_injection_responds_to_a_pod_of_the_mesh(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    kubectl.apply(HEADLESS_OUTSIDE).await?;
    let outcome = call_outside_services(fixture).await;
    kubectl.delete(HEADLESS_OUTSIDE, true).await?;
    outcome
}

async fn call_outside_services(fixture: &Fixture) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let server = fixture.ready_pod_name(OUTSIDE_NAMESPACE, "server").await?;
    for url in [
        "http://server.e2e-outside.svc/",
        "http://server-headless.e2e-outside.svc:8080/",
    ] {
        // The name of a new Service needs a moment.
        let response = wait_for(&format!("a response of {url}"), TIMEOUT, async || {
            let result = demo::get(kubectl, APP_NAMESPACE, &client, "client", url).await;
            let state = format!("{result:?}");
            Ok(done_if(result.is_ok(), result, || state))
        })
        .await??;
        ensure!(
            response.contains(&format!("\"pod\":\"{server}\"")),
            "the response of {url} is not from Pod {server}: {response}"
        );
    }
    Ok(String::new())
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
    wait_for("an Event about the closed port", TIMEOUT, async || {
        let events = events_about(fixture, UNLISTED).await?;
        let reports_port = |event: &Event| {
            let names_port = |note: &str| note.contains("port 8080:");
            event.reason.as_deref() == Some("PlainTextConnectionClosed")
                && event.note.as_deref().is_some_and(names_port)
        };
        let is_reported = events.iter().any(reports_port);
        Ok(done_if(is_reported, (), || summary(&events)))
    })
    .await?;
    Ok(format!("{failure}; Envoy has closed {closed} connections"))
}

/// Pods with a sidecar, each with the `hostPort` of its port 8080. No Service selects them. The second Pod excludes the
/// port from redirection.
const HOST_PORT_PODS: [(&str, u16); 2] = [("host-port", 18080), ("host-port-excluded", 18081)];

pub(super) async fn host_port_that_no_service_names_responds_to_clients_outside_the_mesh_only_if_excluded(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let pods = fixture.pods(APP_NAMESPACE);
    let [(closed, closed_port), (excluded, excluded_port)] = HOST_PORT_PODS;
    for (name, host_port) in HOST_PORT_PODS {
        let mut pod = demo_pod(fixture, APP_NAMESPACE, name, &["server"])?;
        if name == excluded {
            pod.annotations_mut().insert(
                "traffic.kuma.io/exclude-inbound-ports".to_owned(),
                "8080".to_owned(),
            );
        }
        let containers = pod.spec.iter_mut().flat_map(|spec| &mut spec.containers);
        for container in containers {
            container.ports = Some(vec![ContainerPort {
                container_port: 8080,
                host_port: Some(host_port.into()),
                ..ContainerPort::default()
            }]);
        }
        pods.create(&PostParams::default(), &pod).await?;
    }
    let outcome = async {
        let node_address = wait_for_host_ports(fixture).await?;
        let closed = check_host_port(fixture, closed, &node_address, closed_port, false).await?;
        let excluded = check_host_port(fixture, excluded, &node_address, excluded_port, true).await?;
        Ok(format!("{closed}; excluded: {excluded}"))
    };
    let outcome = outcome.await;
    for (name, _) in HOST_PORT_PODS {
        pods.delete(name, &DeleteParams::default()).await?;
    }
    outcome
}

/// Waits until the Pods with a `hostPort` are ready. Returns the address of their Node.
async fn wait_for_host_ports(fixture: &Fixture) -> Result<String> {
    let pods = fixture.pods(APP_NAMESPACE);
    wait_for("the Pods with a hostPort to be ready", TIMEOUT, async || {
        let mut ready = Vec::new();
        for (name, _) in HOST_PORT_PODS {
            ready.push(pods.get(name).await?);
        }
        ready.retain(is_ready);
        let address = |pod: &Pod| pod.status.clone()?.host_ip;
        let address = ready.first().and_then(address).unwrap_or_default();
        Ok(done_if(ready.len() == HOST_PORT_PODS.len(), address, || {
            format!("{} Pods are ready", ready.len())
        }))
    })
    .await
}

/// Requests a `hostPort` from a Pod outside of the mesh, and from a machine outside of the cluster. Checks whether the
/// Pod behind the port responds. Returns the results of the requests.
async fn check_host_port(
    fixture: &Fixture,
    pod: &str,
    node_address: &str,
    port: u16,
    responds: bool,
) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    let url = format!("http://{node_address}:{port}/");
    let demo_program = fixture.config.checkout.release_binary("kermode-demo");
    let mut arguments = vec!["get", &url];
    if !responds {
        arguments.push("--expect-fail");
    }
    let from_machine = host::run(&demo_program, &arguments)
        .await
        .with_context(|| format!("request of a machine outside of the cluster to {url}"))?;
    let outsider = fixture.ready_pod_name(OUTSIDE_NAMESPACE, "outsider").await?;
    arguments.insert(0, "kermode-demo");
    let from_pod = kubectl
        .exec(OUTSIDE_NAMESPACE, &outsider, "client", &arguments)
        .await
        .with_context(|| format!("request of a Pod outside of the mesh to {url}"))?;
    let closed = Envoy::new(kubectl, APP_NAMESPACE, pod, "client")
        .statistics("no_route")
        .await?
        .sum("tcp.inbound_passthrough_", ".downstream_cx_no_route");
    for result in [&from_machine, &from_pod] {
        ensure!(
            result.contains(&format!("\"pod\":\"{pod}\"")) == responds,
            "result of a request to {url}: {result}"
        );
    }
    ensure!(
        (closed == 0) == responds,
        "the Envoy of Pod {pod} has closed {closed} connections"
    );
    let status = |result: &str| result.split('{').next().unwrap_or_default().trim().to_owned();
    Ok(format!(
        "from a machine: {}, from a Pod: {}, closed by Envoy: {closed}",
        status(&from_machine),
        status(&from_pod)
    ))
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
