//! Tests of the decisions of the webhooks, with their warnings, Events and metrics.

use http::Method;
use kermode_crds::annotation::{
    CONTAINER_PATCHES, DIRECT_ACCESS_SERVICES, MESH, REACHABLE_SERVICES, SIDECAR_INJECTION,
};
use serde_json::{Value, json};

use super::api_server::Mode;
use super::fixture::Fixture;
use super::review::{AdmissionResponse, pod, pod_with, review, without_owners};
use crate::DecisionKind;

fn container_names(containers: &Value) -> Vec<&str> {
    let containers = containers.as_array().map(Vec::as_slice).unwrap_or_default();
    containers
        .iter()
        .filter_map(|container| container["name"].as_str())
        .collect()
}

#[tokio::test]
async fn pod_of_a_labelled_namespace_gets_a_patch_with_the_sidecar() {
    let fixture = Fixture::new(Mode::Responds).await;
    let response = fixture.inject("shop", pod()).await;
    assert!(response.allowed && response.warnings.is_empty(), "{response:?}");
    let injected = response.applied_to(pod());
    assert_eq!(
        container_names(&injected["spec"]["initContainers"]),
        ["kuma-init", "kuma-sidecar"]
    );
    assert_eq!(injected["spec"]["unknownField"], json!({"kept": true}));
}

#[tokio::test]
async fn pod_that_does_not_request_injection_is_unchanged_over_http2() {
    let fixture = Fixture::new(Mode::Responds).await;
    let body = review("u-2", "plain", "Pod", pod()).to_string();
    let mut connection = fixture.caller.connect_http2().await;
    for _ in 0..3 {
        let response = connection
            .call(Method::POST, "/inject-sidecar", body.clone())
            .await;
        let response = AdmissionResponse::read(&response);
        assert!(response.allowed);
        assert_eq!(response.applied_to(pod()), pod());
    }
}

#[tokio::test]
async fn pod_is_denied_until_its_mesh_and_container_patches_exist() {
    let fixture = Fixture::new(Mode::Responds).await;
    let mut pod = pod_with("annotations", MESH, "new");
    pod["metadata"]["annotations"][CONTAINER_PATCHES] = "small".into();
    assert!(
        fixture
            .inject("shop", pod.clone())
            .await
            .denial_message()
            .contains("Mesh \"new\" not found")
    );

    let mesh =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "new"}});
    fixture.api_server.put("/apis/kuma.io/v1alpha1/meshes/new", mesh);
    let denied = fixture.inject("shop", pod.clone()).await;
    assert!(
        denied
            .denial_message()
            .contains("container patches are missing: [\"small\"]"),
        "{denied:?}"
    );

    let container_patch = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": "ContainerPatch", "metadata": {"name": "small"},
        "spec": {"sidecarPatch": [{"op": "add", "path": "/workingDir", "value": "\"/tmp\""}]},
    });
    fixture.api_server.put(
        "/apis/kuma.io/v1alpha1/namespaces/kong-mesh-system/containerpatches/small",
        container_patch,
    );
    let injected = fixture.inject("shop", pod.clone()).await.applied_to(pod);
    assert_eq!(injected["spec"]["initContainers"][1]["workingDir"], "/tmp");
    assert_eq!(injected["metadata"]["annotations"][MESH], "new");
}

#[tokio::test]
async fn namespace_that_is_not_in_the_directory_yet_is_looked_up() {
    let fixture = Fixture::new(Mode::Responds).await;
    assert!(
        fixture
            .inject("recent", pod())
            .await
            .denial_message()
            .starts_with("could not retrieve namespace for pod")
    );
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "recent", "labels": {SIDECAR_INJECTION: "enabled"}},
    });
    fixture.api_server.put("/api/v1/namespaces/recent", namespace);
    let injected = fixture.inject("recent", pod()).await.applied_to(pod());
    assert_ne!(injected, pod());
}

