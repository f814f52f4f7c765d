//! The Dataplane example of the manual page: its fields, its status, and the repair of manual changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::harness::runner::Note;
use crate::harness::wait::{until, when};
use crate::pods::{ip, is_ready, pod};
use crate::world::World;

const SOON: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "my-namespace";
const NAME: &str = "my-app";

const NAMESPACE_MANIFEST: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: my-namespace
  labels: {kuma.io/sidecar-injection: enabled}
";

pub(super) async fn example_of_the_manual_page_gives_its_dataplane(world: &World) -> Result<Note> {
    world.installed().await?;
    world.cluster.kubectl.apply(NAMESPACE_MANIFEST).await?;
    let outcome = example(world).await;
    world.cluster.kubectl.delete(NAMESPACE_MANIFEST, true).await?;
    outcome?;
    Ok(String::new())
}

async fn example(world: &World) -> Result<()> {
    let services = Api::<Service>::namespaced(world.cluster.client.clone(), NAMESPACE);
    for service in services_of_the_page()? {
        services.create(&PostParams::default(), &service).await?;
    }
    let mut app = pod(world, NAMESPACE, NAME, &["server"])?;
    app.labels_mut().insert("foo".to_owned(), "bar".to_owned());
    world.pods(NAMESPACE).create(&PostParams::default(), &app).await?;
    let app = until("pod my-app to be ready", SOON, async || {
        let app = world.pods(NAMESPACE).get(NAME).await?;
        Ok(when(is_ready(&app), app.clone(), || format!("{:?}", app.status)))
    })
    .await?;
    let dataplane = until("Dataplane my-app to be ready", SOON, async || {
        let dataplane = read(world).await?;
        let status = &dataplane["status"];
        let done =
            status["inbounds"]["summary"] == "3/3" && condition(status, "ConfigurationAccepted") == "True";
        Ok(when(done, dataplane.clone(), || format!("{dataplane:#}")))
    })
    .await?;
    compare(&dataplane, &app)?;
    compare_status(&dataplane)?;
    has_event(world, "CreatedKumaDataplane").await?;
    columns(world).await?;
    hand_edit(world).await?;
    hand_deletion(world, &dataplane).await
}

fn services_of_the_page() -> Result<Vec<Service>> {
    let port = |name: &str, protocol: &str, port: u16, target: u16| json!({"name": name, "protocol": "TCP", "appProtocol": protocol, "port": port, "targetPort": target});
    Ok(serde_json::from_value(json!([
        {
            "metadata": {"name": "my-service"},
            "spec": {"selector": {"app": "my-app"}, "type": "ClusterIP",
                "ports": [port("port1", "http", 80, 8080), port("port2", "grpc", 1200, 8081)]},
        },
        {
            "metadata": {"name": "my-other-service"},
            "spec": {"selector": {"foo": "bar"}, "type": "ClusterIP", "ports": [port("only", "http", 81, 8080)]},
        },
    ]))?)
}

async fn read(world: &World) -> Result<Value> {
    let found = world.dataplanes(NAMESPACE).get_opt(NAME).await?;
    Ok(serde_json::to_value(found)?)
}

/// Compares every field of the example, and the settings of the Pod that the manual page describes.
fn compare(dataplane: &Value, app: &Pod) -> Result<()> {
    let networking = &dataplane["spec"]["networking"];
    let inbound = |container_port: u16, protocol: &str, service: &str, service_port: u16| {
        json!({
            "port": container_port,
            "health": {"ready": true},
            "tags": {
                "app": "my-app",
                "foo": "bar",
                "kuma.io/protocol": protocol,
                "kuma.io/service": format!("{service}_{NAMESPACE}_svc_{service_port}"),
                "k8s.kuma.io/service-name": service,
                "k8s.kuma.io/service-port": service_port.to_string(),
                "k8s.kuma.io/namespace": NAMESPACE,
            },
        })
    };
    // Inbounds are sorted by Service name, then in the order of its ports.
    let expected = json!([
        inbound(8080, "http", "my-other-service", 81),
        inbound(8080, "http", "my-service", 80),
        inbound(8081, "grpc", "my-service", 1200),
    ]);
    ensure!(
        networking["inbound"] == expected,
        "inbounds {:#} instead of {expected:#}",
        networking["inbound"]
    );
    ensure!(
        networking["address"] == ip(app)?,
        "address {}",
        networking["address"]
    );
    let redirect = json!({
        "redirectPortInbound": 15006, "redirectPortInboundV6": 15010, "redirectPortOutbound": 15001,
    });
    ensure!(
        networking["transparentProxying"] == redirect,
        "{:#}",
        networking["transparentProxying"]
    );
    ensure!(
        networking["admin"] == json!({"port": 9901}),
        "{:#}",
        networking["admin"]
    );
    ensure!(dataplane["mesh"] == "default", "{:#}", dataplane["mesh"]);
    ensure!(
        dataplane["metadata"]["labels"] == json!({"kuma.io/mesh": "default"}),
        "several services make no label: {:#}",
        dataplane["metadata"]["labels"]
    );
    let owner = json!({
        "apiVersion": "v1", "kind": "Pod", "name": NAME, "uid": app.uid(),
        "controller": true, "blockOwnerDeletion": true,
    });
    ensure!(
        dataplane["metadata"]["ownerReferences"] == json!([owner]),
        "{:#}",
        dataplane["metadata"]["ownerReferences"]
    );
    Ok(())
}

