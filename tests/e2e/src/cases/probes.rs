//! Probes and lifecycle hooks of applications in a mesh with strict mTLS, and applications that use ports of the sidecar.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Probe, Service};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::high_availability::delete_pod;
use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::{SIDECAR, demo_pod, ip, is_ready};

/// Timeout of each condition that a test waits for.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Path that the preStop hook of [`PROBED`] requests.
const HOOK_PATH: &str = "/healthz?draining=1";
/// Name of the Pod whose probes and hooks all succeed, and of its Service.
const PROBED: &str = "probed";
/// Name of the Pod with failing probes.
const FAILING: &str = "failing";
/// Default ports of the sidecar: virtual probes, Envoy's admin interface, redirection of inbound traffic, DNS.
const SIDECAR_PORTS: [u16; 4] = [9000, 9901, 15006, 15053];
/// Number of Pods whose start must cause no Event about a failed probe.
const STARTED_PODS: usize = 5;

pub(super) async fn probes_and_hooks_of_every_protocol_work_under_strict(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let services = Api::<Service>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    services
        .create(&PostParams::default(), &probed_service()?)
        .await?;
    let outcome = check_probed_pod(fixture).await;
    delete_pod(fixture, PROBED).await?;
    services.delete(PROBED, &DeleteParams::default()).await?;
    outcome?;
    Ok(String::new())
}

/// Returns a Service that gives every port of the Pod [`PROBED`] an inbound, so that each of them requires mTLS.
fn probed_service() -> Result<Service> {
    let port = |port: u16| json!({"name": format!("port-{port}"), "port": port, "targetPort": port});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": PROBED, "namespace": APP_NAMESPACE},
        "spec": {"selector": {"app": PROBED}, "ports": [port(8080), port(8282), port(8443)]},
    }))?)
}

/// Returns a Pod with probes of every protocol and with a hook. The application has a native sidecar of its own, which
/// has probes too.
fn probed_pod(fixture: &Fixture) -> Result<Pod> {
    let image = fixture.cluster.image("kermode-demo")?;
    let container = |name: &str, args: &[&str], fields: Value| {
        let mut container = json!({"name": name, "image": image, "args": args});
        if let (Value::Object(container), Value::Object(fields)) = (&mut container, fields) {
            container.extend(fields);
        }
        container
    };
    let http_probe =
        |port: Value, scheme: &str| json!({"httpGet": {"path": "/healthz", "port": port, "scheme": scheme}});
    let policy_agent = container(
        "policy-agent",
        &["server", "--listen=0.0.0.0:8282"],
        json!({
            "restartPolicy": "Always",
            "ports": [{"name": "policy", "containerPort": 8282}],
            "startupProbe": http_probe("policy".into(), "HTTP"),
            "readinessProbe": http_probe(8282.into(), "HTTP"),
        }),
    );
    let web = container(
        "web",
        &["server", "--log-requests"],
        json!({
            "ports": [{"name": "web", "containerPort": 8080}],
            "startupProbe": {"grpc": {"port": 8080}},
            "readinessProbe": http_probe("web".into(), "HTTP"),
            "livenessProbe": {"tcpSocket": {"port": "web"}},
            "lifecycle": {"preStop": {"httpGet": {"path": HOOK_PATH, "port": "web"}}},
        }),
    );
    let secure = container(
        "secure",
        &["server", "--tls", "--listen=0.0.0.0:8443"],
        json!({
            "ports": [{"name": "https", "containerPort": 8443}],
            "readinessProbe": http_probe("https".into(), "HTTPS"),
            "livenessProbe": http_probe(8443.into(), "HTTPS"),
            // Keeps the Pod for 10 s, so that the log of the container `web` stays readable after the hook of `web`.
            "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
        }),
    );
    Ok(serde_json::from_value(json!({
        "metadata": {"name": PROBED, "namespace": APP_NAMESPACE, "labels": {"app": PROBED}},
        "spec": {"initContainers": [policy_agent], "containers": [web, secure]},
    }))?)
}

