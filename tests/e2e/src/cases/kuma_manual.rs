//! The example of Kuma's manual page "Data plane on Kubernetes": the Pod of the example must get the Dataplane that the
//! page shows. The control plane must also write the status of the Dataplane, and revert an edit or a deletion.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{demo_pod, ip, is_ready};

/// Time limit of each condition that the test waits for.
const TIMEOUT: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "my-namespace";
/// Name of the example's Pod and of its Dataplane.
const NAME: &str = "my-app";

const NAMESPACE_MANIFEST: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: my-namespace
  labels: {kuma.io/sidecar-injection: enabled}
";

pub(super) async fn example_pod_gets_the_documented_dataplane(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.cluster.kubectl.apply(NAMESPACE_MANIFEST).await?;
    let outcome = check_example(fixture).await;
    fixture.cluster.kubectl.delete(NAMESPACE_MANIFEST, true).await?;
    outcome?;
    Ok(String::new())
}

async fn check_example(fixture: &Fixture) -> Result<()> {
    let services = Api::<Service>::namespaced(fixture.cluster.client.clone(), NAMESPACE);
    for service in example_services()? {
        services.create(&PostParams::default(), &service).await?;
    }
    let mut app = demo_pod(fixture, NAMESPACE, NAME, &["server"])?;
    app.labels_mut().insert("foo".to_owned(), "bar".to_owned());
    fixture
        .pods(NAMESPACE)
        .create(&PostParams::default(), &app)
        .await?;
    let app = wait_for("Pod my-app to be ready", TIMEOUT, async || {
        let app = fixture.pods(NAMESPACE).get(NAME).await?;
        Ok(done_if(is_ready(&app), app.clone(), || {
            format!("{:?}", app.status)
        }))
    })
    .await?;
    let dataplane = wait_for("Dataplane my-app to be ready", TIMEOUT, async || {
        let dataplane = read_dataplane(fixture).await?;
        let status = &dataplane["status"];
        let done = status["inbounds"]["summary"] == "3/3"
            && condition_status(status, "ConfigurationAccepted") == "True";
        Ok(done_if(done, dataplane.clone(), || format!("{dataplane:#}")))
    })
    .await?;
    check_fields(&dataplane, &app)?;
    check_status(&dataplane)?;
    wait_for_event(fixture, "CreatedKumaDataplane").await?;
    check_kubectl_columns(fixture).await?;
    check_that_an_edit_is_reverted(fixture).await?;
    check_that_a_deletion_is_reverted(fixture, &dataplane).await
}

fn example_services() -> Result<Vec<Service>> {
    let port = |name: &str, protocol: &str, port: u16, target: u16| {
        json!({
            "name": name, "protocol": "TCP", "appProtocol": protocol, "port": port, "targetPort": target,
        })
    };
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

/// Returns the Dataplane of the example; null if it does not exist.
async fn read_dataplane(fixture: &Fixture) -> Result<Value> {
    let found = fixture.dataplanes(NAMESPACE).get_opt(NAME).await?;
    Ok(serde_json::to_value(found)?)
}

/// Checks the fields that the manual page shows in the example's Dataplane. Also checks the labels and the owner, which
/// the page describes in prose.
fn check_fields(dataplane: &Value, app: &Pod) -> Result<()> {
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
    // Inbounds are sorted by the name of the Service, then in the order of the Service's ports.
    let expected = json!([
        inbound(8080, "http", "my-other-service", 81),
        inbound(8080, "http", "my-service", 80),
        inbound(8081, "grpc", "my-service", 1200),
    ]);
    ensure!(
        networking["inbound"] == expected,
        "the inbounds of the Dataplane are {:#} instead of {expected:#}",
        networking["inbound"]
    );
    ensure!(
        networking["address"] == ip(app)?,
        "the address of the Dataplane is {}, not that of the Pod",
        networking["address"]
    );
    let transparent_proxying = json!({
        "redirectPortInbound": 15006, "redirectPortInboundV6": 15010, "redirectPortOutbound": 15001,
    });
    ensure!(
        networking["transparentProxying"] == transparent_proxying,
        "transparentProxying of the Dataplane is {:#} instead of {transparent_proxying:#}",
        networking["transparentProxying"]
    );
    ensure!(
        networking["admin"] == json!({"port": 9901}),
        "networking.admin of the Dataplane is {:#} instead of port 9901",
        networking["admin"]
    );
    ensure!(
        dataplane["mesh"] == "default",
        "the mesh of the Dataplane is {:#}, not default",
        dataplane["mesh"]
    );
    ensure!(
        dataplane["metadata"]["labels"] == json!({"kuma.io/mesh": "default"}),
        "the Dataplane, which has several services, must have only the label of the mesh, but has {:#}",
        dataplane["metadata"]["labels"]
    );
    let owner = json!({
        "apiVersion": "v1", "kind": "Pod", "name": NAME, "uid": app.uid(),
        "controller": true, "blockOwnerDeletion": true,
    });
    ensure!(
        dataplane["metadata"]["ownerReferences"] == json!([owner]),
        "the owner references of the Dataplane are {:#} instead of {owner:#} alone",
        dataplane["metadata"]["ownerReferences"]
    );
    Ok(())
}

fn check_status(dataplane: &Value) -> Result<()> {
    let status = &dataplane["status"];
    ensure!(
        status["inbounds"]["ready"] == 3 && status["inbounds"]["total"] == 3,
        "the Dataplane's status does not count 3 ready inbounds of 3: {status:#}"
    );
    let sidecar = &status["sidecar"];
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    ensure!(
        is_text(&sidecar["version"])
            && is_text(&sidecar["envoyVersion"])
            && is_text(&sidecar["controlPlane"]),
        "status.sidecar lacks a version or the replica of the control plane: {sidecar:#}"
    );
    ensure!(
        is_text(&sidecar["configuration"]["acknowledged"])
            && sidecar["configuration"].get("lastRejection").is_none(),
        "the sidecar has acknowledged no configuration, or rejected one: {sidecar:#}"
    );
    for condition_type in ["Ready", "Connected", "ConfigurationAccepted"] {
        ensure!(
            condition_status(status, condition_type) == "True",
            "condition {condition_type} is not True: {status:#}"
        );
    }
    Ok(())
}

/// Returns the `status` of a condition; null if the condition does not exist.
fn condition_status(status: &Value, condition_type: &str) -> Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut of_type = conditions.filter(|condition| condition["type"] == condition_type);
    of_type
        .next()
        .map_or(Value::Null, |condition| condition["status"].clone())
}

