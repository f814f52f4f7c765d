//! Tests of `kumactl explain`: explanations of a cluster and of files, compared with goldens. `UPDATE_GOLDENS=1` rewrites
//! the goldens.

use std::path::PathBuf;

use clap::Parser;
use kermode_explain::Unread;
use kermode_manifests::{ClusterObjects, Injector, documents};
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command};

const CLUSTER: &str = include_str!("goldens/cluster.yaml");
const PODS: &str = include_str!("goldens/pods.yaml");
const STATE_OF_WEB_0: &str = include_str!("goldens/state-of-web-0.yaml");
const DENIED: &str = include_str!("goldens/denied.yaml");

fn objects(texts: &[&str]) -> Vec<Value> {
    texts
        .iter()
        .flat_map(|text| documents::objects(&documents::parse(text).expect("YAML")))
        .collect()
}

fn command(arguments: &[&str]) -> ExplainCommand {
    let line = ["kumactl", "explain"].iter().chain(arguments);
    let Command::Explain(command) = Cli::try_parse_from(line).expect("flags").command else {
        panic!("the subcommand is not explain");
    };
    command
}

/// Returns the objects as if they came from files.
fn observed(objects: Vec<Value>) -> ObservedCluster {
    let command = command(&["pod", "--file=-"]);
    files::observed(objects, command.source(), "shop").expect("a configuration")
}

/// Returns all Pods, `web-0` injected and with its state, as if they came from a cluster.
fn cluster() -> ObservedCluster {
    let mut cluster = observed(objects(&[CLUSTER, PODS]));
    let known = ClusterObjects::new(&cluster.objects, "kong-mesh-system").expect("objects");
    let injector = Injector {
        config: &cluster.config,
        cluster: &known,
        ca_pem: "roots",
        namespace: "shop",
    };
    let mut state = objects(&[STATE_OF_WEB_0]);
    let status = state.remove(0)["status"].take();
    let web = cluster
        .objects
        .iter_mut()
        .find(|object| object["metadata"]["name"] == "web-0")
        .expect("Pod web-0");
    let outcome = injector.inject_pod_at(web, "").expect("a patch that applies");
    assert!(outcome.is_injected());
    web["status"] = status;
    cluster.objects.extend(state);
    cluster.control_plane_roots = Some("roots".to_owned());
    cluster.is_live = true;
    cluster
}

fn pod_mut<'a>(cluster: &'a mut ObservedCluster, name: &str) -> &'a mut Value {
    let mut objects = cluster.objects.iter_mut();
    let is_pod = |object: &&mut Value| object["kind"] == "Pod" && object["metadata"]["name"] == name;
    objects.find(is_pod).expect("the Pod")
}

fn ids(explanation: &Explanation) -> Vec<&'static str> {
    explanation.findings.iter().map(|finding| finding.id).collect()
}

/// Compares a text with `goldens/<name>`. With UPDATE_GOLDENS set, writes the golden first.
#[allow(
    clippy::disallowed_methods,
    reason = "`UPDATE_GOLDENS` is a switch for developers"
)]
fn assert_equals_golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/explain/goldens")
        .join(name);
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, text).expect("the golden is written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text, golden,
        "{name} differs (UPDATE_GOLDENS=1 rewrites the goldens)"
    );
}

#[test]
fn injected_pod_is_explained_with_its_problems() {
    let explanation = explain_pod(&cluster(), "shop", "web-0").expect("a Pod");
    assert_eq!(
        ids(&explanation),
        [
            "ContainerNotReady",
            "ServiceWithoutInbound",
            "ConfigurationRejected"
        ]
    );
    assert_equals_golden("pod-injected.txt", &explanation.to_text());
    let yaml = output::formatted(Format::Yaml, &explanation, String::new).expect("YAML");
    assert_equals_golden("pod-injected.yaml", &yaml);
}

#[test]
fn pod_that_is_older_than_the_label_of_its_namespace_is_explained() {
    let explanation = explain_pod(&cluster(), "shop", "early").expect("a Pod");
    assert_eq!(ids(&explanation), ["NotInjected"]);
    assert_equals_golden("pod-early.txt", &explanation.to_text());
}