async fn check_probed_pod(fixture: &Fixture) -> Result<()> {
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &probed_pod(fixture)?).await?;
    let pod = wait_until_ready(fixture, PROBED).await?;
    check_that_plain_text_is_refused(fixture, ip(&pod)?).await?;
    pods.delete(PROBED, &DeleteParams::default()).await?;
    wait_for("the request of the preStop hook", TIMEOUT, async || {
        let namespace_flag = format!("--namespace={APP_NAMESPACE}");
        let arguments = ["logs", PROBED, "--container=web", &namespace_flag];
        let log = match fixture.cluster.kubectl.run(&arguments).await {
            Ok(log) => log,
            Err(error) => return Ok(Progress::NotYet(format!("{error:#}"))),
        };
        let line = format!("request {HOOK_PATH}");
        Ok(done_if(log.contains(&line), (), || log.clone()))
    })
    .await?;
    let events = events_about(fixture, PROBED).await?;
    let failed = events.iter().find(|event| {
        matches!(
            event.reason.as_deref(),
            Some("FailedPreStopHook" | "ProbeNotRewritten")
        )
    });
    ensure!(failed.is_none(), "an Event reports a failure: {failed:?}");
    Ok(())
}

/// Checks that a client outside of the mesh gets no response in plain text at the ports that are probed.
async fn check_that_plain_text_is_refused(fixture: &Fixture, address: &str) -> Result<()> {
    let outsider = fixture.ready_pod_name(OUTSIDE_NAMESPACE, "outsider").await?;
    for port in [8080, 8282] {
        let url = format!("http://{address}:{port}/healthz");
        let command = ["kermode-demo", "get", &url, "--expect-fail"];
        fixture
            .cluster
            .kubectl
            .exec(OUTSIDE_NAMESPACE, &outsider, "client", &command)
            .await
            .with_context(|| format!("the client outside of the mesh got a response at port {port}"))?;
    }
    Ok(())
}

pub(super) async fn failing_probe_of_every_protocol_keeps_its_container_unready(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let outcome = check_failing_pod(fixture).await;
    delete_pod(fixture, FAILING).await?;
    outcome?;
    Ok(String::new())
}

async fn check_failing_pod(fixture: &Fixture) -> Result<()> {
    let image = fixture.cluster.image("kermode-demo")?;
    let container = |name: &str, args: &[&str], mut probe: Value| {
        probe["periodSeconds"] = 1.into();
        json!({"name": name, "image": image, "args": args, "readinessProbe": probe})
    };
    let pod = json!({
        "metadata": {"name": FAILING, "namespace": APP_NAMESPACE, "labels": {"app": FAILING}},
        "spec": {"containers": [
            container("open", &["server"], json!({"tcpSocket": {"port": 8080}})),
            container(
                "tcp",
                &["server", "--listen=0.0.0.0:8081"],
                // Nothing listens at this port.
                json!({"tcpSocket": {"port": 8082}}),
            ),
            container(
                "grpc",
                &["server", "--unhealthy", "--listen=0.0.0.0:8083"],
                json!({"grpc": {"port": 8083}}),
            ),
            container(
                "https",
                &["server", "--tls", "--unhealthy", "--listen=0.0.0.0:8443"],
                json!({"httpGet": {"path": "/healthz", "port": 8443, "scheme": "HTTPS"}}),
            ),
        ]},
    });
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?;
    // The ready container shows that the sidecar answers probes. So the other probes fail because of the application.
    wait_for("a ready container and three failing ones", TIMEOUT, async || {
        let pod = pods.get(FAILING).await?;
        let ready: Vec<_> = application_statuses(&pod)
            .filter(|status| status.ready)
            .map(|status| status.name.clone())
            .collect();
        let events = events_about(fixture, FAILING).await?;
        let has_failed = |name: &str| {
            events
                .iter()
                .any(|event| is_about_container(event, name) && event.reason.as_deref() == Some("Unhealthy"))
        };
        let done = ready == ["open"] && ["tcp", "grpc", "https"].into_iter().all(has_failed);
        Ok(done_if(done, (), || {
            format!("ready: {ready:?}; Events: {}", summary(&events))
        }))
    })
    .await
}

