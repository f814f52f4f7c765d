//! Tests of whole installations: comparison with goldens, and properties of every installation.

use std::path::PathBuf;

use clap::Parser;
use serde_json::{Value, json};

use kermode_manifests::yaml;

use crate::cli::{Cli, Command};
use crate::install::InstallCommand;
use crate::install::args::DEFAULT_NAMESPACE;

fn parse_args(flags: &[&str]) -> super::ControlPlaneArgs {
    let command_line = ["kumactl", "install", "control-plane"].iter().chain(flags);
    let Command::Install(install) = Cli::try_parse_from(command_line).expect("flags").command else {
        panic!("the subcommand is not install");
    };
    let InstallCommand::ControlPlane(args) = *install else {
        panic!("the subcommand is not control-plane");
    };
    args
}

fn objects(flags: &[&str]) -> Vec<Value> {
    super::objects(&parse_args(flags)).expect("manifests")
}

/// Returns the only object of a kind.
fn find(objects: &[Value], kind: &str) -> Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found
        .next()
        .unwrap_or_else(|| panic!("no object is a {kind}"))
        .clone();
    assert!(found.next().is_none(), "more than one object is a {kind}");
    object
}

fn error_of(flags: &[&str]) -> String {
    match super::objects(&parse_args(flags)) {
        Ok(_) => panic!("{flags:?} is accepted"),
        Err(error) => format!("{error:#}"),
    }
}

/// Flags for the versions of the images in the goldens, so that a release does not change the goldens.
const PINNED_VERSION_FLAGS: [&str; 4] = [
    "--cni-version=1.2.3",
    "--control-plane-version=1.2.3",
    "--dataplane-version=1.2.3",
    "--dataplane-init-version=1.2.3",
];

/// Compares the output with `goldens/<name>.yaml`. With UPDATE_GOLDENS set, writes the golden first. The goldens
/// contain no CustomResourceDefinitions, because `kermode-crds` tests their content.
fn assert_equals_golden(name: &str, flags: &[&str]) {
    let flags: Vec<&str> = PINNED_VERSION_FLAGS.iter().chain(flags).copied().collect();
    let mut objects = objects(&flags);
    objects.retain(|object| object["kind"] != "CustomResourceDefinition");
    let text = yaml::documents(&objects).expect("YAML");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/install/goldens")
        .join(format!("{name}.yaml"));
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &text).expect("the golden is written");
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    assert!(
        text == expected,
        "{} differs from the output; look at the difference after a run with UPDATE_GOLDENS=1",
        path.display()
    );
}

#[test]
fn installation_without_flags_equals_the_golden() {
    assert_equals_golden("default", &[]);
}

#[test]
fn installation_with_many_flags_equals_the_golden() {
    assert_equals_golden(
        "flags",
        &[
            "--namespace=mesh",
            "--mode=zone",
            "--zone=east",
            "--replicas=3",
            "--registry=registry.example/kermode",
            "--dataplane-init-registry=registry.example/other",
            "--image-pull-secret=registry-credentials",
            "--image-pull-secret=other.credentials",
            "--control-plane-repository=cp",
            "--injector-failure-policy=Ignore",
            "--env-var=KUMA_DEFAULTS_SKIP_MESH_CREATION=true",
            "--env-var=KUMA_RUNTIME_KUBERNETES_INJECTOR_CONTAINER_PATCHES=a,b",
            "--set=runtime.kubernetes.injector.sidecarContainer.drainTime=45s",
            "--set=runtime.kubernetes.injector.exceptions.labels.example\\.com/build=\"*\"",
            "--without-kubernetes-connection",
        ],
    );
}

#[test]
fn installation_for_a_control_plane_outside_of_the_cluster_equals_the_golden() {
    assert_equals_golden(
        "outside",
        &["--webhook-url=https://192.0.2.1:5443/", "--without-deployment"],
    );
}

#[test]
fn installation_with_the_cni_plugin_equals_the_golden() {
    assert_equals_golden(
        "cni",
        &["--cni-enabled", "--image-pull-secret=registry-credentials"],
    );
}

