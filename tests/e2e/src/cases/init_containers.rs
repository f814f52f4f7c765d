//! Init containers of the application that call a server outside of the cluster, by HTTPS and by its name.
//!
//! A classic sidecar starts after all init containers, so an init container whose traffic is redirected to the sidecar
//! gets no response. The annotations exclude the traffic of a UID from the redirection. The Pods are those of the example
//! in Kuma's manual page "Data plane on Kubernetes", except for names.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Container, ContainerState, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SERVER_URL};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::demo_pod;

/// Time limit from the creation of a Pod to the end of its init containers.
const TIMEOUT: Duration = Duration::from_mins(1);
/// UID of the example.
const UID: i64 = 1234;
/// A UID that the annotations do not name.
const OTHER_UID: i64 = 1235;
/// Annotations of the example.
const EXCLUSIONS: [(&str, &str); 2] = [
    ("traffic.kuma.io/exclude-outbound-tcp-ports-for-uids", "443:1234"),
    ("traffic.kuma.io/exclude-outbound-udp-ports-for-uids", "53:1234"),
];
const CLASSIC: (&str, &str) = ("kuma.io/sidecar-mode", "classic");
/// Names of the container that redirects the traffic of a Pod, and of the container that waits for the redirection by
/// the CNI plugin.
const INJECTED: [&str; 2] = ["kuma-init", "kuma-validation"];

/// Component that redirects the traffic of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirection {
    /// The init container `kuma-init`: earlier init containers are not redirected.
    InitContainer,
    /// The CNI plugin: all init containers are redirected.
    CniPlugin,
}

/// Expected result of an init container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Response,
    Failure,
}

/// An init container that makes one request.
struct Call<'a> {
    name: &'static str,
    uid: i64,
    url: &'a str,
    expected: Expected,
}

/// An HTTPS server on this machine, outside of the cluster, and the name by which Pods resolve its address. Dropping
/// this value ends the server.
struct ExternalServer {
    _process: Child,
    url: String,
    url_with_address: String,
}

pub(super) async fn annotations_let_init_containers_of_a_uid_use_https_and_dns_without_the_sidecar(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    check(fixture, Redirection::InitContainer).await?;
    Ok(String::new())
}

/// Runs init containers with and without the annotations, and with a native sidecar.
pub(super) async fn check(fixture: &Fixture, redirection: Redirection) -> Result<()> {
    let server = ExternalServer::start(fixture).await?;
    let outcome = run_pods(fixture, redirection, &server).await;
    fixture
        .cluster
        .kubectl
        .delete(&external_service("192.0.2.1"), false)
        .await?;
    outcome
}

async fn run_pods(fixture: &Fixture, redirection: Redirection, server: &ExternalServer) -> Result<()> {
    let pods = [
        excluded_pod(fixture, &server.url).await?,
        redirected_pod(fixture, redirection, server).await?,
        native_pod(fixture, &server.url)?,
    ];
    let api = fixture.pods(APP_NAMESPACE);
    for pod in &pods {
        api.create(&PostParams::default(), pod).await?;
    }
    let outcome = try_join_all(pods.iter().map(|pod| check_init_containers(fixture, pod))).await;
    for pod in &pods {
        let parameters = DeleteParams::default().grace_period(0);
        api.delete(&pod.name_any(), &parameters).await?;
    }
    let outputs = outcome?.concat();
    // The server repeats the identity of the client, which the sidecar has proved by mTLS.
    ensure!(
        outputs.contains("URI=spiffe://default/init-native_e2e-mesh_svc;"),
        "no init container called a server by mTLS; outputs of all init containers: {outputs}"
    );
    Ok(())
}

/// Returns a Pod with the annotations of the example. Other webhooks have put an init container before and after the
/// injected one.
async fn excluded_pod(fixture: &Fixture, url: &str) -> Result<Pod> {
    let call = |name, uid, expected| Call {
        name,
        uid,
        url,
        expected,
    };
    let foreign = [
        call("before", UID, Expected::Response),
        call("after", UID, Expected::Response),
        call("of-another-user", OTHER_UID, Expected::Failure),
    ];
    let pod = mk_pod(
        fixture,
        "init-excluded",
        &[&EXCLUSIONS[..], &[CLASSIC]].concat(),
        &foreign,
    )?;
    as_ordered_by_webhooks(fixture, &pod).await
}

/// Returns a Pod without the annotations of the example.
async fn redirected_pod(fixture: &Fixture, redirection: Redirection, server: &ExternalServer) -> Result<Pod> {
    let before = match redirection {
        Redirection::InitContainer => Expected::Response,
        Redirection::CniPlugin => Expected::Failure,
    };
    let call = |name, url, expected| Call {
        name,
        uid: UID,
        url,
        expected,
    };
    let foreign = [
        call("before", server.url.as_str(), before),
        call("after", &server.url, Expected::Failure),
        call("without-dns", &server.url_with_address, Expected::Failure),
    ];
    let pod = mk_pod(fixture, "init-redirected", &[CLASSIC], &foreign)?;
    as_ordered_by_webhooks(fixture, &pod).await
}

/// Returns a Pod with a native sidecar, which runs before the init containers. The Pod needs no annotation.
fn native_pod(fixture: &Fixture, url: &str) -> Result<Pod> {
    let call = |name, url| Call {
        name,
        uid: UID,
        url,
        expected: Expected::Response,
    };
    let calls = [call("outside", url), call("mesh", SERVER_URL)];
    mk_pod(fixture, "init-native", &[], &calls)
}