#[tokio::test]
async fn recent_decisions_name_pod_and_reason_but_not_those_of_dry_runs() {
    let fixture = Fixture::new(Mode::Responds).await;
    fixture.inject("shop", pod()).await;
    fixture.inject("plain", pod()).await;
    fixture.inject("shop", pod_with("annotations", MESH, "new")).await;
    let mut dry_run = review("u-9", "shop", "Pod", pod());
    dry_run["request"]["dryRun"] = true.into();
    fixture.send("/inject-sidecar?timeout=10s", dry_run).await;
    let decisions = fixture.recent.newest_first();
    let summaries: Vec<_> = decisions
        .iter()
        .map(|decision| {
            (
                decision.kind,
                decision.reason,
                &*decision.namespace,
                &*decision.pod,
            )
        })
        .collect();
    let expected = [
        (DecisionKind::Denied, "MeshNotFound", "shop", "web-5d9c7b8f6d-"),
        (DecisionKind::Skipped, "NotRequested", "plain", "web-5d9c7b8f6d-"),
        (
            DecisionKind::Injected,
            "NamespaceLabel",
            "shop",
            "web-5d9c7b8f6d-",
        ),
    ];
    assert_eq!(summaries, expected);
    assert!(
        decisions[0].message.contains("Mesh \"new\" not found"),
        "{}",
        decisions[0].message
    );
}

#[tokio::test]
async fn repeatedly_denied_or_opted_out_pods_cause_one_event_about_their_owner_or_namespace() {
    let mut fixture = Fixture::new(Mode::Responds).await;
    let pod_of_unknown_mesh = pod_with("annotations", MESH, "none");
    let opted_out_pod = pod_with("labels", SIDECAR_INJECTION, "disabled");
    for _ in 0..5 {
        // The first two Pods cause no Events: the first Pod does not request injection, and the second Pod is injected.
        fixture.inject("plain", pod()).await;
        fixture.inject("shop", pod()).await;
        assert_eq!(
            fixture
                .inject("shop", pod_of_unknown_mesh.clone())
                .await
                .status
                .map(|status| status.code),
            Some(500)
        );
        assert!(fixture.inject("shop", opted_out_pod.clone()).await.allowed);
    }
    let mut dry_run = review(
        "u-3",
        "shop",
        "Pod",
        pod_with("annotations", "kuma.io/virtual-probes-port", "x"),
    );
    dry_run["request"]["dryRun"] = true.into();
    assert!(!fixture.send("/inject-sidecar", dry_run).await.allowed);
    fixture
        .inject(
            "shop",
            without_owners(pod_with("labels", SIDECAR_INJECTION, "perhaps")),
        )
        .await;
    fixture
        .inject("plain", pod_with("labels", "openshift.io/build.name", "b"))
        .await;
    fixture
        .inject(
            "shop",
            without_owners(pod_with("labels", "openshift.io/build.name", "b")),
        )
        .await;

    // Neither the dry run nor the Pods of the Namespace `plain` cause an Event.
    assert_eq!(
        fixture.next_event().await,
        "Warning MeshNotFound about ReplicaSet web-5d9c7b8f6d"
    );
    assert_eq!(
        fixture.next_event().await,
        "Normal DisabledByPodLabel about ReplicaSet web-5d9c7b8f6d"
    );
    assert_eq!(
        fixture.next_event().await,
        "Warning WrongValue about Namespace shop"
    );
    assert_eq!(
        fixture.next_event().await,
        "Normal ExceptionLabel about Namespace shop"
    );
}

