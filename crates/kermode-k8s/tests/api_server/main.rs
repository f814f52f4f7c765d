//! Tests with a real API server: the writers of Dataplanes (edits by users, concurrent replicas) and of the control
//! plane's roots, the schemas of Meshes and Dataplanes, the objects of the corpus, and the conditions of a webhook.
//!
//! `make test-api-server` starts an API server. Each test has its own namespace.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

#[path = "../cluster/mod.rs"]
mod cluster;
mod corpus;
mod fixture;
mod roots;
mod webhook;

use kermode_crds::Dataplane;
use kermode_k8s::controller::writer::WriteResult;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{Fixture, container_statuses};

/// Returns the parameters of an edit by a user.
fn user_edit() -> PatchParams {
    PatchParams {
        field_manager: Some("kubectl-edit".to_owned()),
        ..PatchParams::default()
    }
}

/// Whether a Dataplane is as the writer generates it, without the edits of the tests.
fn is_as_generated(dataplane: &Value) -> bool {
    let networking = &dataplane["spec"]["networking"];
    networking["address"] == "10.0.0.1"
        && networking["inbound"][0]["tags"]["app"] == "web"
        && networking["inbound"][0]["tags"].get("mine").is_none()
        && networking.get("advertisedAddress").is_none()
        && dataplane["metadata"]["labels"]["kuma.io/mesh"] == "default"
        && dataplane["metadata"]["labels"].get("kuma.io/zone").is_none()
}

#[tokio::test]
async fn pod_gets_a_dataplane_with_status_and_an_event() {
    let fixture = Fixture::start("plain").await;
    let replica = fixture.start_replica();
    fixture.apply_pod(&replica, "web", true).await;
    let dataplane = fixture
        .wait_for_dataplane("web", |dataplane| {
            dataplane["status"]["inbounds"]["summary"] == "1/1"
        })
        .await;
    assert!(is_as_generated(&dataplane), "{dataplane:#}");
    let service = format!("web_{}_svc_80", fixture.namespace);
    assert_eq!(
        dataplane["metadata"]["labels"]["kuma.io/service"],
        json!(service),
        "{dataplane:#}"
    );
    assert_eq!(dataplane["status"]["inbounds"]["services"], json!(service));
    assert_eq!(dataplane["status"]["conditions"][0]["type"], "Ready");
    assert_eq!(dataplane["status"]["conditions"][0]["status"], "True");
    assert_eq!(dataplane["metadata"]["ownerReferences"][0]["kind"], "Pod");
    fixture.wait_for_event("web", "CreatedKumaDataplane").await;
}

#[tokio::test]
async fn edits_of_users_are_reverted() {
    let fixture = Fixture::start("edited").await;
    let replica = fixture.start_replica();
    fixture.apply_pod(&replica, "web", true).await;
    fixture.wait_for_dataplane("web", is_as_generated).await;
    let edits = [
        (
            "a value",
            json!({"spec": {"networking": {"address": "10.9.9.9"}}}),
        ),
        (
            "an added field",
            json!({"spec": {"networking": {"advertisedAddress": "10.9.9.9"}}}),
        ),
        (
            "an added tag",
            json!({"spec": {"networking": {"inbound": [
                {"port": 8080, "tags": {"kuma.io/service": "x", "mine": "y"}}]}}}),
        ),
        (
            "a removed label",
            json!({"metadata": {"labels": {"kuma.io/mesh": null}}}),
        ),
        (
            "an added label",
            json!({"metadata": {"labels": {"kuma.io/zone": "mine"}}}),
        ),
    ];
    for (description, edit) in edits {
        let edited = fixture
            .dataplanes
            .patch("web", &user_edit(), &Patch::Merge(edit))
            .await;
        let edited = edited.unwrap_or_else(|error| panic!("{description}: {error}"));
        let dataplane = fixture
            .wait_for_dataplane("web", |dataplane| {
                is_as_generated(dataplane)
                    && dataplane["metadata"]["resourceVersion"] != json!(edited.resource_version())
            })
            .await;
        assert!(is_as_generated(&dataplane), "{description}: {dataplane:#}");
    }
    let team = json!({"metadata": {"labels": {"team": "shop"}}});
    fixture
        .dataplanes
        .patch("web", &user_edit(), &Patch::Merge(team))
        .await
        .expect("the edit succeeds");
    fixture.apply_pod(&replica, "web", false).await;
    let dataplane = fixture
        .wait_for_dataplane("web", |dataplane| {
            dataplane["status"]["inbounds"]["summary"] == "0/1"
        })
        .await;
    assert_eq!(
        dataplane["metadata"]["labels"]["team"], "shop",
        "labels of users must remain: {dataplane:#}"
    );
}