#[test]
fn pod_that_has_finished_without_a_sidecar_is_no_problem() {
    let mut cluster = cluster();
    pod_mut(&mut cluster, "early")["status"]["phase"] = "Succeeded".into();
    let explanation = explain_pod(&cluster, "shop", "early").expect("a Pod");
    assert_eq!(ids(&explanation), [""; 0]);
}

#[test]
fn pod_that_opted_out_is_explained_without_a_problem() {
    let explanation = explain_pod(&cluster(), "shop", "opted-out").expect("a Pod");
    assert_eq!(ids(&explanation), [""; 0]);
    assert_equals_golden("pod-opted-out.txt", &explanation.to_text());
}

#[test]
fn deployment_whose_pods_are_denied_is_explained() {
    let mut cluster = cluster();
    cluster.objects.extend(objects(&[DENIED]));
    let explanation = explain_deployment(&cluster, "shop", "pay").expect("a Deployment");
    assert_eq!(
        ids(&explanation),
        ["PodsNotCreated", "WouldBeDenied", "LabelNotOnTemplate"]
    );
    assert_equals_golden("deployment-denied.txt", &explanation.to_text());
}

#[test]
fn namespace_lists_its_pods_by_injection() {
    let mut cluster = cluster();
    cluster.objects.extend(objects(&[DENIED]));
    let explanation = explain_namespace(&cluster, "shop").expect("a Namespace");
    assert_eq!(ids(&explanation), ["PodsNotCreated", "PodsWithProblems"]);
    assert_equals_golden("namespace.txt", &explanation.to_text());
}

#[test]
fn pod_that_differs_from_what_would_be_injected_today_is_outdated() {
    let mut cluster = cluster();
    let sidecar = &mut pod_mut(&mut cluster, "web-0")["spec"]["initContainers"][1];
    sidecar["image"] = "registry/kuma-dp:0".into();
    sidecar["terminationMessagePath"] = "/dev/termination-log".into();
    let explanation = explain_pod(&cluster, "shop", "web-0").expect("a Pod");
    assert!(ids(&explanation).contains(&"SidecarOutdated"));
    let text = explanation.to_text();
    let difference = "/spec/initContainers/1/image was \"registry/kuma-dp:0\", is \"registry/kuma-dp:1\"";
    assert!(text.contains(difference), "{text}");
    // A default of the API server is no difference.
    assert!(!text.contains("terminationMessagePath"), "{text}");
    // Without the configuration of the control plane, the image that would be injected is unknown.
    cluster.config_is_known = false;
    let explanation = explain_pod(&cluster, "shop", "web-0").expect("a Pod");
    assert!(!ids(&explanation).contains(&"SidecarOutdated"));
    assert!(explanation.to_text().contains("defaults are assumed"));
}

#[test]
fn missing_dataplane_is_a_problem_only_if_dataplanes_were_read() {
    let mut cluster = cluster();
    cluster.objects.retain(|object| object["kind"] != "Dataplane");
    let explanation = explain_pod(&cluster, "shop", "web-0").expect("a Pod");
    assert!(ids(&explanation).contains(&"DataplaneMissing"));
    cluster.unread.push(Unread {
        kind: "Dataplane",
        reason: "no permission".to_owned(),
    });
    let explanation = explain_pod(&cluster, "shop", "web-0").expect("a Pod");
    assert!(!ids(&explanation).contains(&"DataplaneMissing"));
    let text = explanation.to_text();
    assert!(
        text.contains("objects of kind Dataplane were not read: no permission"),
        "{text}"
    );
}

#[test]
fn control_plane_without_a_ready_replica_is_a_problem_and_makes_the_state_of_sidecars_old() {
    let mut cluster = cluster();
    let replica = |name: &str, ready: &str| serde_json::json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
    cluster.control_plane_pods = Some(vec![replica("kuma-control-plane-7d9", "True")]);
    let explanation = explain_pod(&cluster, "shop", "web-0").expect("a Pod");
    assert!(!ids(&explanation).contains(&"ControlPlaneNotReady"));
    assert!(!explanation.to_text().contains("no longer exists"));
    cluster.control_plane_pods = Some(vec![replica("kuma-control-plane-new", "False")]);
    let explanation = explain_pod(&cluster, "shop", "web-0").expect("a Pod");
    assert!(ids(&explanation).contains(&"ControlPlaneNotReady"));
    let text = explanation.to_text();
    assert!(
        text.contains("replica kuma-control-plane-7d9 no longer exists"),
        "{text}"
    );
}