#[tokio::test]
async fn reviews_are_counted_by_outcome_and_reason() {
    let fixture = Fixture::new(Mode::Responds).await;
    fixture.inject("shop", pod()).await;
    fixture.inject("plain", pod()).await;
    fixture
        .inject("shop", pod_with("annotations", MESH, "none"))
        .await;
    fixture.caller.post("/inject-sidecar", "{").await;
    let metrics = fixture.metrics();
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
async fn pod_with_host_network_is_skipped_with_a_warning_or_denied_if_it_requests_a_sidecar() {
    let mut fixture = Fixture::new(Mode::Responds).await;
    let mut host_network_pod = pod();
    host_network_pod["spec"]["hostNetwork"] = true.into();
    let skipped = fixture.inject("shop", host_network_pod.clone()).await;
    assert!(skipped.allowed);
    assert!(
        skipped.warnings.len() == 1 && skipped.warnings[0].contains("spec.hostNetwork"),
        "{skipped:?}"
    );
    assert_eq!(skipped.applied_to(host_network_pod.clone()), host_network_pod);
    assert_eq!(
        fixture.next_event().await,
        "Warning HostNetwork about ReplicaSet web-5d9c7b8f6d"
    );
    let line =
        "kuma_cp_admission_reviews_total{webhook=\"inject\",outcome=\"skipped\",reason=\"HostNetwork\"} 1\n";
    let metrics = fixture.metrics();
    assert!(metrics.contains(line), "{line} is missing in {metrics}");

    host_network_pod["metadata"]["labels"] = json!({SIDECAR_INJECTION: "enabled"});
    let denied = fixture.inject("shop", host_network_pod).await;
    assert!(
        denied
            .denial_message()
            .contains("requests a sidecar, which the Pod cannot have"),
        "{denied:?}"
    );
}

#[tokio::test]
async fn sidecar_is_injected_only_into_new_pods() {
    let fixture = Fixture::new(Mode::Responds).await;
    for (field, value) in [("operation", "UPDATE"), ("subResource", "eviction")] {
        let mut review = review("u-4", "shop", "Pod", pod());
        review["request"][field] = value.into();
        let response = fixture.send("/inject-sidecar", review).await;
        assert!(response.allowed);
        assert_eq!(response.applied_to(pod()), pod(), "{field}");
    }
    let service = review("u-5", "shop", "Service", json!({"kind": "Service"}));
    assert!(
        fixture
            .send("/inject-sidecar", service)
            .await
            .denial_message()
            .contains("this is a Service")
    );
}

#[tokio::test]
async fn injection_label_on_a_deployment_instead_of_its_template_causes_a_warning_and_no_denial() {
    let fixture = Fixture::new(Mode::Responds).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {SIDECAR_INJECTION: "enabled"}},
        "spec": {"template": {
            "metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "app"}]},
        }},
    });
    let response = fixture
        .send(
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

/// Returns one workload of each kind, with this Pod template.
fn workloads(template: &Value) -> Vec<Value> {
    let mk_workload = |version: &str, kind: &str| {
        let spec = match kind {
            "CronJob" => json!({"jobTemplate": {"spec": {"template": template}}}),
            _ => json!({"template": template}),
        };
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec})
    };
    let apps =
        ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"].map(|kind| mk_workload("apps/v1", kind));
    let batch = ["Job", "CronJob"].map(|kind| mk_workload("batch/v1", kind));
    let core = mk_workload("v1", "ReplicationController");
    apps.into_iter().chain(batch).chain([core]).collect()
}

#[tokio::test]
async fn mistake_in_a_pod_template_causes_a_warning_when_the_workload_is_applied() {
    let fixture = Fixture::new(Mode::Responds).await;
    let containers = json!([{"name": "app", "image": "x"}]);
    let template = |map: &str, key: &str, value: &str| json!({"metadata": {map: {key: value}}, "spec": {"containers": containers}});
    let host_network = json!({"spec": {"containers": containers, "hostNetwork": true}});
    for (template, expected) in [
        (
            template("labels", SIDECAR_INJECTION, "yes"),
            "label \"kuma.io/sidecar-injection\" has wrong value \"yes\"",
        ),
        (template("annotations", MESH, "none"), "Mesh \"none\" not found"),
        (
            template("annotations", CONTAINER_PATCHES, "none"),
            "container patches are missing: [\"none\"]",
        ),
        (
            template("annotations", "kuma.io/sidecar-drain-time", "soon"),
            "kuma.io/sidecar-drain-time",
        ),
        (
            template("annotations", SIDECAR_INJECTION, "enabled"),
            "is deprecated: use a label",
        ),
        (
            template("annotations", DIRECT_ACCESS_SERVICES, "cart"),
            "these services do not exist in Mesh \"default\": cart",
        ),
        (host_network, "spec.hostNetwork is true"),
    ] {
        for workload in workloads(&template) {
            let kind = workload["kind"].as_str().expect("a kind").to_owned();
            let response = fixture
                .send("/validate-workloads", review("u-8", "shop", &kind, workload))
                .await;
            assert!(response.allowed);
            let about_pods = format!("the Pods of this {kind}");
            let text = response.warnings.join("\n");
            assert!(
                text.starts_with(&about_pods) && text.contains(expected),
                "{kind}: {text}"
            );
        }
    }
    for workload in workloads(&json!({"spec": {"containers": containers}})) {
        let kind = workload["kind"].as_str().expect("a kind").to_owned();
        let response = fixture
            .send("/validate-workloads", review("u-9", "shop", &kind, workload))
            .await;
        assert_eq!(response.warnings, Vec::<String>::new(), "{kind}");
    }
    let metrics = fixture.metrics();
    for reason in [
        "WrongValue",
        "MeshNotFound",
        "ContainerPatchesMissing",
        "HostNetwork",
        "PodWarnings",
    ] {
        let labels = format!("{{webhook=\"workload\",outcome=\"warned\",reason=\"{reason}\"}}");
        assert!(metrics.contains(&labels), "{labels} is missing in {metrics}");
    }
}

