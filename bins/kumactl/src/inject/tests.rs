//! Tests of `kumactl inject`: injected manifests, explanations and configuration.

use serde_json::{Value, json};

use kermode_config::Config;
use kermode_explain::injections_text;
use kermode_manifests::{ClusterObjects, InjectedManifests, Injector, documents};

use super::InjectArgs;
use super::config::{self, ConfigArgs};

/// Manifest of the Namespace `shop`, whose Pods are injected.
const NAMESPACE: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {kuma.io/sidecar-injection: enabled}
";

/// Pod template, indented for the field `template` of a workload.
const POD_TEMPLATE: &str = "    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
      - {name: web, image: \"web:1\", unknownField: {kept: true}}
";

/// Loads a configuration file with this content, for an API server of this version.
fn load(content: &str, kubernetes_version: Option<&str>) -> anyhow::Result<Config> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, content).expect("the file is written");
    let args = ["--file=-", "--config"].map(str::to_owned);
    let path = path.display().to_string();
    let version_flag = kubernetes_version.map(|version| format!("--kubernetes-version={version}"));
    let flags = args.into_iter().chain([path]).chain(version_flag);
    config::load(&parse_args(flags).config)
}

fn parse_args(flags: impl Iterator<Item = String>) -> InjectArgs {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: InjectArgs,
    }
    let command_line = ["inject".to_owned()].into_iter().chain(flags);
    <Command as clap::Parser>::parse_from(command_line).args
}

/// Injects the manifests for an API server without native sidecars. `cluster` has further objects, which are not
/// injected.
fn inject(manifests: &str, cluster: &str) -> InjectedManifests {
    let config = load("", Some("1.28")).expect("settings");
    let documents = documents::parse(manifests).expect("YAML");
    let mut objects = documents::objects(&documents);
    objects.extend(documents::objects(&documents::parse(cluster).expect("YAML")));
    let cluster = ClusterObjects::new(&objects, config.system_namespace()).expect("objects");
    let injector = Injector {
        config: &config,
        cluster: &cluster,
        ca_pem: "CA",
        namespace: "shop",
    };
    injector.inject(documents).expect("manifests")
}

fn mk_workload(kind: &str, api_version: &str, pod_template: &str) -> String {
    format!(
        "apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: web}}\nspec:\n  template:\n{pod_template}"
    )
}

fn container_names(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    let names = containers.iter().map(|container| container["name"].as_str());
    names.map(|name| name.expect("a name")).collect()
}

#[test]
fn pod_template_of_every_kind_of_workload_is_injected() {
    for (kind, api_version) in [
        ("Deployment", "apps/v1"),
        ("StatefulSet", "apps/v1"),
        ("DaemonSet", "apps/v1"),
        ("ReplicaSet", "apps/v1"),
        ("Job", "batch/v1"),
    ] {
        let injected = inject(&mk_workload(kind, api_version, POD_TEMPLATE), NAMESPACE);
        let object = &documents::parse(&injected.text).expect("YAML")[0].value;
        let template = &object["spec"]["template"];
        assert_eq!(container_names(template), ["kuma-sidecar", "web"], "{kind}");
        assert_eq!(
            template["spec"]["containers"][1]["unknownField"],
            json!({"kept": true})
        );
        assert_eq!(template["metadata"]["generateName"], Value::Null);
        assert_eq!(object["metadata"], json!({"name": "web"}));
        assert_eq!(injected.outcomes[0].name, format!("{kind} shop/web"));
    }
    let job_template = "  jobTemplate:\n    spec:\n      template:\n";
    let pod_template: Vec<String> = POD_TEMPLATE.lines().map(|line| format!("    {line}")).collect();
    let pod_template = pod_template.join("\n");
    let cron_job = format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: web}}\nspec:\n{job_template}{pod_template}"
    );
    let injected = inject(&cron_job, NAMESPACE);
    let object = &documents::parse(&injected.text).expect("YAML")[0].value;
    let template = &object["spec"]["jobTemplate"]["spec"]["template"];
    assert_eq!(container_names(template), ["kuma-sidecar", "web"]);
}

#[test]
fn other_documents_keep_their_text_and_position() {
    let service = "# The service, \"quoted\" in a comment\nkind: Service\nspec: {b: 1,   a: 0x10}\n";
    let opted_out = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {kuma.io/sidecar-injection: 'false'}}\n\
        spec: {containers: [{name: a}]}\n";
    let deployment = mk_workload("Deployment", "apps/v1", POD_TEMPLATE);
    let text = inject(&format!("{service}---\n{deployment}---\n{opted_out}"), NAMESPACE).text;
    let (start, end) = (format!("---\n{service}---\n"), format!("---\n{opted_out}"));
    assert!(text.starts_with(&start) && text.ends_with(&end), "{text}");
    assert!(text.contains("kuma-sidecar"), "{text}");
}