#[test]
fn cni_flags_have_defaults_that_depend_on_chaining() {
    let arguments = |flags: &[&str]| {
        let daemon_set = find(&objects(&[&["--cni-enabled"], flags].concat()), "DaemonSet");
        daemon_set["spec"]["template"]["spec"]["containers"][0]["args"].to_string()
    };
    for (flags, expected) in [
        (
            &[][..],
            &["=/etc/cni/net.d", "=/opt/cni/bin", "--cni-chained=true"][..],
        ),
        (&["--cni-chained"], &["--cni-chained=true"]),
        (
            &["--cni-chained=false"],
            &[
                "=/etc/cni/multus/net.d",
                "=/var/lib/cni/bin",
                "--cni-chained=false",
            ],
        ),
        (
            &[
                "--cni-net-dir=/var/cni/",
                "--cni-bin-dir=/x/bin",
                "--cni-conf-name=10-calico.conflist",
            ],
            &["=/var/cni\"", "=/x/bin", "--cni-conf-name=10-calico.conflist"],
        ),
    ] {
        let arguments = arguments(flags);
        for expected in expected {
            assert!(
                arguments.contains(expected),
                "{expected} is missing in {arguments}"
            );
        }
    }
    assert!(objects(&[]).iter().all(|object| object["kind"] != "DaemonSet"));
}

#[test]
fn wrong_cni_flags_are_rejected() {
    let text = error_of(&[
        "--cni-enabled",
        "--cni-net-dir=etc/cni",
        "--cni-bin-dir=/opt/../bin",
        "--cni-conf-name=a/b.conf",
        "--cni-version=",
    ]);
    for expected in ["--cni-net-dir", "--cni-bin-dir", "--cni-conf-name", "image"] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
}

#[test]
fn root_of_the_node_is_not_accepted_as_a_folder() {
    for root in ["/", "//", "/./"] {
        let folder = format!("--cni-net-dir={root}");
        let text = error_of(&["--cni-enabled", &folder]);
        assert!(text.contains("--cni-net-dir"), "{text}");
    }
}

#[test]
fn control_plane_publishes_the_plugins_network_only_without_chaining() {
    for (flags, is_chained) in [
        (&["--cni-enabled"][..], true),
        (&["--cni-enabled", "--cni-chained=false"], false),
    ] {
        let objects = objects(flags);
        let config = find(&objects, "ConfigMap")["data"]["config.yaml"].clone();
        let config: Value = serde_json::from_str(config.as_str().expect("a text")).expect("JSON");
        assert_eq!(
            config["runtime"]["kubernetes"]["injector"]["cniChained"],
            is_chained
        );
        let roles = objects.iter().filter(|object| object["kind"] == "ClusterRole");
        let is_allowed = roles
            .flat_map(|role| role["rules"].as_array().expect("rules"))
            .any(|rule| rule["resources"][0] == "network-attachment-definitions");
        assert_eq!(is_allowed, !is_chained);
    }
}

#[test]
fn name_of_a_list_is_accepted_only_with_chaining() {
    let flags = [
        "--cni-enabled",
        "--cni-conf-name=x.conflist",
        "--cni-chained=false",
    ];
    let text = error_of(&flags);
    assert!(
        text.contains("--cni-conf-name: if --cni-chained is false"),
        "{text}"
    );
    assert!(!objects(&flags[..2]).is_empty());
}

#[test]
fn custom_resource_definitions_come_directly_after_the_namespace() {
    let definitions = kermode_crds::definition::all();
    let objects = objects(&[]);
    assert_eq!(objects[0]["kind"], "Namespace");
    assert_eq!(objects[1..=definitions.len()], definitions);
}

#[test]
fn access_rights_exclude_wildcards_escalation_and_secrets_of_all_namespaces() {
    for object in objects(&["--cni-enabled"]) {
        if !matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")) {
            continue;
        }
        assert!(!object.to_string().contains('*'), "{object}");
        for rule in object["rules"].as_array().expect("rules") {
            let verbs = rule["verbs"].to_string();
            for verb in ["bind", "escalate", "impersonate", "deletecollection"] {
                assert!(!verbs.contains(verb), "{rule}");
            }
            let has_secrets = rule["resources"].to_string().contains("secrets");
            assert!(
                !(has_secrets && object["kind"] == "ClusterRole"),
                "the rule gives access to the Secrets of all namespaces: {rule}"
            );
        }
    }
}

