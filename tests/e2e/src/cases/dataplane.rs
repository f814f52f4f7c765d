//! Dataplanes that the control plane derives from Pods and Services, as users see them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{ip, is_ready, pod};
use crate::world::{APP, CONTROL_PLANE, OUTSIDE, SERVER, SYSTEM, World};

const DEADLINE: Duration = Duration::from_secs(30);
/// Port of the inbound of a service-less Pod.
const SERVICE_LESS: u64 = 49151;

pub(super) async fn every_injected_pod_has_a_dataplane_and_no_other_pod(world: &World) -> Result<Note> {
    world.deployed().await?;
    let mut expected = Vec::new();
    for pod in world.ready_pods(APP, "server").await? {
        let tags = json!({
            "app": "server",
            "version": "v1",
            "kuma.io/service": SERVER,
            "kuma.io/protocol": "http",
            "k8s.kuma.io/namespace": APP,
            "k8s.kuma.io/service-name": "server",
            "k8s.kuma.io/service-port": "80",
        });
        check_dataplane(world, &pod, 8080, &tags).await?;
        expected.push(pod.name_any());
    }
    for pod in world.ready_pods(APP, "client").await? {
        let tags = json!({
            "app": "client",
            "kuma.io/service": "client_e2e-mesh_svc",
            "kuma.io/protocol": "tcp",
            "kuma.io/instance": pod.name_any(),
            "k8s.kuma.io/namespace": APP,
        });
        check_dataplane(world, &pod, SERVICE_LESS, &tags).await?;
        expected.push(pod.name_any());
    }
    expected.sort();
    let found: Vec<String> = world
        .dataplanes(APP)
        .list(&ListParams::default())
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    ensure!(found == expected, "Dataplanes {found:?} for Pods {expected:?}");
    let outside = world
        .dataplanes(OUTSIDE)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    ensure!(outside == 0, "{outside} Dataplanes in {OUTSIDE}");
    Ok(String::new())
}

/// Checks the result of `kubectl get dataplanes <podName>` against the Pod.
async fn check_dataplane(world: &World, pod: &Pod, port: u64, tags: &Value) -> Result<()> {
    let (name, namespace_flag) = (pod.name_any(), format!("--namespace={APP}"));
    wait_for(&format!("Dataplane {name}"), DEADLINE, async || {
        let text = world
            .cluster
            .kubectl
            .run(&["get", "dataplanes", &name, &namespace_flag, "--output=json"])
            .await?;
        let dataplane: Value = serde_json::from_str(&text)?;
        let networking = &dataplane["spec"]["networking"];
        let inbounds = networking["inbound"].as_array().map_or(&[][..], Vec::as_slice);
        let good = inbounds.len() == 1
            && networking["address"] == ip(pod)?
            && inbounds[0]["port"] == port
            && inbounds[0]["tags"].as_object() == with_template_hash(tags, pod).as_object()
            && inbounds[0]["health"]["ready"] == true
            && dataplane["mesh"] == "default"
            && dataplane["metadata"]["ownerReferences"][0]["uid"] == json!(pod.uid());
        Ok(done_if(good, (), || format!("{dataplane:#}")))
    })
    .await
}

/// Adds the tag of the label that the ReplicaSet controller sets on the Pod.
fn with_template_hash(tags: &Value, pod: &Pod) -> Value {
    let mut all = tags.clone();
    if let Some(hash) = pod.labels().get("pod-template-hash") {
        all["pod-template-hash"] = hash.as_str().into();
    }
    all
}

pub(super) async fn unready_pod_is_marked_and_gets_no_traffic(world: &World) -> Result<Note> {
    world.deployed().await?;
    let mut unready = pod(world, APP, "unready", &["server"])?;
    unready.labels_mut().insert("app".to_owned(), "server".to_owned());
    let container = unready
        .spec
        .as_mut()
        .and_then(|spec| spec.containers.first_mut())
        .context("no container")?;
    container.ports = serde_json::from_value(json!([{"name": "http", "containerPort": 8080}]))?;
    // No process listens on this port.
    container.readiness_probe =
        serde_json::from_value(json!({"httpGet": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}))?;
    world.pods(APP).create(&PostParams::default(), &unready).await?;
    let outcome = gets_no_traffic(world).await;
    world
        .pods(APP)
        .delete("unready", &DeleteParams::default().grace_period(0))
        .await?;
    outcome?;
    Ok(String::new())
}

