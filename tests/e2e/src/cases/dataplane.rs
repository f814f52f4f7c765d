//! Dataplanes that the control plane writes for Pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{
    APP_NAMESPACE, CONTROL_PLANE, DIAGNOSTICS_PORT, Fixture, OUTSIDE_NAMESPACE, SERVER_SERVICE,
    SYSTEM_NAMESPACE,
};
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, ip, is_ready};

/// Time limit of each wait for a condition.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Port of the placeholder inbound of a service-less Pod.
const PLACEHOLDER_PORT: u64 = 49151;

pub(super) async fn exactly_the_injected_pods_have_dataplanes(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut pod_names = Vec::new();
    for pod in fixture.ready_pods(APP_NAMESPACE, "server").await? {
        let tags = json!({
            "app": "server",
            "version": "v1",
            "kuma.io/service": SERVER_SERVICE,
            "kuma.io/protocol": "http",
            "k8s.kuma.io/namespace": APP_NAMESPACE,
            "k8s.kuma.io/service-name": "server",
            "k8s.kuma.io/service-port": "80",
        });
        check_dataplane(fixture, &pod, 8080, &tags).await?;
        pod_names.push(pod.name_any());
    }
    for pod in fixture.ready_pods(APP_NAMESPACE, "client").await? {
        let tags = json!({
            "app": "client",
            "kuma.io/service": "client_e2e-mesh_svc",
            "kuma.io/protocol": "tcp",
            "kuma.io/instance": pod.name_any(),
            "k8s.kuma.io/namespace": APP_NAMESPACE,
        });
        check_dataplane(fixture, &pod, PLACEHOLDER_PORT, &tags).await?;
        pod_names.push(pod.name_any());
    }
    pod_names.sort();
    let dataplane_names: Vec<String> = fixture
        .dataplanes(APP_NAMESPACE)
        .list(&ListParams::default())
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    ensure!(
        dataplane_names == pod_names,
        "the Dataplanes are {dataplane_names:?}, but the injected Pods are {pod_names:?}"
    );
    let outside_count = fixture
        .dataplanes(OUTSIDE_NAMESPACE)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    ensure!(
        outside_count == 0,
        "{outside_count} Dataplanes exist in {OUTSIDE_NAMESPACE}"
    );
    Ok(String::new())
}

/// Waits until `kubectl get dataplanes <podName>` shows the Dataplane that the Pod must have.
async fn check_dataplane(fixture: &Fixture, pod: &Pod, port: u64, tags: &Value) -> Result<()> {
    let (name, namespace_flag) = (pod.name_any(), format!("--namespace={APP_NAMESPACE}"));
    wait_for(
        &format!("Dataplane {name} to be as expected"),
        TIMEOUT,
        async || {
            let text = fixture
                .cluster
                .kubectl
                .run(&["get", "dataplanes", &name, &namespace_flag, "--output=json"])
                .await?;
            let dataplane: Value = serde_json::from_str(&text)?;
            let networking = &dataplane["spec"]["networking"];
            let inbounds = networking["inbound"].as_array().map_or(&[][..], Vec::as_slice);
            let as_expected = inbounds.len() == 1
                && networking["address"] == ip(pod)?
                && inbounds[0]["port"] == port
                && inbounds[0]["tags"].as_object() == with_template_hash(tags, pod).as_object()
                && inbounds[0]["health"]["ready"] == true
                && dataplane["mesh"] == "default"
                && dataplane["metadata"]["ownerReferences"][0]["uid"] == json!(pod.uid());
            Ok(done_if(as_expected, (), || format!("{dataplane:#}")))
        },
    )
    .await
}

/// Adds the tag for `pod-template-hash`, a label that the ReplicaSet controller sets on the Pod.
fn with_template_hash(tags: &Value, pod: &Pod) -> Value {
    let mut all_tags = tags.clone();
    if let Some(hash) = pod.labels().get("pod-template-hash") {
        all_tags["pod-template-hash"] = hash.as_str().into();
    }
    all_tags
}

pub(super) async fn unready_pod_has_an_unready_dataplane_and_gets_no_requests(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut unready = demo_pod(fixture, APP_NAMESPACE, "unready", &["server"])?;
    unready.labels_mut().insert("app".to_owned(), "server".to_owned());
    let container = unready
        .spec
        .as_mut()
        .and_then(|spec| spec.containers.first_mut())
        .context("Pod unready has no container")?;
    container.ports = serde_json::from_value(json!([{"name": "http", "containerPort": 8080}]))?;
    // No process listens on this port.
    container.readiness_probe =
        serde_json::from_value(json!({"httpGet": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}))?;
    fixture
        .pods(APP_NAMESPACE)
        .create(&PostParams::default(), &unready)
        .await?;
    let outcome = check_unready_pod(fixture).await;
    fixture
        .pods(APP_NAMESPACE)
        .delete("unready", &DeleteParams::default().grace_period(0))
        .await?;
    outcome?;
    Ok(String::new())
}

