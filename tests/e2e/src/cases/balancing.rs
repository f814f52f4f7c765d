//! Load balancing by the client's sidecar: over the Pods that a Service selects, and over endpoints from
//! EndpointSlices. The fields of a Service that choose among its endpoints have the same effect as without a sidecar.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_SERVICE};
use crate::harness::demo;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, ip, is_ready, node_without_machine};

/// Time limit of each condition that the tests wait for.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Namespace and Deployment of two clients. The first has a sidecar, the second one has none.
const CLIENTS: [(&str, &str); 2] = [(APP_NAMESPACE, "client"), (OUTSIDE_NAMESPACE, "outsider")];

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

// === fields of a Service ===

pub(super) async fn client_stays_at_one_server_with_session_affinity(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    scale_outside_servers(fixture, 3).await?;
    let outcome = async {
        for (namespace, client) in CLIENTS {
            kubectl.apply(&sticky_service(namespace)).await?;
            check_affinity(fixture, namespace, client)
                .await
                .with_context(|| format!("Deployment {namespace}/{client}"))?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    for (namespace, _) in CLIENTS {
        kubectl.delete(&sticky_service(namespace), true).await?;
    }
    scale_outside_servers(fixture, 1).await?;
    outcome.map(|()| String::new())
}

/// Checks that the requests of a client to the Service `sticky` reach one server, and those to the Service `server`
/// several servers.
async fn check_affinity(fixture: &Fixture, namespace: &str, client: &str) -> Result<()> {
    let client = fixture.ready_pod_name(namespace, client).await?;
    let responding_pods = async |service: &str, requests: u32| {
        let url = format!("http://{service}.{namespace}.svc/");
        demo::responding_pods(&fixture.cluster.kubectl, namespace, &client, &url, requests).await
    };
    // The servers run already, so their certificates do not name the new Service at first. Meanwhile, the client's
    // sidecar calls a server whose certificate has been renewed.
    wait_for(
        "20 responses of one server of the Service sticky",
        TIMEOUT,
        async || {
            let sticky = responding_pods("sticky", 20).await;
            let is_one = sticky.as_ref().is_ok_and(|pods| pods.len() == 1);
            Ok(done_if(is_one, (), || format!("{sticky:?}")))
        },
    )
    .await?;
    let other = responding_pods("server", 20).await?;
    ensure!(
        other.len() > 1,
        "20 requests to a Service without session affinity reached only {other:?}"
    );
    Ok(())
}

/// Returns a Service with session affinity for the Pods of the Deployment `server`.
fn sticky_service(namespace: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: sticky, namespace: {namespace}}}
spec:
  selector: {{app: server}}
  sessionAffinity: ClientIP
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
"
    )
}

/// Scales the servers outside of the mesh and waits for the rollout.
pub(super) async fn scale_outside_servers(fixture: &Fixture, replicas: usize) -> Result<()> {
    fixture.scale(OUTSIDE_NAMESPACE, "server", replicas).await?;
    fixture.wait_for_rollout(OUTSIDE_NAMESPACE, "server").await
}

/// Name of a Node without a machine.
const OTHER_NODE: &str = "e2e-other-node";
/// Pod on the Node of the clients.
const NEAR: &str = "agent-near";
/// Pod on [`OTHER_NODE`].
const FAR: &str = "agent-far";
/// Address of [`FAR`]. No machine has this address, so a request to it gets no response.
const FAR_ADDRESS: &str = "192.0.2.7";
/// Service of both Pods.
const AGENT: &str = "agent";
/// Label of a Node with its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Field of the Service that prefers the Pod on the Node of the clients.
#[derive(Clone, Copy)]
enum Preference {
    /// Only endpoints on the Node of the client.
    LocalTrafficPolicy,
    /// Endpoints in the zone of the client, if there are any. The two Nodes are in different zones.
    TrafficDistribution,
}

pub(super) async fn service_with_local_traffic_policy_calls_only_servers_of_the_clients_node(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let preference = Preference::LocalTrafficPolicy;
    with_other_node(fixture, preference, async || {
        check_preferred_server(fixture, preference).await?;
        check_failure_without_near_server(fixture).await
    })
    .await
}

pub(super) async fn service_with_traffic_distribution_calls_only_servers_of_the_clients_zone(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let preference = Preference::TrafficDistribution;
    let nodes = Api::<Node>::all(fixture.cluster.client.clone());
    let client = fixture.ready_pods(APP_NAMESPACE, "client").await?;
    let client_node = client
        .first()
        .and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    let client_node = client_node.context("the client is on no Node")?;
    set_zone(&nodes, &client_node, Some("near")).await?;
    let outcome = with_other_node(fixture, preference, async || {
        set_zone(&nodes, OTHER_NODE, Some("far")).await?;
        check_preferred_server(fixture, preference).await?;
        Ok(String::new())
    })
    .await;
    set_zone(&nodes, &client_node, None).await?;
    outcome
}

