//! Meshes: validation, status, initial permission, and passthrough.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::harness::demo;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::world::{APP, OUTSIDE, World};

const DEADLINE: Duration = Duration::from_secs(30);

/// Invalid objects, with the expected part of the error.
const INVALID: [(&str, &str); 6] = [
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: team.one}, spec: {}}",
        "metadata.name must be a DNS label",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: team}, spec: {mtls: {enabledBackend: ca, backends: [
         {name: ca, type: builtin, dpCert: {rotation: {expiration: soon}}}]}}}",
        "spec.mtls.backends[0].dpCert.rotation.expiration: ",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: team}, spec: {mtls: {enabledBackend: v, backends: [
         {name: v, type: vault}]}}}",
        "spec.mtls.backends[0].type: \"vault\" is not supported: use builtin",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: by-hand, namespace: default}, mesh: nowhere,
         spec: {networking: {address: 0.0.0.0, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}}",
        "mesh: there is no Mesh \"nowhere\": create it or name another; \
         spec.networking.address: must not be 0.0.0.0 or ::",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: by-hand, namespace: default}, mesh: default,
         spec: {networking: {address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: web,
         kuma.io/protocol: mongo}}]}}}",
        "tag \"kuma.io/protocol\" has an invalid value \"mongo\". Allowed values: grpc, http, http2, kafka, tcp",
    ),
    (
        "{apiVersion: kuma.io/v1alpha1, kind: MeshTrafficPermission, metadata: {name: p, namespace: default}, spec: {
         targetRef: {kind: Mesh}, from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]}}",
        "MeshTrafficPermission can only be placed in kong-mesh-system namespace",
    ),
];

pub(super) async fn invalid_resources_are_rejected_with_field_and_remedy(world: &World) -> Result<Note> {
    world.installed().await?;
    world.mesh_is_created().await?;
    let dry_run = ["apply", "--dry-run=server", "--filename=-"];
    for (object, expected) in INVALID {
        let output = world.cluster.kubectl.attempt(&dry_run, object).await?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{object} was accepted");
        ensure!(
            message.contains(expected),
            "{expected:?} is missing from: {message}"
        );
    }
    Ok(format!("{} invalid objects", INVALID.len()))
}

pub(super) async fn status_shows_the_mtls_mode_and_counts(world: &World) -> Result<Note> {
    world.deployed().await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kuma.io", "v1alpha1", "Mesh"));
    let meshes: Api<DynamicObject> = Api::all_with(world.cluster.client.clone(), &kind);
    let status = wait_for("the status of Mesh default", DEADLINE, async || {
        let status = meshes.get("default").await?.data["status"].clone();
        let complete = status["mtls"] == "STRICT"
            && status["conditions"][0]["type"] == "Accepted"
            && status["conditions"][0]["status"] == "True"
            && status["dataplanes"].as_u64() >= Some(2)
            && status["services"].as_u64() >= Some(2);
        Ok(done_if(complete, status.clone(), || format!("{status:#}")))
    })
    .await?;
    let text = world.cluster.kubectl.run(&["get", "meshes"]).await?;
    for expected in ["MTLS", "BACKEND", "DATAPLANES", "STRICT", "ca-1"] {
        ensure!(text.contains(expected), "no {expected} in\n{text}");
    }
    Ok(format!(
        "{} Dataplanes of {} services",
        status["dataplanes"], status["services"]
    ))
}

pub(super) async fn initial_permission_allows_everything_and_stays_deleted(world: &World) -> Result<Note> {
    world.installed().await?;
    let kubectl = &world.cluster.kubectl;
    let namespace_flag = "--namespace=kong-mesh-system";
    let read = async |name: &str| -> Result<Value> {
        let arguments = [
            "get",
            "meshtrafficpermission",
            name,
            namespace_flag,
            "--output=json",
        ];
        Ok(serde_json::from_str(&kubectl.run(&arguments).await?)?)
    };
    let allowed = read("allow-all-default").await?;
    ensure!(
        allowed["spec"]
            == json!({"targetRef": {"kind": "Mesh"},
                "from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]}),
        "{:#}",
        allowed["spec"]
    );
    let mesh = "{apiVersion: kuma.io/v1alpha1, kind: Mesh, metadata: {name: e2e-second}, spec: {}}";
    kubectl.apply(mesh).await?;
    let outcome = async {
        wait_for("allow-all of a second Mesh", DEADLINE, async || {
            let found = read("allow-all-e2e-second").await;
            Ok(done_if(found.is_ok(), (), || format!("{found:?}")))
        })
        .await?;
        kubectl
            .run(&[
                "delete",
                "meshtrafficpermission",
                "allow-all-e2e-second",
                namespace_flag,
            ])
            .await?;
        // A change of the Mesh does not restore a deleted permission.
        let patch = "--patch={\"spec\": {\"networking\": {\"outbound\": {\"passthrough\": true}}}}";
        kubectl
            .run(&["patch", "mesh", "e2e-second", "--type=merge", patch])
            .await?;
        wait_for("the status of the changed Mesh", DEADLINE, async || {
            let output =
                "--output=jsonpath={.metadata.generation} {.status.conditions[0].observedGeneration}";
            let text = kubectl.run(&["get", "mesh", "e2e-second", output]).await?;
            let current = text
                .split_once(' ')
                .is_some_and(|(generation, observed)| generation == observed);
            Ok(done_if(current, (), || text))
        })
        .await?;
        ensure!(
            read("allow-all-e2e-second").await.is_err(),
            "the deleted permission was created a second time"
        );
        Ok(())
    };
    let outcome = outcome.await;
    kubectl.delete(mesh, true).await?;
    outcome?;
    Ok(String::new())
}

pub(super) async fn without_passthrough_no_traffic_leaves_the_mesh(world: &World) -> Result<Note> {
    world.deployed().await?;
    let kubectl = &world.cluster.kubectl;
    let client = world.pod(APP, "client").await?;
    let url = format!("http://server.{OUTSIDE}.svc/");
    demo::get(kubectl, APP, &client, "client", &url).await?;
    passthrough(world, false).await?;
    let failure = wait_for("requests that leave the mesh to fail", DEADLINE, async || {
        let failure = demo::get_expecting_failure(kubectl, APP, &client, &url).await;
        let succeeded = failure.is_err();
        Ok(done_if(!succeeded, failure.unwrap_or_default(), || {
            "requests still succeed".to_owned()
        }))
    })
    .await;
    // Requests within the mesh still succeed.
    let inside = demo::get(kubectl, APP, &client, "client", crate::world::SERVER_URL).await;
    passthrough(world, true).await?;
    let failure = failure?;
    inside?;
    wait_for("requests that leave the mesh to succeed", DEADLINE, async || {
        let response = demo::get(kubectl, APP, &client, "client", &url).await;
        Ok(done_if(response.is_ok(), (), || format!("{response:?}")))
    })
    .await?;
    Ok(failure)
}

async fn passthrough(world: &World, on: bool) -> Result<()> {
    let patch = json!({"spec": {"networking": {"outbound": {"passthrough": on}}}});
    let patch = format!("--patch={patch}");
    world
        .cluster
        .kubectl
        .run(&["patch", "mesh", "default", "--type=merge", &patch])
        .await?;
    Ok(())
}