/// Checks that the Dataplane of Pod `unready` shows that the Pod is unready, and that the client's Envoy has no
/// endpoint for the Pod.
async fn check_unready_pod(fixture: &Fixture) -> Result<()> {
    wait_for(
        "Dataplane \"unready\" to show that its Pod is unready",
        TIMEOUT,
        async || {
            let dataplane = fixture.dataplanes(APP_NAMESPACE).get_opt("unready").await?;
            let pod = fixture.pods(APP_NAMESPACE).get("unready").await?;
            let mut statuses = pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten());
            let started = statuses.any(|container| container.started == Some(true));
            let data = dataplane.map(|dataplane| dataplane.data).unwrap_or_default();
            // An empty `health` means unready; an absent `health` means ready.
            let health = &data["spec"]["networking"]["inbound"][0]["health"];
            let unready = health.is_object() && health["ready"] != true;
            Ok(done_if(started && unready && !is_ready(&pod), (), || {
                format!("container started: {started}, Dataplane {data}")
            }))
        },
    )
    .await?;
    let address = ip(&fixture.pods(APP_NAMESPACE).get("unready").await?)?.to_owned();
    let client = fixture.ready_pod_name(APP_NAMESPACE, "client").await?;
    let endpoints = Envoy::new(&fixture.cluster.kubectl, APP_NAMESPACE, &client, "client")
        .endpoints(SERVER_SERVICE)
        .await?;
    ensure!(
        !endpoints.is_empty(),
        "the client's Envoy has no endpoints of {SERVER_SERVICE}"
    );
    let has_endpoint = endpoints
        .iter()
        .any(|endpoint| endpoint.address.ip().to_string() == address);
    ensure!(
        !has_endpoint,
        "the client's Envoy has an endpoint for the unready Pod: {endpoints:?}"
    );
    Ok(())
}

pub(super) async fn dataplane_is_deleted_with_its_pod(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let mut short_lived = demo_pod(fixture, APP_NAMESPACE, "short-lived", &["server"])?;
    // The Pod has no clients, so a short drain time suffices.
    short_lived
        .annotations_mut()
        .insert("kuma.io/sidecar-drain-time".to_owned(), "1s".to_owned());
    let pods = fixture.pods(APP_NAMESPACE);
    pods.create(&PostParams::default(), &short_lived).await?;
    wait_for(
        "Pod short-lived to be ready and to have a Dataplane",
        TIMEOUT,
        async || {
            let ready = is_ready(&pods.get("short-lived").await?);
            let has_dataplane = fixture
                .dataplanes(APP_NAMESPACE)
                .get_opt("short-lived")
                .await?
                .is_some();
            Ok(done_if(ready && has_dataplane, (), || {
                format!("ready: {ready}, has a Dataplane: {has_dataplane}")
            }))
        },
    )
    .await?;
    pods.delete("short-lived", &DeleteParams::default()).await?;
    wait_for(
        "the deletion of Pod short-lived and of its Dataplane",
        TIMEOUT,
        async || {
            let pod_exists = pods.get_opt("short-lived").await?.is_some();
            let dataplane_exists = fixture
                .dataplanes(APP_NAMESPACE)
                .get_opt("short-lived")
                .await?
                .is_some();
            Ok(done_if(!pod_exists && !dataplane_exists, (), || {
                format!("Pod exists: {pod_exists}, Dataplane exists: {dataplane_exists}")
            }))
        },
    )
    .await?;
    Ok(String::new())
}

/// Argument of `kubectl annotate`: an annotation whose value must be a port, but is not.
const INVALID_ANNOTATION: &str = "kuma.io/envoy-admin-port=nine";

pub(super) async fn invalid_annotation_is_named_in_an_event_and_does_not_change_the_dataplane(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    let name = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    let namespace_flag = format!("--namespace={APP_NAMESPACE}");
    let pod = fixture.pods(APP_NAMESPACE).get(&name).await?;
    let before = fixture.dataplanes(APP_NAMESPACE).get(&name).await?;
    let admin_port = pod.annotations().get("kuma.io/envoy-admin-port");
    let original_annotation = format!(
        "kuma.io/envoy-admin-port={}",
        admin_port.with_context(|| format!("Pod {name} has no annotation with the admin port"))?
    );
    kubectl
        .run(&[
            "annotate",
            "pod",
            &name,
            "--overwrite",
            INVALID_ANNOTATION,
            &namespace_flag,
        ])
        .await?;
    let outcome = wait_for_reported_failure(fixture, &name).await;
    let after = fixture.dataplanes(APP_NAMESPACE).get(&name).await;
    kubectl
        .run(&[
            "annotate",
            "pod",
            &name,
            "--overwrite",
            &original_annotation,
            &namespace_flag,
        ])
        .await?;
    let failures = outcome?;
    let after = after?;
    ensure!(
        after.data["spec"] == before.data["spec"],
        "the Dataplane has changed: {:#}",
        after.data["spec"]
    );
    Ok(format!("{failures} failures counted"))
}

/// Waits for the Event about the Pod's invalid annotation. Returns the number of failures in
/// `kuma_cp_dataplane_generation_failures_total`.
async fn wait_for_reported_failure(fixture: &Fixture, pod: &str) -> Result<f64> {
    let kubectl = &fixture.cluster.kubectl;
    let namespace_flag = format!("--namespace={APP_NAMESPACE}");
    let field_selector =
        format!("--field-selector=involvedObject.name={pod},reason=FailedToGenerateKumaDataplane");
    let expected = "Failed to generate Kuma Dataplane: \
                    failed to parse annotation \"kuma.io/envoy-admin-port\": \"nine\"";
    wait_for("an Event about the annotation of the Pod", TIMEOUT, async || {
        let output = "--output=jsonpath={.items[*].message}";
        let text = kubectl
            .run(&["get", "events", &namespace_flag, &field_selector, output])
            .await?;
        Ok(done_if(text.contains(expected), (), || format!("{text:?}")))
    })
    .await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = kubectl
        .port_forward(SYSTEM_NAMESPACE, &target, DIAGNOSTICS_PORT)
        .await?;
    let text = diagnostics.get("/metrics").await?;
    let metric = "kuma_cp_dataplane_generation_failures_total";
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    let value: f64 = value
        .with_context(|| format!("metric {metric} is missing from\n{text}"))?
        .parse()?;
    ensure!(value >= 1.0, "metric {metric} is {value}, but must be at least 1");
    Ok(value)
}
