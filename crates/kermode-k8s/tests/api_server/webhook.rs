//! The conditions of the webhook for workloads, as the API server evaluates them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixture::{Fixture, TIMEOUT};

/// Manifests of an installation, which contain the registration of the webhook.
const MANIFESTS: &str = include_str!("../../../../bins/kumactl/src/install/goldens/outside.yaml");
/// Name of the webhook for workloads.
const WORKLOADS: &str = "workloads.kuma-admission.kuma.io";

/// Returns the registration of the webhook for workloads for one namespace. Nothing answers at its address, and the API
/// server denies an object if it cannot call the webhook.
fn registration(namespace: &str) -> Value {
    let objects: Vec<Value> = serde_saphyr::from_multiple(MANIFESTS).unwrap();
    let mut registrations = objects
        .into_iter()
        .filter(|object| object["kind"] == "ValidatingWebhookConfiguration");
    let mut registration = registrations.next().expect("a registration");
    let webhooks = registration["webhooks"].as_array_mut().expect("webhooks");
    webhooks.retain(|webhook| webhook["name"] == WORKLOADS);
    let webhook = webhooks.first_mut().expect("the webhook for workloads");
    webhook["clientConfig"] = json!({"url": "https://127.0.0.1:1/"});
    webhook["failurePolicy"] = "Fail".into();
    webhook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    registration["metadata"] = json!({"name": namespace});
    registration
}

/// A workload with these owners.
fn workload(kind: &str, owners: Value) -> Value {
    let (version, labels) = (
        if kind == "Job" { "batch/v1" } else { "apps/v1" },
        json!({"app": "a"}),
    );
    let mut spec = json!({
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "a"}]},
        },
    });
    if kind == "Job" {
        spec["selector"] = Value::Null;
        spec["template"]["spec"]["restartPolicy"] = "Never".into();
    }
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a", "ownerReferences": owners}, "spec": spec})
}

fn owner(kind: &str, members: Value) -> Value {
    let mut owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": "a", "uid": "1"});
    owner
        .as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    owner
}

#[tokio::test]
async fn webhook_for_workloads_is_called_for_objects_that_no_controller_owns() {
    let fixture = Fixture::start("webhook").await;
    let registrations = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    fixture
        .create(registrations, &registration(&fixture.namespace))
        .await
        .expect("the API server accepts the registration");
    let is_called = async |object: &Value| {
        let (api, resource) = match object["kind"].as_str() {
            Some("Job") => ("batch/v1", "jobs"),
            Some("ReplicaSet") => ("apps/v1", "replicasets"),
            _ => ("apps/v1", "deployments"),
        };
        let path = format!(
            "/apis/{api}/namespaces/{}/{resource}?dryRun=All",
            fixture.namespace
        );
        match fixture.create(&path, object).await {
            Ok(_) => false,
            Err(error) => {
                assert!(
                    error.contains("failed calling webhook") && error.contains(WORKLOADS),
                    "{error}"
                );
                true
            }
        }
    };
    let deadline = Instant::now() + TIMEOUT;
    while !is_called(&workload("Deployment", Value::Null)).await {
        assert!(
            Instant::now() < deadline,
            "the webhook is not called for a Deployment"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (controller, other) = (json!({"controller": true}), json!({"controller": false}));
    for (kind, owners, expected) in [
        ("ReplicaSet", json!([]), true),
        ("ReplicaSet", json!([owner("Deployment", json!({}))]), true),
        ("ReplicaSet", json!([owner("Deployment", other.clone())]), true),
        (
            "ReplicaSet",
            json!([owner("Deployment", controller.clone())]),
            false,
        ),
        (
            "ReplicaSet",
            json!([owner("Team", other), owner("Rollout", controller.clone())]),
            false,
        ),
        ("Job", json!([owner("CronJob", controller.clone())]), false),
        ("Deployment", json!([owner("Application", controller)]), false),
    ] {
        let context = format!("{kind} {owners}");
        assert_eq!(is_called(&workload(kind, owners)).await, expected, "{context}");
    }
}
