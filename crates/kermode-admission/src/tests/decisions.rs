//! Injected, skipped, refused, warned of; and what is told of each.

use http::Method;
use kermode_crds::annotation::{CONTAINER_PATCHES, MESH, SIDECAR_INJECTION};
use serde_json::{Value, json};

use super::api_server::Mood;
use super::review::{AdmissionResponse, bare, pod, pod_with, review};
use super::world::World;

fn names(containers: &Value) -> Vec<&str> {
    let containers = containers.as_array().map(Vec::as_slice).unwrap_or_default();
    containers
        .iter()
        .filter_map(|container| container["name"].as_str())
        .collect()
}

#[tokio::test]
async fn a_pod_of_a_labelled_namespace_gets_a_patch_that_gives_it_the_sidecar() {
    let world = World::new(Mood::Answers).await;
    let response = world.inject("shop", pod()).await;
    assert!(response.allowed && response.warnings.is_empty(), "{response:?}");
    let injected = response.applied_to(pod());
    assert_eq!(
        names(&injected["spec"]["initContainers"]),
        ["kuma-init", "kuma-sidecar"]
    );
    assert_eq!(injected["spec"]["inventedField"], json!({"kept": true}));
}

#[tokio::test]
async fn a_pod_that_nobody_wants_injected_passes_as_it_is_over_http2_too() {
    let world = World::new(Mood::Answers).await;
    let body = review("u-2", "plain", "Pod", pod()).to_string();
    let mut connection = world.caller.http2().await;
    for _ in 0..3 {
        let answer = connection
            .call(Method::POST, "/inject-sidecar", body.clone())
            .await;
        let response = AdmissionResponse::read(&answer);
        assert!(response.allowed);
        assert_eq!(response.applied_to(pod()), pod());
    }
}

#[tokio::test]
async fn what_is_missing_is_refused_until_it_is_made() {
    let world = World::new(Mood::Answers).await;
    let mut pod = pod_with("annotations", MESH, "new");
    pod["metadata"]["annotations"][CONTAINER_PATCHES] = "small".into();
    assert!(
        world
            .inject("shop", pod.clone())
            .await
            .refusal()
            .contains("Mesh \"new\" not found")
    );

    let mesh =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "new"}});
    world.api_server.put("/apis/kuma.io/v1alpha1/meshes/new", mesh);
    let refusal = world.inject("shop", pod.clone()).await;
    assert!(
        refusal
            .refusal()
            .contains("container patches are missing: [\"small\"]"),
        "{refusal:?}"
    );

    let patch = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": "ContainerPatch", "metadata": {"name": "small"},
        "spec": {"sidecarPatch": [{"op": "add", "path": "/workingDir", "value": "\"/tmp\""}]},
    });
    world.api_server.put(
        "/apis/kuma.io/v1alpha1/namespaces/kong-mesh-system/containerpatches/small",
        patch,
    );
    let injected = world.inject("shop", pod.clone()).await.applied_to(pod);
    assert_eq!(injected["spec"]["initContainers"][1]["workingDir"], "/tmp");
    assert_eq!(injected["metadata"]["annotations"][MESH], "new");
}

#[tokio::test]
async fn a_namespace_made_a_moment_ago_is_found() {
    let world = World::new(Mood::Answers).await;
    assert!(
        world
            .inject("young", pod())
            .await
            .refusal()
            .starts_with("could not retrieve namespace for pod")
    );
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "young", "labels": {SIDECAR_INJECTION: "enabled"}},
    });
    world.api_server.put("/api/v1/namespaces/young", namespace);
    let injected = world.inject("young", pod()).await.applied_to(pod());
    assert_ne!(injected, pod());
}

