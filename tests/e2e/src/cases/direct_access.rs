//! Direct access: an application calls Pods by their IPs, as Prometheus does, or by the names of a headless Service. The
//! mesh is STRICT, so a response shows that the connection had mTLS.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::fixture::{APP_NAMESPACE, Fixture, SYSTEM_NAMESPACE};
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
    with_scraper(fixture, async || check_direct_access(fixture).await).await
}

/// Runs a check while there is a Pod with direct access to all services.
async fn with_scraper(fixture: &Fixture, check: impl AsyncFnOnce() -> Result<Note>) -> Result<Note> {
    let mut pod = demo_pod(fixture, APP_NAMESPACE, SCRAPER, &["server"])?;
    pod.annotations_mut()
        .insert("kuma.io/direct-access-services".to_owned(), "*".to_owned());
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &pod).await?;
    let outcome = async {
        wait_for_pod(fixture, SCRAPER).await?;
        check().await
    };
    let outcome = outcome.await;
    // The next test uses the same name.
    pods.delete(SCRAPER, &DeleteParams::default().grace_period(0))
        .await?;
    outcome
}

/// Waits until a Pod is ready. Returns the Pod.
async fn wait_for_pod(fixture: &Fixture, name: &str) -> Result<Pod> {
    let pods = fixture.pods(APP_NAMESPACE);
    wait_for(&format!("Pod {name} to be ready"), TIMEOUT, async || {
        let pod = pods.get(name).await?;
        Ok(done_if(is_ready(&pod), pod.clone(), || {
            format!("{:?}", pod.status)
        }))
    })
    .await
}