async fn set_zone(nodes: &Api<Node>, node: &str, zone: Option<&str>) -> Result<()> {
    let labels = json!({"metadata": {"labels": {ZONE_LABEL: zone}}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(labels))
        .await?;
    Ok(())
}

/// Creates [`OTHER_NODE`], runs a check, and deletes the Node, the Services and their Pods.
async fn with_other_node(
    fixture: &Fixture,
    preference: Preference,
    check: impl AsyncFnOnce() -> Result<Note>,
) -> Result<Note> {
    let nodes = Api::<Node>::all(fixture.cluster.client.clone());
    let node = node_without_machine(OTHER_NODE, "v1.34.0")?;
    nodes.create(&PostParams::default(), &node).await?;
    let outcome = check().await;
    let at_once = DeleteParams::default().grace_period(0);
    for (namespace, _) in CLIENTS {
        for pod in [NEAR, FAR] {
            // The test has deleted some of the Pods, and may have failed before it created them.
            let _ = fixture.pods(namespace).delete(pod, &at_once).await;
        }
        fixture
            .cluster
            .kubectl
            .delete(&agent_service(namespace, preference), true)
            .await?;
    }
    nodes.delete(OTHER_NODE, &DeleteParams::default()).await?;
    outcome
}

/// Checks that all requests of both clients reach the Pod [`NEAR`].
async fn check_preferred_server(fixture: &Fixture, preference: Preference) -> Result<()> {
    for (namespace, _) in CLIENTS {
        create_agents(fixture, namespace, preference).await?;
    }
    for (namespace, client) in CLIENTS {
        wait_for_agents(fixture, namespace).await?;
        let client = fixture.ready_pod_name(namespace, client).await?;
        let url = format!("http://{AGENT}.{namespace}.svc/");
        let responding = wait_for("responses of the Service", TIMEOUT, async || {
            let kubectl = &fixture.cluster.kubectl;
            let responding = demo::responding_pods(kubectl, namespace, &client, &url, 10).await;
            let state = format!("{responding:?}");
            Ok(done_if(responding.is_ok(), responding, || state))
        })
        .await??;
        ensure!(
            responding.iter().eq([NEAR]),
            "the requests of Pod {namespace}/{client} reached {responding:?}"
        );
    }
    Ok(())
}

/// Deletes the Pods [`NEAR`], and checks that the requests of both clients fail.
async fn check_failure_without_near_server(fixture: &Fixture) -> Result<Note> {
    let mut failures = Vec::new();
    for (namespace, client) in CLIENTS {
        let at_once = DeleteParams::default().grace_period(0);
        fixture.pods(namespace).delete(NEAR, &at_once).await?;
        let client = fixture.ready_pod_name(namespace, client).await?;
        let failure = wait_for(
            "requests without a server on the Node to fail",
            TIMEOUT,
            async || {
                let url = format!("http://{AGENT}.{namespace}.svc/");
                let command = ["kermode-demo", "get", &url, "--timeout=2s", "--expect-fail"];
                let kubectl = &fixture.cluster.kubectl;
                let failure = kubectl.exec(namespace, &client, "client", &command).await;
                let state = format!("{failure:?}");
                Ok(done_if(failure.is_ok(), failure, || state))
            },
        )
        .await??;
        failures.push(format!("{client}: {}", failure.trim()));
    }
    Ok(format!("without a server on the Node: {}", failures.join("; ")))
}

/// Creates the Service and its two Pods. The Pod on the other Node gets the status that its kubelet would write.
async fn create_agents(fixture: &Fixture, namespace: &str, preference: Preference) -> Result<()> {
    let pods = fixture.pods(namespace);
    let service = agent_service(namespace, preference);
    fixture.cluster.kubectl.apply(&service).await?;
    for name in [NEAR, FAR] {
        let mut pod = demo_pod(fixture, namespace, name, &["server"])?;
        pod.labels_mut().insert("app".to_owned(), AGENT.to_owned());
        if let Some(spec) = pod.spec.as_mut().filter(|_| name == FAR) {
            spec.node_name = Some(OTHER_NODE.to_owned());
        }
        pods.create(&PostParams::default(), &pod).await?;
    }
    let status = json!({"status": {
        "phase": "Running",
        "podIP": FAR_ADDRESS,
        "podIPs": [{"ip": FAR_ADDRESS}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status(FAR, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

/// Waits until both Pods are ready endpoints of the Service, each on its own Node.
async fn wait_for_agents(fixture: &Fixture, namespace: &str) -> Result<()> {
    let namespace_flag = format!("--namespace={namespace}");
    let selector = format!("--selector=kubernetes.io/service-name={AGENT}");
    let template =
        "--output=jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.nodeName} {end}";
    wait_for("two ready endpoints of the Service", TIMEOUT, async || {
        let near_is_ready = is_ready(&fixture.pods(namespace).get(NEAR).await?);
        let arguments = ["get", "endpointslices", &namespace_flag, &selector, template];
        let nodes = fixture.cluster.kubectl.run(&arguments).await?;
        let done = near_is_ready && nodes.contains(OTHER_NODE) && nodes.split_whitespace().count() == 2;
        Ok(done_if(done, (), || {
            format!("the endpoints are on Nodes {nodes}")
        }))
    })
    .await
}

fn agent_service(namespace: &str, preference: Preference) -> String {
    let field = match preference {
        Preference::LocalTrafficPolicy => "internalTrafficPolicy: Local",
        Preference::TrafficDistribution => "trafficDistribution: PreferClose",
    };
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {AGENT}, namespace: {namespace}}}
spec:
  selector: {{app: {AGENT}}}
  {field}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
"
    )
}
