//! Load balancing by the client's sidecar: over the Pods that a Service selects, and over endpoints from
//! EndpointSlices.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_SERVICE};
use crate::harness::demo;
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

/// The mesh is STRICT, so a response shows that the connection had mTLS.
pub(super) async fn endpoint_of_a_service_without_selector_is_called_with_mtls(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let kubectl = &fixture.cluster.kubectl;
    let mut responses = Vec::new();
    // The endpoint moves from the first server to the second one, as when the application elects another leader.
    for server in servers.iter().take(2) {
        let (name, manifests) = (server.name_any(), leader_manifests(ip(server)?));
        kubectl.apply(&manifests).await?;
        let response = wait_for("a response of the leader", Duration::from_secs(30), async || {
            let result = demo::get(kubectl, APP_NAMESPACE, &client, "client", LEADER_URL).await;
            let response = result.unwrap_or_else(|error| format!("{error:#}"));
            Ok(done_if(response.contains(&name), response.clone(), || response))
        })
        .await?;
        responses.push(response.lines().next().context("an empty response")?.to_owned());
    }
    // The deletion uses only the names of the objects, so the address may be any.
    kubectl.delete(&leader_manifests("10.0.0.1"), true).await?;
    Ok(format!("responses: {}", responses.join("; ")))
}

/// URL of the Service `leader`. The Service stands for that of an application whose elected leader is the only
/// endpoint.
const LEADER_URL: &str = "http://leader.e2e-mesh.svc/";

/// Returns the Service `leader`, which has no selector, and the EndpointSlice with its only endpoint.
fn leader_manifests(ip: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: leader, namespace: {APP_NAMESPACE}}}
spec:
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: leader-1
  namespace: {APP_NAMESPACE}
  labels: {{kubernetes.io/service-name: leader}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]
"
    )
}