#[test]
fn objects_are_unique_and_namespaced_objects_have_a_namespace() {
    let objects = objects(&["--namespace=mesh", "--replicas=2", "--cni-enabled"]);
    let cluster_wide = [
        "Namespace",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ];
    let mut seen = std::collections::BTreeSet::new();
    for object in &objects {
        let kind = object["kind"].as_str().expect("a kind");
        let own_namespace = if object["metadata"]["name"] == "kuma-cni" {
            "kube-system"
        } else {
            "mesh"
        };
        let namespace = (!cluster_wide.contains(&kind)).then_some(own_namespace);
        assert_eq!(object["metadata"]["namespace"].as_str(), namespace, "{object}");
        assert!(
            seen.insert(format!("{kind} {}", object["metadata"]["name"])),
            "{object} is listed twice"
        );
    }
    for object in &objects {
        assert!(
            !object.to_string().contains(DEFAULT_NAMESPACE),
            "the default namespace is used instead of --namespace: {object}"
        );
    }
}

#[test]
fn pods_of_the_control_plane_meet_pod_security_restricted() {
    let objects = objects(&[]);
    let labels = &find(&objects, "Namespace")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    let pod = find(&objects, "Deployment")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().expect("containers") {
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(
            container["securityContext"]["capabilities"],
            json!({"drop": ["ALL"]})
        );
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    }
}

/// The injector's three webhooks have the names, label selectors and failure policies of Kuma 2.1.7.
#[test]
fn webhooks_of_the_injector_equal_kumas_webhooks() {
    let objects = objects(&[]);
    let webhooks = find(&objects, "MutatingWebhookConfiguration")["webhooks"].clone();
    let labelled = json!({"kuma.io/sidecar-injection": "enabled"});
    let expected = [
        (
            "namespace-kuma-injector.kuma.io",
            "Fail",
            labelled.clone(),
            Value::Null,
        ),
        ("pods-kuma-injector.kuma.io", "Fail", Value::Null, labelled),
        ("kuma-injector.kuma.io", "Ignore", Value::Null, Value::Null),
    ];
    assert_eq!(webhooks.as_array().map(Vec::len), Some(expected.len()));
    for ((name, policy, namespace, object), webhook) in
        expected.iter().zip(webhooks.as_array().expect("webhooks"))
    {
        assert_eq!(webhook["name"], *name);
        assert_eq!(webhook["failurePolicy"], *policy);
        assert_eq!(webhook["namespaceSelector"]["matchLabels"], *namespace);
        assert_eq!(webhook["objectSelector"]["matchLabels"], *object);
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/inject-sidecar");
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
        let rule = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "*"}]);
        assert_eq!(webhook["rules"], rule);
    }
}

#[test]
fn injector_excludes_the_system_namespace_and_its_catch_all_webhook_also_excludes_kube_namespaces() {
    for flags in [
        &["--namespace=mesh"][..],
        &["--namespace=mesh", "--webhook-url=https://192.0.2.1:1"],
    ] {
        let webhooks = find(&objects(flags), "MutatingWebhookConfiguration")["webhooks"].clone();
        for webhook in webhooks.as_array().expect("webhooks") {
            let excluded = match webhook["name"].as_str() {
                Some("kuma-injector.kuma.io") => {
                    json!(["mesh", "kube-system", "kube-node-lease", "kube-public"])
                }
                _ => json!(["mesh"]),
            };
            assert_eq!(
                webhook["namespaceSelector"]["matchExpressions"],
                json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded}]),
            );
        }
    }
}

#[test]
fn webhooks_that_fail_open_delay_objects_for_two_seconds_at_most() {
    let objects = objects(&[]);
    let mut fail_open = Vec::new();
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        for webhook in find(&objects, kind)["webhooks"].as_array().expect("webhooks") {
            if webhook["failurePolicy"] == "Ignore" {
                assert_eq!(webhook["timeoutSeconds"], 2, "{webhook}");
                fail_open.push(webhook["name"].clone());
            }
        }
    }
    assert!(fail_open.len() >= 2, "{fail_open:?}");
}