#[tokio::test]
async fn status_edits_of_users_are_reverted() {
    let fixture = Fixture::start("status").await;
    let replica = fixture.start_replica();
    fixture.apply_pod(&replica, "web", true).await;
    let has_one_ready_inbound = |dataplane: &Value| dataplane["status"]["inbounds"]["summary"] == "1/1";
    fixture.wait_for_dataplane("web", has_one_ready_inbound).await;
    let edit = json!({"status": {"inbounds": {"summary": "9/9"}}});
    let edited = fixture
        .dataplanes
        .patch_status("web", &user_edit(), &Patch::Merge(edit))
        .await
        .expect("the edit succeeds");
    assert_eq!(edited.data["status"]["inbounds"]["summary"], "9/9");
    fixture.wait_for_dataplane("web", has_one_ready_inbound).await;
}

#[tokio::test]
async fn dataplane_that_a_user_deletes_is_recreated() {
    let fixture = Fixture::start("deleted").await;
    let replica = fixture.start_replica();
    fixture.apply_pod(&replica, "web", true).await;
    let first = fixture.wait_for_dataplane("web", is_as_generated).await;
    fixture
        .dataplanes
        .delete("web", &DeleteParams::default())
        .await
        .expect("the deletion succeeds");
    fixture
        .wait_for_dataplane("web", |dataplane| {
            is_as_generated(dataplane) && dataplane["metadata"]["uid"] != first["metadata"]["uid"]
        })
        .await;
}

#[tokio::test]
async fn dataplane_of_a_deleted_pod_is_deleted_and_dataplane_of_a_user_remains() {
    let fixture = Fixture::start("orphans").await;
    for (name, owners) in [
        (
            "orphan",
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "orphan", "uid": "gone", "controller": true}]),
        ),
        ("by-hand", json!([])),
    ] {
        let object = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "Dataplane", "mesh": "default",
            "metadata": {"name": name, "namespace": fixture.namespace, "ownerReferences": owners},
            "spec": {"networking": {"address": "10.0.0.9", "inbound": [
                {"port": 80, "tags": {"kuma.io/service": "x"}}]}},
        });
        fixture
            .dataplanes
            .create(&PostParams::default(), &serde_json::from_value(object).unwrap())
            .await
            .expect("the creation succeeds");
    }
    let replica = fixture.start_replica_before_first_lists();
    fixture.apply_pod(&replica, "web", true).await;
    // Nothing is deleted while the desired state is incomplete.
    assert!(fixture.dataplanes.get_opt("orphan").await.unwrap().is_some());
    replica.writer.set_desired_complete();
    fixture.wait_until_deleted("orphan").await;
    fixture.wait_for_dataplane("web", is_as_generated).await;
    assert!(fixture.dataplanes.get_opt("by-hand").await.unwrap().is_some());
}

#[tokio::test]
async fn change_of_health_alone_causes_no_event() {
    let fixture = Fixture::start("events").await;
    let replica = fixture.start_replica();
    fixture.apply_pod(&replica, "web", true).await;
    fixture.wait_for_dataplane("web", is_as_generated).await;
    let has_health = |ready: bool| {
        move |dataplane: &Value| {
            ready == (dataplane["spec"]["networking"]["inbound"][0]["health"]["ready"] == true)
        }
    };
    for is_ready in [false, true, false, true] {
        fixture.apply_pod(&replica, "web", is_ready).await;
        fixture.wait_for_dataplane("web", has_health(is_ready)).await;
    }
    fixture
        .relabel(&replica, "web", &json!({"app": "web", "version": "v2"}))
        .await;
    fixture.wait_for_event("web", "UpdatedKumaDataplane").await;
    let events = fixture.events("web").await;
    let updates: Vec<_> = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("UpdatedKumaDataplane"))
        .collect();
    assert_eq!(updates.len(), 1, "{events:#?}");
    assert!(updates[0].series.is_none(), "repeated Event: {events:#?}");
}