async fn check_direct_access(fixture: &Fixture) -> Result<Note> {
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

// === protocols and permissions ===

/// Pod whose Service has a ClusterIP. It is called by its IP.
const BY_IP: &str = "direct-by-ip";
/// Pod whose Service is headless. It is called by the name of the Service.
const BY_NAME: &str = "direct-by-name";
/// Servers of each of the two Pods: the protocol, the port, and the arguments of the demo program.
const SERVERS: [(&str, u16, &[&str]); 4] = [
    ("http", 8080, &["server"]),
    ("http2", 8081, &["server", "--listen=0.0.0.0:8081"]),
    ("grpc", 8082, &["server", "--listen=0.0.0.0:8082"]),
    ("tcp", 8083, &["echo", "--listen=0.0.0.0:8083"]),
];

pub(super) async fn every_protocol_reaches_pods_by_ip_and_headless_name_unless_a_permission_denies_it(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    let pods = fixture.pods(APP_NAMESPACE);
    for name in [BY_IP, BY_NAME] {
        kubectl.apply(&service_of(name)).await?;
        let pod = pod_with_all_servers(fixture, name)?;
        pods.create(&PostParams::default(), &pod).await?;
    }
    let outcome = with_scraper(fixture, async || {
        let permitted = call_every_protocol(fixture, false).await?;
        kubectl.apply(DENYING_PERMISSION).await?;
        let denied = call_every_protocol(fixture, true).await;
        let namespace_flag = format!("--namespace={SYSTEM_NAMESPACE}");
        let arguments = [
            "delete",
            "meshtrafficpermission",
            PERMISSION_NAME,
            &namespace_flag,
        ];
        kubectl.run(&arguments).await?;
        Ok(format!("{permitted}; denied: {}", denied?))
    })
    .await;
    for name in [BY_IP, BY_NAME] {
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await?;
        kubectl.delete(&service_of(name), true).await?;
    }
    outcome
}

const PERMISSION_NAME: &str = "e2e-deny-scraper";

/// Permission that denies the scraper's requests to both Pods.
const DENYING_PERMISSION: &str = "
apiVersion: kuma.io/v1alpha1
kind: MeshTrafficPermission
metadata:
  name: e2e-deny-scraper
  namespace: kong-mesh-system
  labels:
    kuma.io/mesh: default
spec:
  targetRef:
    kind: MeshSubset
    tags: {part-of: direct}
  from:
  - targetRef:
      kind: MeshService
      name: scraper_e2e-mesh_svc
    default:
      action: Deny
";

/// Calls each server of both Pods until the result is as expected, because permissions and the names of new Services
/// need a moment. Returns the last result of each server of the first Pod.
async fn call_every_protocol(fixture: &Fixture, is_denied: bool) -> Result<Note> {
    let by_ip = wait_for_pod(fixture, BY_IP).await?;
    wait_for_pod(fixture, BY_NAME).await?;
    let name = format!("{BY_NAME}.{APP_NAMESPACE}.svc");
    let mut results = Vec::new();
    for host in [ip(&by_ip)?, &name] {
        for (protocol, port, _) in SERVERS {
            let result = call_until(fixture, host, protocol, port, is_denied).await?;
            results.push(format!("{protocol}: {result}"));
        }
    }
    let shown = results.iter().take(SERVERS.len());
    let shown = shown.map(|result| result.chars().take(60).collect::<String>());
    Ok(shown.collect::<Vec<_>>().join(", "))
}

/// Calls one server until the result is as expected. Returns the line that the demo program prints.
async fn call_until(
    fixture: &Fixture,
    host: &str,
    protocol: &str,
    port: u16,
    is_denied: bool,
) -> Result<String> {
    let url = format!("http://{host}:{port}/");
    let health_url = format!("{url}grpc.health.v1.Health/Check");
    let target = format!("{host}:{port}");
    let (mut command, permitted, denied) = match protocol {
        "http" => (vec!["get", &url], SCRAPER_IDENTITY, "403 "),
        "http2" => (vec!["get", "--protocol=http2", &url], SCRAPER_IDENTITY, "403 "),
        "grpc" => (
            vec!["get", "--protocol=grpc", &health_url],
            "200 ",
            "failed: grpc-status: 7",
        ),
        _ => (
            vec!["tcp-probe", &target, "--send=hello"],
            "response: hello",
            "failed: response: ",
        ),
    };
    command.insert(0, "kermode-demo");
    if is_denied {
        command.push("--expect-fail");
    }
    let expected = if is_denied { denied } else { permitted };
    wait_for(
        &format!("{expected:?} from {protocol} at {target}"),
        TIMEOUT,
        async || {
            let kubectl = &fixture.cluster.kubectl;
            let result = kubectl.exec(APP_NAMESPACE, SCRAPER, "client", &command).await;
            let result = result.unwrap_or_else(|error| format!("{error:#}"));
            // A connection that does not end is no denial.
            let is_expected = result.contains(expected) && !result.contains("timed out");
            Ok(done_if(is_expected, result.trim().to_owned(), || result))
        },
    )
    .await
}

/// Returns a Pod with the four servers, each in a container of its own.
fn pod_with_all_servers(fixture: &Fixture, name: &str) -> Result<Pod> {
    let mut pod = demo_pod(fixture, APP_NAMESPACE, name, &[])?;
    pod.labels_mut().insert("part-of".to_owned(), "direct".to_owned());
    let spec = pod.spec.as_mut().context("the Pod has no spec")?;
    let template = spec.containers.remove(0);
    for (protocol, port, arguments) in SERVERS {
        let mut container = template.clone();
        protocol.clone_into(&mut container.name);
        container.args = Some(arguments.iter().map(|argument| (*argument).to_owned()).collect());
        let probe = json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
        container.readiness_probe = serde_json::from_value(probe)?;
        spec.containers.push(container);
    }
    Ok(pod)
}

/// Returns the Service of a Pod with the four servers.
fn service_of(pod: &str) -> String {
    let cluster_ip = if pod == BY_NAME { "clusterIP: None" } else { "" };
    let ports = SERVERS
        .map(|(protocol, port, _)| format!("{{name: {protocol}, port: {port}, appProtocol: {protocol}}}"));
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {pod}, namespace: {APP_NAMESPACE}}}
spec:
  selector: {{app: {pod}}}
  ports: [{}]
  {cluster_ip}
",
        ports.join(", ")
    )
}