#[test]
fn items_of_every_kind_of_list_are_injected() {
    let pods = json!({"apiVersion": "v1", "kind": "PodList", "items": [
        {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}},
        {"metadata": {"name": "b"}, "spec": {"hostNetwork": "wrong", "containers": []}},
    ]});
    let injected = inject(&pods.to_string(), NAMESPACE);
    assert!(
        injected.contains_denial(),
        "the second item, which is not a valid Pod, is not denied"
    );
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "X"}, {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]},
    }]});
    let injected = inject(&list.to_string(), NAMESPACE);
    let list = &documents::parse(&injected.text).expect("YAML")[0].value;
    assert_eq!(list["items"][0], json!({"kind": "X"}));
    assert_eq!(container_names(&list["items"][1]), ["kuma-sidecar", "a"]);
}

#[test]
fn injected_manifests_are_unchanged_by_a_second_injection() {
    let once = inject(&mk_workload("Deployment", "apps/v1", POD_TEMPLATE), NAMESPACE).text;
    let twice = inject(&once, NAMESPACE);
    assert_eq!(twice.text, once);
    assert!(injections_text(&twice.outcomes).contains("skipped (AlreadyInjected)"));
}

#[test]
fn explanation_names_the_oldest_kubelet() {
    let node = |name: &str, version: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{kubernetes.io/os: linux}}}}\n\
             spec: {spec}\nstatus: {{nodeInfo: {{kubeletVersion: {version}}}}}\n"
        )
    };
    let tainted = "{taints: [{key: example.com/fake, effect: NoSchedule}]}";
    let explain = |nodes: &[String]| {
        let cluster = format!("{NAMESPACE}\n{}", nodes.concat());
        injections_text(&inject(&mk_workload("Deployment", "apps/v1", POD_TEMPLATE), &cluster).outcomes)
    };
    let mut nodes = vec![
        node("new", "v1.34.1", "{}"),
        // Ignored: no Pod is scheduled to a cordoned Node.
        node("cordoned", "v1.26.0", "{unschedulable: true}"),
    ];
    let text = explain(&nodes);
    let expected = "sidecar mode: the oldest kubelet, 1.34 of Node new, supports native sidecars";
    assert!(text.contains(expected), "{text}");
    // Not ignored: Pods may tolerate the taint.
    nodes.push(node("old-node", "v1.27.9", tainted));
    let text = explain(&nodes);
    let expected =
        "sidecar mode: the oldest kubelet, 1.27 of Node old-node, does not support native sidecars";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("sidecar mode: classic"), "{text}");
}

#[test]
fn explanation_lists_each_step_and_operation() {
    let pod = POD_TEMPLATE.replace(
        "labels:",
        "annotations: {kuma.io/container-patches: p, kuma.io/sidecar-drain-time: 58s}\n      labels:",
    );
    let patch = "---\napiVersion: kuma.io/v1alpha1\nkind: ContainerPatch\nmetadata: {name: p, namespace: kong-mesh-system}\n\
        spec: {sidecarPatch: [{op: replace, path: /resources/limits/cpu, value: '\"2\"'}]}\n";
    let manifests = format!("{}{patch}", mk_workload("Deployment", "apps/v1", &pod));
    let text = injections_text(&inject(&manifests, NAMESPACE).outcomes);
    for line in [
        "Deployment shop/web: injected (NamespaceLabel), mesh default",
        "  assumed: no Mesh is among the objects: Mesh default is assumed to exist",
        "  injection: label kuma.io/sidecar-injection of Pod shop/web-* is absent",
        "  injection: label kuma.io/sidecar-injection of Namespace shop is enabled: injected",
        "  mesh: neither Pod nor Namespace has kuma.io/mesh, so the mesh is default",
        "  sidecar mode: the API server does not support native sidecars",
        "  container patches: ContainerPatch \"p\", sidecarPatch[0] (replace /resources/limits/cpu): \
           /resources/limits/cpu was \"1000m\", is \"2\"",
        "  drain time: cut to 55s, since 5 s of the grace period are reserved for stopping",
        "  warning: drain time 58s does not fit into the grace period of 1m0s and was cut to 55s: raise \
           spec.terminationGracePeriodSeconds or shorten kuma.io/sidecar-drain-time",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis missing in\n{text}"
        );
    }
}

#[test]
fn drain_time_fits_the_default_grace_period() {
    let pod = POD_TEMPLATE.replace("      terminationGracePeriodSeconds: 60\n", "");
    let text = inject(&mk_workload("Deployment", "apps/v1", &pod), NAMESPACE).text;
    let drain_time = "- name: KUMA_DATAPLANE_DRAIN_TIME\n          value: 25s\n";
    assert!(text.contains(drain_time), "{text}");
    assert!(!text.contains("terminationGracePeriodSeconds"), "{text}");
}