#[tokio::test]
async fn change_is_written_once_and_its_watch_event_causes_no_write() {
    let fixture = Fixture::start("echo").await;
    let replica = fixture.start_replica();
    fixture.apply_pod(&replica, "web", true).await;
    fixture.wait_for_dataplane("web", is_as_generated).await;
    for round in 0..20 {
        fixture.apply_pod(&replica, "web", round % 2 == 1).await;
    }
    // Keys are processed in order: once the Dataplane of `sentinel` is written, all changes of `web` are written.
    fixture.apply_pod(&replica, "sentinel", true).await;
    fixture
        .wait_for_dataplane("sentinel", |dataplane| {
            dataplane["status"]["inbounds"]["summary"] == "1/1"
        })
        .await;
    let metrics = replica.writer.metrics();
    assert!(metrics.write_count(WriteResult::Updated) <= 20);
    assert_eq!(metrics.write_count(WriteResult::Created), 2);
    assert_eq!(metrics.write_count(WriteResult::Corrected), 0);
    assert_eq!(metrics.write_count(WriteResult::Failed), 0);
}

#[tokio::test]
async fn two_leading_replicas_do_not_overwrite_each_other() {
    let fixture = Fixture::start("two").await;
    let replicas = [fixture.start_replica(), fixture.start_replica()];
    for replica in &replicas {
        fixture.apply_pod(replica, "web", true).await;
    }
    fixture.wait_for_dataplane("web", is_as_generated).await;
    let edit = json!({"spec": {"networking": {"advertisedAddress": "10.9.9.9"}}});
    fixture
        .dataplanes
        .patch("web", &user_edit(), &Patch::Merge(edit))
        .await
        .expect("the edit succeeds");
    fixture.wait_for_dataplane("web", is_as_generated).await;
    // Keys are processed in order: once the status of `sentinel` is written, all earlier writes are complete.
    for replica in &replicas {
        fixture.apply_pod(replica, "sentinel", true).await;
    }
    fixture
        .wait_for_dataplane("sentinel", |dataplane| {
            dataplane["status"]["inbounds"]["summary"] == "1/1"
        })
        .await;
    let written: u64 = replicas
        .iter()
        .map(|replica| {
            let metrics = replica.writer.metrics();
            metrics.write_count(WriteResult::Updated) + metrics.write_count(WriteResult::Corrected)
        })
        .sum();
    // Each replica may revert the edit in two writes, and may update each of the two Dataplanes once after the other
    // replica has created it.
    assert!(written <= 8, "{written} writes for one edit");
}

#[tokio::test]
async fn nothing_is_created_in_a_terminating_namespace() {
    let fixture = Fixture::start("ending").await;
    let replica = fixture.start_replica();
    fixture.delete_namespace(&replica).await;
    fixture.apply_pod(&replica, "web", true).await;
    fixture.wait_for_sentinel_in_other_namespace(&replica).await;
    let metrics = replica.writer.metrics();
    assert_eq!(
        metrics.write_count(WriteResult::Failed),
        0,
        "a request was sent that the API server rejects"
    );
    assert!(fixture.dataplanes.get_opt("web").await.unwrap().is_none());
}

#[tokio::test]
async fn dataplane_is_written_when_its_mesh_is_created() {
    let fixture = Fixture::start("meshless").await;
    let replica = fixture.start_replica_without_mesh();
    replica.apply_mesh("other");
    replica.writer.set_desired_complete();
    fixture.apply_pod(&replica, "web", true).await;
    // Keys are processed in order: if the Dataplane of `web` were written, it would exist before `sentinel`.
    fixture.apply_pod_of_mesh(&replica, "sentinel", "other").await;
    fixture
        .wait_for_dataplane("sentinel", |dataplane| {
            dataplane["status"]["inbounds"]["summary"] == "1/1"
        })
        .await;
    assert!(fixture.dataplanes.get_opt("web").await.unwrap().is_none());
    let metrics = replica.writer.metrics();
    assert_eq!(
        (
            metrics.write_count(WriteResult::Created),
            metrics.write_count(WriteResult::Failed)
        ),
        (1, 0),
        "a request was sent that the API server rejects"
    );
    replica.apply_mesh("default");
    fixture.wait_for_dataplane("web", is_as_generated).await;
}