/// Waits for an Event about the Pod.
async fn wait_for_event(fixture: &Fixture, reason: &str) -> Result<()> {
    let events = Api::<Event>::namespaced(fixture.cluster.client.clone(), NAMESPACE);
    wait_for(&format!("Event {reason} about the Pod"), TIMEOUT, async || {
        let all = events.list(&ListParams::default()).await?.items;
        let found = all.iter().any(|event| {
            let object = event.regarding.as_ref();
            let is_about_pod = object.is_some_and(|object| {
                object.kind.as_deref() == Some("Pod") && object.name.as_deref() == Some(NAME)
            });
            is_about_pod && event.reason.as_deref() == Some(reason)
        });
        let reasons: Vec<_> = all.into_iter().filter_map(|event| event.reason).collect();
        Ok(done_if(found, (), || {
            format!("the Events have the reasons {reasons:?}")
        }))
    })
    .await
}

/// Checks the columns that kubectl prints for the Dataplane, and that `kubectl get kuma` lists the Dataplane: the
/// custom resources of the mesh belong to the category `kuma`.
async fn check_kubectl_columns(fixture: &Fixture) -> Result<()> {
    let namespace_flag = format!("--namespace={NAMESPACE}");
    let table = fixture
        .cluster
        .kubectl
        .run(&["get", "dp", &namespace_flag])
        .await?;
    for expected in [
        "MESH",
        "SERVICES",
        "READY",
        "ADDRESS",
        "AGE",
        "3/3",
        "my-service_my-namespace_svc_80",
    ] {
        ensure!(
            table.contains(expected),
            "{expected} is missing from the Dataplanes that kubectl prints:\n{table}"
        );
    }
    let all = fixture
        .cluster
        .kubectl
        .run(&["get", "kuma", &namespace_flag, "--output=name"])
        .await?;
    ensure!(
        all.contains("dataplane.kuma.io/my-app"),
        "the Dataplane is missing from the category kuma: {all}"
    );
    Ok(())
}

async fn check_that_an_edit_is_reverted(fixture: &Fixture) -> Result<()> {
    let edit = json!({"spec": {"networking": {"address": "10.9.9.9", "advertisedAddress": "10.9.9.8"}}});
    let edited = fixture
        .dataplanes(NAMESPACE)
        .patch(NAME, &PatchParams::default(), &Patch::Merge(edit))
        .await?;
    let edited_version = json!(edited.resource_version());
    wait_for("the edit to be reverted", TIMEOUT, async || {
        let dataplane = read_dataplane(fixture).await?;
        let networking = &dataplane["spec"]["networking"];
        let reverted = dataplane["metadata"]["resourceVersion"] != edited_version
            && networking["address"] != "10.9.9.9"
            && networking.get("advertisedAddress").is_none();
        Ok(done_if(reverted, (), || format!("{networking:#}")))
    })
    .await
}

async fn check_that_a_deletion_is_reverted(fixture: &Fixture, deleted: &Value) -> Result<()> {
    let dataplanes = fixture.dataplanes(NAMESPACE);
    dataplanes.delete(NAME, &DeleteParams::default()).await?;
    let deleted_uid = deleted["metadata"]["uid"]
        .as_str()
        .context("the Dataplane has no uid")?;
    wait_for(
        "the Dataplane to be recreated, with its status",
        TIMEOUT,
        async || {
            let recreated = dataplanes.get_opt(NAME).await?;
            let serving_replica = recreated
                .as_ref()
                .filter(|dataplane| dataplane.uid().is_some_and(|uid| uid != deleted_uid))
                .and_then(|dataplane| dataplane.data["status"]["sidecar"]["controlPlane"].as_str());
            Ok(done_if(serving_replica.is_some(), (), || {
                format!("{recreated:?}")
            }))
        },
    )
    .await
}