#[test]
fn pod_that_no_webhook_sees_is_a_problem_if_it_requests_injection() {
    let mut cluster = cluster();
    let early = pod_mut(&mut cluster, "early");
    early["metadata"]["namespace"] = "kong-mesh-system".into();
    early["metadata"]["labels"]["kuma.io/sidecar-injection"] = "enabled".into();
    let explanation = explain_pod(&cluster, "kong-mesh-system", "early").expect("a Pod");
    assert_eq!(ids(&explanation), ["NoWebhook"]);
    cluster
        .objects
        .retain(|object| object["kind"] != "MutatingWebhookConfiguration");
    let explanation = explain_pod(&cluster, "kong-mesh-system", "early").expect("a Pod");
    assert_eq!(ids(&explanation), ["WebhooksMissing", "NotInjected"]);
}

#[test]
fn deployment_of_a_file_is_explained_by_its_template() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n\
        spec: {template: {metadata: {labels: {app: web}}, spec: {containers: \
        [{name: app, ports: [{name: http, containerPort: 8080}]}]}}}\n";
    let cluster = observed(objects(&[CLUSTER, deployment]));
    let explanation = explain_deployment(&cluster, "shop", "web").expect("a Deployment");
    assert_eq!(
        explanation.summary,
        "its Pods would be injected (NamespaceLabel), mesh default"
    );
    let text = explanation.to_text();
    assert!(text.contains("inbound 8080: port 80 of Service web"), "{text}");
    assert!(text.contains("kuma.io/service: web_shop_svc_80"), "{text}");
}

#[test]
fn configuration_of_a_cluster_is_that_of_its_file_and_of_the_variables_of_its_deployment() {
    let objects = objects(&[CLUSTER]);
    let config_map = objects.iter().find(|object| object["kind"] == "ConfigMap");
    let config_map = config_map.expect("the ConfigMap");
    let deployment = serde_json::json!({"spec": {"template": {"spec": {"containers": [{"env": [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "KUMA_INJECTOR_INIT_CONTAINER_IMAGE", "value": "registry/kuma-init:2"},
    ]}]}}}});
    let config =
        crate::control_plane::config_in_cluster(config_map, Some(&deployment)).expect("a configuration");
    assert_eq!(config.injector().sidecar_container.image, "registry/kuma-dp:1");
    assert_eq!(config.injector().init_container.image, "registry/kuma-init:2");
    let without_entry = serde_json::json!({"data": {}});
    let error = crate::control_plane::config_in_cluster(&without_entry, None)
        .expect_err("no entry")
        .to_string();
    assert_eq!(
        error,
        "ConfigMap kuma-control-plane-config has no entry config.yaml"
    );
}

#[test]
fn object_is_named_with_its_namespace_or_by_a_flag() {
    for (arguments, expected) in [
        (&["pod", "shop/web"][..], Some(("shop", "web"))),
        (&["pod", "web"], Some(("fallback", "web"))),
        (&["deployment", "web", "-n", "shop"], Some(("shop", "web"))),
        (&["namespace", "shop"], Some(("", "shop"))),
        (&["pod", "-f", "-"], None),
    ] {
        let name = command(arguments).object_name("fallback");
        let name = name
            .as_ref()
            .map(|name| (name.namespace.as_str(), name.name.as_str()));
        assert_eq!(name, expected, "{arguments:?}");
    }
}

#[test]
fn name_is_required_if_files_contain_several_objects_of_the_kind() {
    let cluster = observed(objects(&[PODS]));
    let error = files::only_object(&cluster, "Pod")
        .err()
        .expect("three Pods")
        .to_string();
    assert!(
        error.contains("shop/web-0, shop/early, shop/opted-out"),
        "{error}"
    );
    let error = files::only_object(&cluster, "Deployment")
        .err()
        .expect("no Deployment")
        .to_string();
    assert_eq!(error, "the files contain no Deployment");
}