fn compare_status(dataplane: &Value) -> Result<()> {
    let status = &dataplane["status"];
    ensure!(
        status["inbounds"]["ready"] == 3 && status["inbounds"]["total"] == 3,
        "{status:#}"
    );
    let sidecar = &status["sidecar"];
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    ensure!(
        text(&sidecar["version"]) && text(&sidecar["envoyVersion"]) && text(&sidecar["controlPlane"]),
        "{sidecar:#}"
    );
    ensure!(
        text(&sidecar["configuration"]["acknowledged"])
            && sidecar["configuration"].get("lastRejection").is_none(),
        "{sidecar:#}"
    );
    for kind in ["Ready", "Connected", "ConfigurationAccepted"] {
        ensure!(condition(status, kind) == "True", "{kind}: {status:#}");
    }
    Ok(())
}

fn condition(status: &Value, kind: &str) -> Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut of_kind = conditions.filter(|condition| condition["type"] == kind);
    of_kind
        .next()
        .map_or(Value::Null, |condition| condition["status"].clone())
}

async fn has_event(world: &World, reason: &str) -> Result<()> {
    let events = Api::<Event>::namespaced(world.cluster.client.clone(), NAMESPACE);
    until(&format!("Event {reason} on the Pod"), SOON, async || {
        let all = events.list(&ListParams::default()).await?.items;
        let found = all.iter().any(|event| {
            let about = event.regarding.as_ref();
            let pod = about.is_some_and(|about| {
                about.kind.as_deref() == Some("Pod") && about.name.as_deref() == Some(NAME)
            });
            pod && event.reason.as_deref() == Some(reason)
        });
        let reasons: Vec<_> = all.into_iter().filter_map(|event| event.reason).collect();
        Ok(when(found, (), || format!("{reasons:?}")))
    })
    .await
}

/// Checks the columns of kubectl.
async fn columns(world: &World) -> Result<()> {
    let here = format!("--namespace={NAMESPACE}");
    let text = world.cluster.kubectl.run(&["get", "dp", &here]).await?;
    for expected in [
        "MESH",
        "SERVICES",
        "READY",
        "ADDRESS",
        "AGE",
        "3/3",
        "my-service_my-namespace_svc_80",
    ] {
        ensure!(text.contains(expected), "no {expected} in\n{text}");
    }
    let all = world
        .cluster
        .kubectl
        .run(&["get", "kuma", &here, "--output=name"])
        .await?;
    ensure!(all.contains("dataplane.kuma.io/my-app"), "category kuma: {all}");
    Ok(())
}

async fn hand_edit(world: &World) -> Result<()> {
    let by_hand = json!({"spec": {"networking": {"address": "10.9.9.9", "advertisedAddress": "10.9.9.8"}}});
    let edited = world
        .dataplanes(NAMESPACE)
        .patch(NAME, &PatchParams::default(), &Patch::Merge(by_hand))
        .await?;
    let version = json!(edited.resource_version());
    until("the edit to be undone", SOON, async || {
        let dataplane = read(world).await?;
        let networking = &dataplane["spec"]["networking"];
        let undone = dataplane["metadata"]["resourceVersion"] != version
            && networking["address"] != "10.9.9.9"
            && networking.get("advertisedAddress").is_none();
        Ok(when(undone, (), || format!("{networking:#}")))
    })
    .await
}

async fn hand_deletion(world: &World, before: &Value) -> Result<()> {
    let dataplanes = world.dataplanes(NAMESPACE);
    dataplanes.delete(NAME, &DeleteParams::default()).await?;
    let uid = before["metadata"]["uid"].as_str().context("a uid")?;
    until("the Dataplane to come back, with its status", SOON, async || {
        let back = dataplanes.get_opt(NAME).await?;
        let sidecar = back
            .as_ref()
            .filter(|back| back.uid().is_some_and(|new| new != uid))
            .and_then(|back| back.data["status"]["sidecar"]["controlPlane"].as_str());
        Ok(when(sidecar.is_some(), (), || format!("{back:?}")))
    })
    .await
}