#[test]
fn injector_is_called_again_for_pods_that_a_later_webhook_changes() {
    let webhooks = find(&objects(&[]), "MutatingWebhookConfiguration")["webhooks"].clone();
    for webhook in webhooks.as_array().expect("webhooks") {
        assert_eq!(webhook["reinvocationPolicy"], "IfNeeded", "{webhook}");
    }
}

#[test]
fn warning_webhook_is_called_for_all_workloads_and_its_failure_is_ignored() {
    let webhooks = find(&objects(&[]), "ValidatingWebhookConfiguration")["webhooks"].clone();
    let webhooks = webhooks.as_array().expect("webhooks");
    let webhook = webhooks
        .iter()
        .find(|webhook| webhook["name"] == "workloads.kuma-admission.kuma.io");
    let webhook = webhook.expect("the webhook");
    assert_eq!(webhook["failurePolicy"], "Ignore");
    assert_eq!(webhook["sideEffects"], "None");
    assert!(webhook["timeoutSeconds"].as_u64() <= Some(2));
    assert!(
        webhook.get("objectSelector").is_none(),
        "a selector would miss workloads whose Namespace or Pod template has the label"
    );
    let excluded = json!([
        "kong-mesh-system",
        "kube-system",
        "kube-node-lease",
        "kube-public"
    ]);
    assert_eq!(
        webhook["namespaceSelector"]["matchExpressions"],
        json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": excluded}]),
    );
    let rules = webhook["rules"].as_array().expect("rules").iter();
    let resources: Vec<&Value> = rules
        .flat_map(|rule| rule["resources"].as_array().expect("resources"))
        .collect();
    for resource in [
        "cronjobs",
        "daemonsets",
        "deployments",
        "jobs",
        "namespaces",
        "replicasets",
        "replicationcontrollers",
        "statefulsets",
    ] {
        assert!(resources.iter().any(|found| *found == resource), "{resource}");
    }
}

#[test]
fn webhook_registrations_have_no_ca_bundle() {
    for object in objects(&[]) {
        assert!(!object.to_string().contains("caBundle"), "{object}");
    }
}

#[test]
fn variables_of_env_var_flags_follow_the_variables_from_pod_fields() {
    let deployment = find(&objects(&["--env-var", "B=1", "--env-var", "A=2"]), "Deployment");
    let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    let names: Vec<&str> = env
        .as_array()
        .expect("env")
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(names, ["POD_NAME", "POD_NAMESPACE", "A", "B"]);
}