#[tokio::test]
async fn refused_and_opted_out_pods_are_told_once_on_their_owner_or_namespace() {
    let mut world = World::new(Mood::Answers).await;
    let unknown_mesh = pod_with("annotations", MESH, "none");
    let opted_out = pod_with("labels", SIDECAR_INJECTION, "disabled");
    for _ in 0..5 {
        // Nobody asked for anything here, nor of those that have it or whose namespace decided.
        world.inject("plain", pod()).await;
        world.inject("shop", pod()).await;
        assert_eq!(
            world
                .inject("shop", unknown_mesh.clone())
                .await
                .status
                .map(|status| status.code),
            Some(500)
        );
        assert!(world.inject("shop", opted_out.clone()).await.allowed);
    }
    let mut dry_run = review(
        "u-3",
        "shop",
        "Pod",
        pod_with("annotations", "kuma.io/virtual-probes-port", "x"),
    );
    dry_run["request"]["dryRun"] = true.into();
    assert!(!world.ask("/inject-sidecar", dry_run).await.allowed);
    world
        .inject("shop", bare(pod_with("labels", SIDECAR_INJECTION, "perhaps")))
        .await;
    world
        .inject("plain", pod_with("labels", "openshift.io/build.name", "b"))
        .await;
    world
        .inject("shop", bare(pod_with("labels", "openshift.io/build.name", "b")))
        .await;

    // In this order and nothing between.
    assert_eq!(
        world.event().await,
        "Warning MeshNotFound on ReplicaSet web-5d9c7b8f6d"
    );
    assert_eq!(
        world.event().await,
        "Normal DisabledByPodLabel on ReplicaSet web-5d9c7b8f6d"
    );
    assert_eq!(world.event().await, "Warning WrongValue on Namespace shop");
    assert_eq!(world.event().await, "Normal ExceptionLabel on Namespace shop");
}

#[tokio::test]
async fn reviews_are_counted_by_what_was_decided_and_why() {
    let world = World::new(Mood::Answers).await;
    world.inject("shop", pod()).await;
    world.inject("plain", pod()).await;
    world.inject("shop", pod_with("annotations", MESH, "none")).await;
    world.caller.post("/inject-sidecar", "{").await;
    let metrics = world.metrics();
    for (outcome, reason) in [
        ("injected", "NamespaceLabel"),
        ("skipped", "NotRequested"),
        ("refused", "MeshNotFound"),
        ("malformed", "InvalidReview"),
    ] {
        let labels = format!("{{webhook=\"inject\",outcome=\"{outcome}\",reason=\"{reason}\"}}");
        let line = format!("kuma_cp_admission_reviews_total{labels} 1\n");
        assert!(metrics.contains(&line), "{line} is missing in {metrics}");
    }
    assert!(
        metrics.contains("kuma_cp_admission_review_duration_seconds_count{webhook=\"inject\"} 4\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn only_new_pods_are_given_a_sidecar() {
    let world = World::new(Mood::Answers).await;
    for (field, value) in [("operation", "UPDATE"), ("subResource", "eviction")] {
        let mut review = review("u-4", "shop", "Pod", pod());
        review["request"][field] = value.into();
        let response = world.ask("/inject-sidecar", review).await;
        assert!(response.allowed);
        assert_eq!(response.applied_to(pod()), pod(), "{field}");
    }
    let service = review("u-5", "shop", "Service", json!({"kind": "Service"}));
    assert!(
        world
            .ask("/inject-sidecar", service)
            .await
            .refusal()
            .contains("this is a Service")
    );
}

#[tokio::test]
async fn a_label_on_a_deployment_instead_of_its_template_is_warned_of_and_never_refused() {
    let world = World::new(Mood::Answers).await;
    let deployment = json!({
        "metadata": {"labels": {SIDECAR_INJECTION: "enabled"}},
        "spec": {"template": {"metadata": {"labels": {"app": "a"}}}},
    });
    let response = world
        .ask(
            "/validate-workloads",
            review("u-6", "shop", "Deployment", deployment),
        )
        .await;
    assert!(response.allowed);
    assert_eq!(response.warnings.len(), 1);
    assert!(
        response.warnings[0].contains("spec.template.metadata.labels"),
        "{response:?}"
    );
}

#[tokio::test]
async fn a_container_patch_elsewhere_is_refused_with_a_clear_text() {
    let world = World::new(Mood::Answers).await;
    let patch = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {}});
    let review = review("u-7", "shop", "ContainerPatch", patch);
    let refused = world.ask("/validate-kuma-io-v1alpha1", review).await;
    assert!(
        refused
            .refusal()
            .contains("can only be placed in kong-mesh-system namespace"),
        "{refused:?}"
    );
}