#[tokio::test]
async fn mistake_in_a_namespace_causes_a_warning_when_the_namespace_is_applied() {
    let fixture = Fixture::new(Mode::Responds).await;
    for (labels, annotations, expected) in [
        (
            json!({SIDECAR_INJECTION: "yes"}),
            json!({}),
            "the Pods of this Namespace will be denied: label \"kuma.io/sidecar-injection\" has wrong value \"yes\"",
        ),
        (
            json!({SIDECAR_INJECTION: "enabled", MESH: "none"}),
            json!({}),
            "the Pods of this Namespace will be denied: Mesh \"none\" not found",
        ),
        (
            json!({SIDECAR_INJECTION: "enabled"}),
            json!({MESH: "none"}),
            "the Pods of this Namespace will be denied: Mesh \"none\" not found",
        ),
        (
            json!({}),
            json!({MESH: "none"}),
            "the Pods of this Namespace that request injection will be denied: Mesh \"none\" not found",
        ),
        (
            json!({}),
            json!({SIDECAR_INJECTION: "enabled"}),
            "is deprecated: use a label",
        ),
        (json!({SIDECAR_INJECTION: "enabled"}), json!({}), ""),
        (json!({SIDECAR_INJECTION: "disabled"}), json!({}), ""),
        (json!({"team": "a"}), json!({"note": "b"}), ""),
    ] {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "new", "labels": labels, "annotations": annotations},
        });
        let response = fixture
            .send(
                "/validate-workloads",
                review("u-11", "new", "Namespace", namespace),
            )
            .await;
        assert!(response.allowed);
        let text = response.warnings.join("\n");
        assert!(text.contains(expected), "{expected}\nis missing in\n{text}");
        assert_eq!(text.is_empty(), expected.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn container_patch_that_applies_to_no_container_is_allowed_with_a_warning() {
    let fixture = Fixture::new(Mode::Responds).await;
    let patch = |path: &str| {
        json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "ContainerPatch",
            "metadata": {"name": "p", "namespace": "kong-mesh-system"},
            "spec": {"sidecarPatch": [{"op": "add", "path": path, "value": "\"/tmp\""}]},
        })
    };
    for (path, warnings) in [("/nosuchfield", 1), ("/workingDir", 0)] {
        let review = review("u-10", "kong-mesh-system", "ContainerPatch", patch(path));
        let response = fixture.send("/validate-kuma-io-v1alpha1", review).await;
        assert!(response.allowed);
        assert_eq!(response.warnings.len(), warnings, "{response:?}");
        assert!(
            response
                .warnings
                .iter()
                .all(|warning| warning.contains("sidecarPatch[0] (add /nosuchfield)"))
        );
    }
}

#[tokio::test]
async fn container_patch_outside_the_system_namespace_is_denied() {
    let fixture = Fixture::new(Mode::Responds).await;
    let container_patch = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {}});
    let review = review("u-7", "shop", "ContainerPatch", container_patch);
    let denied = fixture.send("/validate-kuma-io-v1alpha1", review).await;
    assert!(
        denied
            .denial_message()
            .contains("can only be placed in kong-mesh-system namespace"),
        "{denied:?}"
    );
}

#[tokio::test]
async fn permission_of_an_unknown_mesh_is_accepted_with_a_warning() {
    let fixture = Fixture::new(Mode::Responds).await;
    let warnings = async |labels: Value| {
        let permission = json!({
            "metadata": {"name": "p", "namespace": "kong-mesh-system", "labels": labels},
            "spec": {
                "targetRef": {"kind": "Mesh"},
                "from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}],
            },
        });
        let review = review("u-8", "kong-mesh-system", "MeshTrafficPermission", permission);
        let response = fixture.send("/validate-kuma-io-v1alpha1", review).await;
        assert!(response.allowed, "{response:?}");
        response.warnings
    };
    for mesh in ["unknown", ""] {
        let unknown = warnings(json!({MESH: mesh})).await;
        assert_eq!(unknown.len(), 1, "{unknown:?}");
        let problem = format!("Mesh {mesh:?} does not exist");
        assert!(unknown[0].contains(&problem), "{unknown:?}");
    }
    for labels in [json!({MESH: "default"}), json!({})] {
        assert!(warnings(labels).await.is_empty());
    }
}