pub(super) async fn applications_on_ports_of_the_sidecar_become_ready(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let name_of = |port: u16| format!("own-{port}");
    for port in SIDECAR_PORTS {
        let listen = format!("--listen=0.0.0.0:{port}");
        let mut pod = demo_pod(fixture, APP_NAMESPACE, &name_of(port), &["server", &listen])?;
        if let Some(container) = pod.spec.as_mut().and_then(|spec| spec.containers.first_mut()) {
            let probe: Probe =
                serde_json::from_value(json!({"httpGet": {"path": "/healthz", "port": port}}))?;
            container.ports = Some(serde_json::from_value(json!([{"containerPort": port}]))?);
            container.liveness_probe = Some(probe.clone());
            container.readiness_probe = Some(probe);
        }
        fixture
            .pods(APP_NAMESPACE)
            .create(&PostParams::default(), &pod)
            .await?;
    }
    let mut outcome = Ok(());
    for port in SIDECAR_PORTS {
        let name = name_of(port);
        if outcome.is_ok() {
            outcome = check_ready_without_restart(fixture, &name).await;
        }
        delete_pod(fixture, &name).await?;
    }
    outcome?;
    Ok(String::new())
}

async fn check_ready_without_restart(fixture: &Fixture, name: &str) -> Result<()> {
    let pod = wait_until_ready(fixture, name).await?;
    let restarted = application_statuses(&pod).find(|status| status.restart_count > 0);
    ensure!(
        restarted.is_none(),
        "a container of Pod {name} was restarted: {restarted:?}"
    );
    Ok(())
}

pub(super) async fn start_of_a_sidecar_causes_no_event_about_a_failed_probe(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let names: Vec<_> = (0..STARTED_PODS).map(|index| format!("start-{index}")).collect();
    for name in &names {
        let pod = demo_pod(fixture, APP_NAMESPACE, name, &["server"])?;
        fixture
            .pods(APP_NAMESPACE)
            .create(&PostParams::default(), &pod)
            .await?;
    }
    let mut outcome = Ok(());
    for name in &names {
        if outcome.is_ok() {
            outcome = check_start(fixture, name).await;
        }
        delete_pod(fixture, name).await?;
    }
    outcome?;
    Ok(format!("{STARTED_PODS} Pods started"))
}

async fn check_start(fixture: &Fixture, name: &str) -> Result<()> {
    wait_until_ready(fixture, name).await?;
    let events = events_about(fixture, name).await?;
    ensure!(
        !events.is_empty(),
        "no Event about Pod {name} exists, so the API server has lost Events"
    );
    let failed = events
        .iter()
        .find(|event| is_about_container(event, SIDECAR) && event.reason.as_deref() == Some("Unhealthy"));
    ensure!(
        failed.is_none(),
        "a probe of the sidecar of Pod {name} failed: {}",
        summary(&events)
    );
    Ok(())
}

async fn wait_until_ready(fixture: &Fixture, name: &str) -> Result<Pod> {
    let pods = fixture.pods(APP_NAMESPACE);
    wait_for(&format!("Pod {name} to be ready"), TIMEOUT, async || {
        let pod = pods.get(name).await?;
        let events = events_about(fixture, name).await?;
        Ok(done_if(is_ready(&pod), pod.clone(), || summary(&events)))
    })
    .await
}

/// Returns the statuses of the application's containers, without init containers.
fn application_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses.filter(|status| status.name != SIDECAR)
}

pub(super) async fn events_about(fixture: &Fixture, pod: &str) -> Result<Vec<Event>> {
    let events = Api::<Event>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    let mut events = events.list(&ListParams::default()).await?.items;
    events.retain(|event| {
        let object = event.regarding.as_ref();
        object.is_some_and(|object| {
            object.kind.as_deref() == Some("Pod") && object.name.as_deref() == Some(pod)
        })
    });
    Ok(events)
}

/// Whether the field path of the Event's object names the container.
fn is_about_container(event: &Event, container: &str) -> bool {
    let path = event
        .regarding
        .as_ref()
        .and_then(|object| object.field_path.as_deref());
    path.is_some_and(|path| path.contains(&format!("{{{container}}}")))
}

pub(super) fn summary(events: &[Event]) -> String {
    let texts: Vec<_> = events
        .iter()
        .map(|event| {
            format!(
                "{}: {}",
                event.reason.as_deref().unwrap_or_default(),
                event.note.as_deref().unwrap_or_default()
            )
        })
        .collect();
    texts.join("; ")
}