fn mk_pod(fixture: &Fixture, name: &str, annotations: &[(&str, &str)], calls: &[Call<'_>]) -> Result<Pod> {
    let mut pod = demo_pod(fixture, APP_NAMESPACE, name, &["server"])?;
    let annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    pod.annotations_mut().extend(annotations);
    let image = fixture.cluster.image("kermode-demo")?;
    let containers = calls.iter().map(|call| mk_container(call, image));
    let spec = pod.spec.as_mut().context("the Pod has no spec")?;
    spec.init_containers = Some(containers.collect::<Result<_>>()?);
    Ok(pod)
}

/// Returns a container that ends with exit code 0 if the result of its request is as expected.
fn mk_container(call: &Call<'_>, image: &str) -> Result<Container> {
    let mut args = vec!["get", call.url];
    if call.expected == Expected::Failure {
        // Nothing responds to a redirected DNS query, so the resolver waits.
        args.extend(["--expect-fail", "--timeout=1s"]);
    }
    let container: Value = json!({
        "name": call.name, "image": image, "args": args, "securityContext": {"runAsUser": call.uid},
    });
    Ok(serde_json::from_value(container)?)
}

/// Returns the Pod as it is when other webhooks have put their init containers around the injected one: the first init
/// container precedes it, and the others follow. The control plane would restore its own order, so the result has the
/// label that opts out of injection, beside the containers and annotations of the injection.
async fn as_ordered_by_webhooks(fixture: &Fixture, pod: &Pod) -> Result<Pod> {
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let mut injected = fixture.pods(APP_NAMESPACE).create(&dry_run, pod).await?;
    let containers = injected
        .spec
        .as_mut()
        .and_then(|spec| spec.init_containers.as_mut())
        .context("the Pod has no init containers")?;
    let position = containers
        .iter()
        .position(|container| INJECTED.contains(&container.name.as_str()))
        .context("the Pod was not injected")?;
    let injected_container = containers.remove(position);
    containers.insert(1, injected_container);
    injected
        .labels_mut()
        .insert("kuma.io/sidecar-injection".to_owned(), "disabled".to_owned());
    injected.metadata.uid = None;
    injected.metadata.resource_version = None;
    injected.metadata.managed_fields = None;
    injected.status = None;
    Ok(injected)
}

/// Waits until the init containers of a Pod have ended, except the sidecar. Returns their outputs.
///
/// # Errors
/// A result is not as expected.
async fn check_init_containers(fixture: &Fixture, pod: &Pod) -> Result<String> {
    let spec = pod.spec.as_ref().context("the Pod has no spec")?;
    let containers = spec.init_containers.iter().flatten();
    let mut outputs = String::new();
    for container in containers.filter(|container| !INJECTED.contains(&container.name.as_str())) {
        let (pod_name, name) = (pod.name_any(), &container.name);
        let exit_code = wait_for_exit(fixture, &pod_name, name).await?;
        let flags = [
            format!("--namespace={APP_NAMESPACE}"),
            format!("--container={name}"),
        ];
        let [namespace, container] = flags.each_ref();
        let kubectl = &fixture.cluster.kubectl;
        let output = kubectl.run(&["logs", &pod_name, namespace, container]).await?;
        ensure!(
            exit_code == 0,
            "the result of init container {name} of Pod {pod_name} is not as expected: {output}"
        );
        outputs.push_str(&output);
    }
    Ok(outputs)
}

/// Waits until an init container has ended for the first time. Returns its exit code.
async fn wait_for_exit(fixture: &Fixture, pod: &str, container: &str) -> Result<i32> {
    let api = fixture.pods(APP_NAMESPACE);
    let condition = format!("the end of init container {container} of Pod {pod}");
    wait_for(&condition, TIMEOUT, async || {
        let status = api.get(pod).await?.status.unwrap_or_default();
        let mut statuses = status.init_container_statuses.iter().flatten();
        let found = statuses.find(|status| status.name == container);
        let exit_code = |state: &Option<ContainerState>| Some(state.as_ref()?.terminated.as_ref()?.exit_code);
        let code =
            found.and_then(|status| exit_code(&status.last_state).or_else(|| exit_code(&status.state)));
        Ok(done_if(code.is_some(), code, || format!("{found:?}")))
    })
    .await?
    .context("the init container has no exit code")
}

impl ExternalServer {
    /// Starts the server at port 443 of this machine's address in the network of the cluster.
    async fn start(fixture: &Fixture) -> Result<Self> {
        let address = &fixture.cluster.addresses.host;
        let program = fixture.config.checkout.release_binary("kermode-demo");
        let process = Command::new(program)
            .args(["server", "--tls", &format!("--listen={address}:443")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("kermode-demo cannot be started")?;
        fixture.cluster.kubectl.apply(&external_service(address)).await?;
        Ok(Self {
            _process: process,
            url: format!("https://external.{OUTSIDE_NAMESPACE}.svc/"),
            url_with_address: format!("https://{address}/"),
        })
    }
}

/// Returns a headless Service for a server outside of the cluster. The cluster's DNS resolves its name to the address of
/// the server.
fn external_service(address: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: external, namespace: {OUTSIDE_NAMESPACE}}}
spec:
  clusterIP: None
  ports: [{{name: https, port: 443}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: external-1
  namespace: {OUTSIDE_NAMESPACE}
  labels: {{kubernetes.io/service-name: external}}
addressType: IPv4
ports: [{{name: https, port: 443, protocol: TCP}}]
endpoints: [{{addresses: [\"{address}\"], conditions: {{ready: true}}}}]
"
    )
}