#[test]
fn injection_label_outside_of_the_pod_template_is_reported() {
    let deployment = mk_workload("Deployment", "apps/v1", POD_TEMPLATE).replace(
        "metadata: {name: web}",
        "metadata: {name: web, labels: {kuma.io/sidecar-injection: enabled}}",
    );
    let injected = inject(&deployment, "");
    assert!(!injected.outcomes[0].is_injected());
    let text = injections_text(&injected.outcomes);
    assert!(
        text.contains("move it to spec.template.metadata.labels"),
        "{text}"
    );
}

#[test]
fn default_mesh_is_assumed_only_without_any_mesh() {
    let cluster_with_mesh = |name: &str| {
        format!("{NAMESPACE}---\napiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {{name: {name}}}\n")
    };
    let deployment = mk_workload("Deployment", "apps/v1", POD_TEMPLATE);
    assert!(!inject(&deployment, &cluster_with_mesh("default")).contains_denial());
    let denied = inject(&deployment, &cluster_with_mesh("other"));
    assert!(denied.contains_denial());
    let text = injections_text(&denied.outcomes);
    assert!(
        text.starts_with("Deployment shop/web: denied (MeshNotFound)"),
        "{text}"
    );
}

#[test]
fn configuration_of_the_installation_is_accepted() {
    let objects = crate::control_plane_objects(&[
        "--zone=a",
        "--set=runtime.kubernetes.injector.containerPatches=[x]",
        "--set=runtime.kubernetes.admissionServer.port=5444",
        "--set=defaults.skipMeshCreation=true",
    ]);
    let objects = objects.expect("manifests");
    let config_map = objects.iter().find(|object| object["kind"] == "ConfigMap");
    let content = config_map.expect("a ConfigMap")["data"]["config.yaml"]
        .as_str()
        .expect("text");
    let config = load(content, None).expect("a valid configuration");
    assert_eq!(config.injector().container_patches, ["x"]);
    assert!(config.injector().native_sidecars_supported);
    assert_eq!(
        config.control_plane_url(),
        "https://kuma-control-plane.kong-mesh-system:5678"
    );
}

#[test]
fn all_problems_of_a_configuration_are_reported_at_once() {
    let content =
        "runtime: {kubernetes: {injector: {sidecarMood: native, virtualProbesPort: x}}}\nstor: {}\n";
    let text = load(content, None)
        .expect_err("the configuration is invalid")
        .to_string();
    for part in [
        "unknown key runtime.kubernetes.injector.sidecarMood",
        "runtime.kubernetes.injector.virtualProbesPort",
        "unknown key stor",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let invalid_version = Some("new");
    assert!(load("", invalid_version).is_err());
    let empty_image = "runtime: {kubernetes: {injector: {initContainer: {image: ''}}}}";
    let text = load(empty_image, None)
        .expect_err("the configuration is invalid")
        .to_string();
    assert!(text.contains("initContainer.image"), "{text}");
}

#[test]
fn defaults_of_the_injector_are_used_without_flags() {
    let args = ConfigArgs::default();
    let config = config::load(&args).expect("defaults");
    let expected = kermode_inject::Settings {
        // Without the flag `--kubernetes-version`, native sidecars and sleep hooks are assumed to be supported.
        native_sidecars_supported: true,
        sleep_hooks_supported: true,
        ..kermode_inject::Settings::default()
    };
    assert_eq!(config.injector(), &expected);
}

#[test]
fn configuration_with_every_section_is_accepted() {
    let mut full = serde_json::to_value(Config::default()).expect("the configuration can be encoded");
    full["tracing"]["openTelemetry"]["enabled"] = true.into();
    full["runtime"]["kubernetes"]["injector"]["virtualProbesPort"] = 9001.into();
    let config = load(&full.to_string(), None).expect("a valid configuration");
    assert!(config.tracing.open_telemetry.enabled);
    assert_eq!(config.injector().virtual_probes_port, 9001);
}

#[test]
fn configuration_that_the_control_plane_rejects_is_rejected_with_the_same_text() {
    for text in [
        "tracing: {openTelemetry: {samplingRatio: 2}}",
        "log: {format: xml}",
        "runtime: {kubernetes: {admissionServer: {port: many}, injector: {ebpf: {enabled: true}}}}",
        "foo: 1\nmultizone: {zones: []}",
        "runtime: {kubernetes: {injector: {virtualProbesPort: 0}}}",
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, text).expect("the file is written");
        let args = ["--file=-".to_owned(), format!("--config={}", path.display())];
        let command_error =
            config::load(&parse_args(args.into_iter()).config).expect_err("the configuration is invalid");
        let control_plane_error =
            Config::load(Some(&path), |_| None).expect_err("the configuration is invalid");
        assert_eq!(format!("{command_error:#}"), control_plane_error.to_string());
    }
}