#[tokio::test]
async fn schema_of_meshes_rejects_names_that_are_not_dns_labels() {
    let fixture = Fixture::start("names").await;
    let mtls = |kind: &str, name: &str| json!({"mtls": {"backends": [{"name": name, "type": kind}]}});
    let message = "must be a DNS label: at most 63 lower-case letters, digits and dashes";
    for (name, spec) in [
        ("team-1", mtls("builtin", "ca-1")),
        // Only the name of a builtin backend must be a DNS label.
        ("other", mtls("vault", "My_Vault")),
    ] {
        assert_eq!(fixture.create_mesh_as_dry_run(name, spec).await, Ok(()), "{name}");
    }
    let long = "x".repeat(64);
    for (name, spec, field) in [
        ("team.one", json!({}), "metadata.name"),
        (&long, json!({}), "metadata.name"),
        ("team", mtls("builtin", "CA_1"), "spec.mtls.backends[0]"),
        ("team", mtls("builtin", &long), "spec.mtls.backends[0]"),
    ] {
        let error = fixture.create_mesh_as_dry_run(name, spec).await.expect_err(name);
        assert!(error.contains(message) && error.contains(field), "{error}");
    }
}

#[tokio::test]
async fn schema_of_dataplanes_limits_inbounds_and_defaults_health_to_unready() {
    let fixture = Fixture::start("schema").await;
    let dataplane = |inbounds: Vec<Value>| {
        let object = json!({"apiVersion": "kuma.io/v1alpha1", "kind": "Dataplane", "metadata": {"name": "by-hand"},
            "mesh": "default", "spec": {"networking": {"address": "10.0.0.1", "inbound": inbounds}}});
        serde_json::from_value(object).unwrap()
    };
    let inbound = |health: Value| json!({"port": 80, "tags": {"kuma.io/service": "web"}, "health": health});
    let created = fixture
        .dataplanes
        .create(&PostParams::default(), &dataplane(vec![inbound(json!({}))]))
        .await
        .expect("the creation succeeds");
    assert_eq!(
        created.data["spec"]["networking"]["inbound"][0]["health"],
        json!({"ready": false})
    );
    let many = dataplane(vec![inbound(json!({"ready": true})); 257]);
    let error = fixture.dataplanes.create(&PostParams::default(), &many).await;
    let error = error.expect_err("too many inbounds").to_string();
    assert!(
        error.contains("spec.networking.inbound") && error.contains("256"),
        "{error}"
    );
    let wrong = dataplane(vec![inbound(json!({"ready": "yes"}))]);
    let error = fixture.dataplanes.create(&PostParams::default(), &wrong).await;
    assert!(
        error
            .expect_err("a health that is not a boolean")
            .to_string()
            .contains("health.ready")
    );
}

#[test]
fn heartbeat_of_a_pod_changes_nothing() {
    use kermode_k8s::convert::facts::PodFacts;
    use kermode_k8s::index::Index;

    let mut index = Index::default();
    let facts = |heartbeat: u32| {
        let mut pod = fixture::pod_json(
            "ns",
            "web",
            "10.0.0.1",
            &json!({"app": "web"}),
            &container_statuses(true),
        );
        pod["metadata"]["resourceVersion"] = heartbeat.to_string().into();
        pod["metadata"]["annotations"]["example.com/heartbeat"] = heartbeat.to_string().into();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True",
            "lastProbeTime": format!("2026-01-01T00:00:{heartbeat:02}Z")}]);
        PodFacts::from(&serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod).unwrap())
    };
    assert!(!index.apply_pod(facts(0)).is_empty());
    for heartbeat in 1..60 {
        assert!(index.apply_pod(facts(heartbeat)).is_empty());
    }
    assert_eq!(index.conversions(), 1);
}

#[test]
fn dataplane_decodes_as_its_rust_type() {
    let object = json!({"apiVersion": "kuma.io/v1alpha1", "kind": "Dataplane", "metadata": {"name": "a"},
        "spec": {}, "status": {"inbounds": {"ready": 1, "total": 2, "summary": "1/2"}}});
    let read: Dataplane = serde_json::from_value(object).expect("a Dataplane");
    assert_eq!(
        read.status
            .and_then(|status| status.inbounds)
            .map(|inbounds| inbounds.total),
        Some(2)
    );
}