async fn gets_no_traffic(world: &World) -> Result<()> {
    wait_for(
        "Dataplane unready to be marked as unready",
        DEADLINE,
        async || {
            let dataplane = world.dataplanes(APP).get_opt("unready").await?;
            let pod = world.pods(APP).get("unready").await?;
            let started = pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten());
            let runs = started
                .into_iter()
                .any(|container| container.started == Some(true));
            let data = dataplane.map(|dataplane| dataplane.data).unwrap_or_default();
            // `{}` and `{"ready": false}` are equal; an absent `health` means ready.
            let health = &data["spec"]["networking"]["inbound"][0]["health"];
            let unready = health.is_object() && health["ready"] != true;
            Ok(done_if(runs && unready && !is_ready(&pod), (), || {
                format!("container started: {runs}, Dataplane {data}")
            }))
        },
    )
    .await?;
    let address = ip(&world.pods(APP).get("unready").await?)?.to_owned();
    let client = world.pod(APP, "client").await?;
    let endpoints = Envoy::new(&world.cluster.kubectl, APP, &client, "client")
        .endpoints(SERVER)
        .await?;
    ensure!(
        !endpoints.is_empty(),
        "the client's Envoy has no endpoints of {SERVER}"
    );
    let known = endpoints
        .iter()
        .any(|endpoint| endpoint.address.ip().to_string() == address);
    ensure!(
        !known,
        "the client's Envoy has an endpoint for the unready Pod: {endpoints:?}"
    );
    Ok(())
}

pub(super) async fn dataplane_is_deleted_with_its_pod(world: &World) -> Result<Note> {
    world.deployed().await?;
    let mut short = pod(world, APP, "short-lived", &["server"])?;
    // The Pod has no clients, so it need not drain.
    short
        .annotations_mut()
        .insert("kuma.io/sidecar-drain-time".to_owned(), "1s".to_owned());
    let pods = world.pods(APP);
    pods.create(&PostParams::default(), &short).await?;
    wait_for(
        "Pod short-lived to be ready and to have a Dataplane",
        DEADLINE,
        async || {
            let ready = is_ready(&pods.get("short-lived").await?);
            let known = world.dataplanes(APP).get_opt("short-lived").await?.is_some();
            Ok(done_if(ready && known, (), || {
                format!("ready: {ready}, has a Dataplane: {known}")
            }))
        },
    )
    .await?;
    pods.delete("short-lived", &DeleteParams::default()).await?;
    wait_for(
        "the deletion of Pod short-lived and of its Dataplane",
        DEADLINE,
        async || {
            let pod = pods.get_opt("short-lived").await?.is_some();
            let dataplane = world.dataplanes(APP).get_opt("short-lived").await?.is_some();
            Ok(done_if(!pod && !dataplane, (), || {
                format!("Pod exists: {pod}, Dataplane exists: {dataplane}")
            }))
        },
    )
    .await?;
    Ok(String::new())
}

/// Annotation whose value is not a port.
const INVALID_ADMIN_PORT: &str = "kuma.io/envoy-admin-port=nine";

pub(super) async fn dataplane_that_cannot_be_generated_is_kept_and_an_event_names_the_reason(
    world: &World,
) -> Result<Note> {
    world.deployed().await?;
    let kubectl = &world.cluster.kubectl;
    let name = world.pod(APP, "server").await?;
    let namespace_flag = format!("--namespace={APP}");
    let pod = world.pods(APP).get(&name).await?;
    let before = world.dataplanes(APP).get(&name).await?;
    let annotated = pod.annotations().get("kuma.io/envoy-admin-port");
    let original = format!(
        "kuma.io/envoy-admin-port={}",
        annotated.context("the Pod has no annotation with the admin port")?
    );
    kubectl
        .run(&[
            "annotate",
            "pod",
            &name,
            "--overwrite",
            INVALID_ADMIN_PORT,
            &namespace_flag,
        ])
        .await?;
    let outcome = failure_is_reported(world, &name).await;
    let kept = world.dataplanes(APP).get(&name).await;
    kubectl
        .run(&[
            "annotate",
            "pod",
            &name,
            "--overwrite",
            &original,
            &namespace_flag,
        ])
        .await?;
    let failures = outcome?;
    let kept = kept?;
    ensure!(
        kept.data["spec"] == before.data["spec"],
        "{:#}",
        kept.data["spec"]
    );
    Ok(format!("{failures} failures counted"))
}

/// Waits for the Event on the Pod. Returns the value of the metric.
async fn failure_is_reported(world: &World, pod: &str) -> Result<f64> {
    let kubectl = &world.cluster.kubectl;
    let namespace_flag = format!("--namespace={APP}");
    let about = format!("--field-selector=involvedObject.name={pod},reason=FailedToGenerateKumaDataplane");
    let expected = "Failed to generate Kuma Dataplane: failed to parse annotation \"kuma.io/envoy-admin-port\": \"nine\"";
    wait_for("an Event on the Pod", DEADLINE, async || {
        let message = "--output=jsonpath={.items[*].message}";
        let text = kubectl
            .run(&["get", "events", &namespace_flag, &about, message])
            .await?;
        Ok(done_if(text.contains(expected), (), || format!("{text:?}")))
    })
    .await?;
    let target = format!("deployment/{CONTROL_PLANE}");
    let diagnostics = kubectl.forward(SYSTEM, &target, 5680).await?;
    let text = diagnostics.get("/metrics").await?;
    let metric = "kuma_cp_dataplane_generation_failures_total ";
    let value = text.lines().find_map(|line| line.strip_prefix(metric));
    let value: f64 = value.with_context(|| format!("no {metric}in\n{text}"))?.parse()?;
    ensure!(value >= 1.0, "{metric}is {value}");
    Ok(value)
}