#[test]
fn changed_configuration_changes_the_pod_template() {
    let checksum = |flags: &[&str]| {
        find(&objects(flags), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            .clone()
    };
    assert_eq!(checksum(&[]), checksum(&["--replicas=2"]));
    assert_ne!(checksum(&[]), checksum(&["--set=defaults.skipMeshCreation=true"]));
}

#[test]
fn unsupported_or_incomplete_flags_are_rejected_with_a_remedy() {
    assert!(error_of(&["--mode=global"]).contains("not supported yet"));
    assert!(error_of(&["--kds-global-address=grpcs://x:1"]).contains("not supported yet"));
    assert!(error_of(&["--mode=zone"]).contains("--zone"));
}

#[test]
fn all_wrong_flags_are_reported_at_once() {
    let text = error_of(&[
        "--namespace=Mesh",
        "--webhook-url=http://x",
        "--env-var=A",
        "--registry=",
        "--zone=-a",
    ]);
    for expected in ["--namespace", "--webhook-url", "--env-var", "image", "--zone"] {
        assert!(text.contains(expected), "{expected} is missing in: {text}");
    }
    let text = error_of(&["--set=a", "--set=.=1"]);
    assert_eq!(text.matches("--set").count(), 2, "{text}");
}

#[test]
fn settings_that_the_control_plane_would_refuse_and_invalid_secret_names_are_rejected() {
    for (flag, problem) in [
        (
            "--set=runtime.kubernetes.injector.sidecarMod=native",
            "--set: unknown key runtime.kubernetes.injector.sidecarMod",
        ),
        (
            "--set=runtime.kubernetes.injector.sidecarMode=sometimes",
            "--set: runtime.kubernetes.injector.sidecarMode: ",
        ),
        (
            "--set=runtime.kubernetes.injector.virtualProbesPort=0",
            "virtualProbesPort: must be a port",
        ),
        ("--set=dpServer.port=high", "--set: dpServer.port: "),
        ("--env-var=KUMA_DP_SERVER_PORT=high", "$KUMA_DP_SERVER_PORT: "),
        (
            "--env-var=KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_DRAIN_TIME=soon",
            "$KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_DRAIN_TIME: ",
        ),
        (
            "--env-var=KUMA_TRACING_OPENTELEMETRY_SAMPLING_RATIO=2",
            "is not between 0 and 1",
        ),
        (
            "--image-pull-secret=Credentials",
            "--image-pull-secret \"Credentials\"",
        ),
    ] {
        let text = error_of(&[flag]);
        assert!(text.contains(problem), "{flag}: {text}");
    }
    let text = error_of(&["--set=a=1", "--env-var=KUMA_DP_SERVER_PORT=high"]);
    assert!(
        text.contains("unknown key a") && text.contains("$KUMA_DP_SERVER_PORT"),
        "{text}"
    );
}

#[test]
fn options_of_the_pods_of_the_control_plane_are_in_the_deployment() {
    let flags = [
        "--control-plane-priority-class=system-cluster-critical",
        "--control-plane-node-selector=pool=mesh",
        "--control-plane-toleration=dedicated=mesh:NoSchedule",
        "--control-plane-topology-spread=topology.kubernetes.io/zone=DoNotSchedule",
        "--control-plane-memory-limit=2Gi",
        "--replicas=3",
    ];
    let pod = find(&objects(&flags), "Deployment")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    assert_eq!(
        pod["nodeSelector"],
        json!({"kubernetes.io/os": "linux", "pool": "mesh"})
    );
    assert_eq!(
        pod["tolerations"],
        json!([{"key": "dedicated", "operator": "Equal", "value": "mesh", "effect": "NoSchedule"}])
    );
    let constraints = pod["topologySpreadConstraints"].as_array().expect("constraints");
    let spread: Vec<_> = constraints
        .iter()
        .map(|constraint| (&constraint["topologyKey"], &constraint["whenUnsatisfiable"]))
        .collect();
    assert_eq!(
        json!(spread),
        json!([
            ["kubernetes.io/hostname", "ScheduleAnyway"],
            ["topology.kubernetes.io/zone", "DoNotSchedule"]
        ])
    );
    assert_eq!(
        pod["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}})
    );
}

#[test]
fn disruption_budget_exists_for_several_replicas_and_keeps_one_of_them() {
    let budgets = |flags: &[&str]| {
        let objects = objects(flags).into_iter();
        let budgets = objects.filter(|object| object["kind"] == "PodDisruptionBudget");
        budgets.map(|budget| budget["spec"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(budgets(&[]), [Value::Null; 0]);
    assert_eq!(
        budgets(&["--replicas=3", "--without-deployment"]),
        [Value::Null; 0]
    );
    let selector = json!({"matchLabels": {"app": "kuma-control-plane"}});
    assert_eq!(
        budgets(&["--replicas=3", "--control-plane-max-unavailable=2"]),
        [json!({"maxUnavailable": 2, "selector": selector})]
    );
    assert!(
        error_of(&["--replicas=2", "--control-plane-max-unavailable=2"]).contains("less than --replicas")
    );
}

#[test]
fn network_policy_opens_only_the_ports_that_are_needed() {
    let policy = |flags: &[&str]| {
        let policy = find(
            &objects(&[&["--network-policies"], flags].concat()),
            "NetworkPolicy",
        );
        policy["spec"].clone()
    };
    let ports = |name: &str| json!([{"port": name, "protocol": "TCP"}]);
    let sidecars = json!({"from": [{"namespaceSelector": {}}], "ports": ports("dp-server")});
    assert_eq!(
        policy(&[]),
        json!({
            "podSelector": {"matchLabels": {"app": "kuma-control-plane"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports("admission")}, sidecars],
        })
    );
    let of_monitoring =
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}});
    assert_eq!(
        policy(&["--api-server-cidr=192.0.2.1/32", "--metrics-namespace=monitoring"])["ingress"],
        json!([
            {"from": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": ports("admission")},
            sidecars,
            {"from": [of_monitoring], "ports": ports("diagnostics")},
        ])
    );
}