/// Adds the Kubernetes Service `idle` to the API server. It is in the namespace `shop`, and has port 80 and no Pods.
fn put_service_without_pods(fixture: &Fixture) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "idle", "namespace": "shop"},
        "spec": {"ports": [{"port": 80}]},
    });
    fixture
        .api_server
        .put("/api/v1/namespaces/shop/services/idle", service);
}

#[tokio::test]
async fn permission_that_names_an_unknown_service_is_accepted_with_a_warning() {
    let fixture = Fixture::new(Mode::Responds).await;
    put_service_without_pods(&fixture);
    let service = |name: &str| json!({"kind": "MeshService", "name": name});
    let warnings = async |target: Value, clients: &[Value]| {
        let rules: Vec<_> = clients
            .iter()
            .map(|client| json!({"targetRef": client, "default": {"action": "Allow"}}))
            .collect();
        let permission = json!({
            "metadata": {"name": "p", "namespace": "kong-mesh-system"},
            "spec": {"targetRef": target, "from": rules},
        });
        let review = review("u-9", "kong-mesh-system", "MeshTrafficPermission", permission);
        let response = fixture.send("/validate-kuma-io-v1alpha1", review).await;
        assert!(response.allowed, "{response:?}");
        response.warnings
    };
    let known = [
        json!({"kind": "Mesh"}),
        service("web_shop_svc_80"),
        service("idle_shop_svc_80"),
    ];
    assert_eq!(warnings(service("web_shop_svc_80"), &known).await, [""; 0]);

    let unknown = warnings(service("web_shop_svc_81"), &known).await;
    assert_eq!(
        unknown,
        [
            "spec.targetRef.name: service \"web_shop_svc_81\" does not exist in Mesh \"default\", so this \
             MeshTrafficPermission has no effect: correct the name, or create the service"
        ]
    );
    let subset = json!({"kind": "MeshServiceSubset", "name": "idle_shop_svc_81", "tags": {"version": "1"}});
    let rules = [
        service("web_shop_svc_80"),
        service("client_shop_svc"),
        subset,
        service("client_shop_svc"),
    ];
    let unknown = warnings(json!({"kind": "Mesh"}), &rules).await;
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    assert!(
        unknown[0].starts_with("spec.from[1].targetRef.name: service \"client_shop_svc\" does not exist"),
        "{unknown:?}"
    );
    assert!(
        unknown[1].starts_with("spec.from[2].targetRef.name: service \"idle_shop_svc_81\" does not exist"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn pod_whose_annotations_list_unknown_services_is_injected_with_a_warning() {
    let fixture = Fixture::new(Mode::Responds).await;
    put_service_without_pods(&fixture);
    for key in [DIRECT_ACCESS_SERVICES, REACHABLE_SERVICES] {
        let warnings = async |list: &str| {
            let pod = without_owners(pod_with("annotations", key, list));
            let response = fixture.inject("shop", pod.clone()).await;
            let warnings = response.warnings.clone();
            assert_ne!(response.applied_to(pod.clone()), pod);
            warnings
        };
        let pod_of_a_replica_set = pod_with("annotations", key, "cart");
        let warnings_to_the_controller = fixture.inject("shop", pod_of_a_replica_set).await.warnings;
        assert_eq!(warnings_to_the_controller, [""; 0], "controllers ignore warnings");
        for known in ["", "web_shop_svc_80,idle_shop_svc_80"] {
            assert_eq!(warnings(known).await, [""; 0], "{key}: {known}");
        }
        let expected = format!(
            "annotation {key}: these services do not exist in Mesh \"default\": cart, web_shop_svc; correct the names, \
             or create the services"
        );
        assert_eq!(
            warnings("cart, web_shop_svc_80, web_shop_svc, cart").await,
            [expected]
        );
    }
    let pod = without_owners(pod_with("annotations", DIRECT_ACCESS_SERVICES, "*"));
    let response = fixture.inject("shop", pod).await;
    assert_eq!(response.warnings, [""; 0], "`*` is not the name of a service");
}

#[tokio::test]
async fn warning_names_at_most_eight_unknown_services() {
    let fixture = Fixture::new(Mode::Responds).await;
    let names: Vec<_> = (0..1000).map(|number| format!("s{number}_shop_svc_80")).collect();
    let pod = without_owners(pod_with("annotations", DIRECT_ACCESS_SERVICES, &names.join(",")));
    let warnings = fixture.inject("shop", pod).await.warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].matches("_shop_svc_80").count(), 8, "{warnings:?}");
}
