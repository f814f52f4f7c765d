//! The manifests and the Helm chart at a real API server: applied again, they change no object, and they do not conflict
//! with the control plane's own writes. `make test-api-server` starts the API server, which runs no controllers.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation fails the test"
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use kermode_checkout::{Checkout, variable};
use kermode_manifests::yaml;
use kumactl::control_plane_objects;
use serde_json::{Value, json};

/// Flags that lead to every kind of object and to every optional part of a Pod.
const FLAGS: [&str; 10] = [
    "--replicas=3",
    "--network-policies",
    "--api-server-cidr=192.0.2.0/28",
    "--metrics-namespace=monitoring",
    "--cni-enabled",
    "--control-plane-priority-class=system-cluster-critical",
    "--control-plane-toleration=dedicated=mesh:NoSchedule",
    "--control-plane-node-selector=pool=mesh",
    "--env-var=KUMA_LOG_LEVEL=debug",
    "--image-pull-secret=credentials",
];

/// The values of the chart that mean the same as [`FLAGS`].
const VALUES: &str = "
global: {imagePullSecrets: [credentials]}
controlPlane:
  replicas: 3
  priorityClassName: system-cluster-critical
  tolerations: [{key: dedicated, operator: Equal, value: mesh, effect: NoSchedule}]
  nodeSelector: {pool: mesh}
  envVars: {KUMA_LOG_LEVEL: debug}
networkPolicies: {enabled: true, apiServerCIDRs: [192.0.2.0/28], metricsNamespaces: [monitoring]}
cni: {enabled: true}
";

/// Held by the test that runs, because most objects have the same names in every installation.
static INSTALLATION: Mutex<()> = Mutex::new(());

/// An installation in a namespace of its own.
struct Installation {
    namespace: &'static str,
    manifests: String,
    _lock: MutexGuard<'static, ()>,
}

impl Installation {
    /// Applies the manifests on the server, and writes `caBundle` as the control plane does.
    fn start(namespace: &'static str) -> Self {
        let lock = INSTALLATION.lock().expect("the other test succeeds");
        let in_namespace = format!("--namespace={namespace}");
        let flags = [&FLAGS[..], &[&in_namespace]].concat();
        let objects = control_plane_objects(&flags).expect("manifests");
        let installation = Self {
            namespace,
            manifests: yaml::documents(&objects).expect("YAML"),
            _lock: lock,
        };
        installation.apply();
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            write_ca_bundles(
                objects
                    .iter()
                    .find(|object| object["kind"] == kind)
                    .expect("a registration"),
            );
        }
        installation
    }

    fn apply(&self) {
        kubectl(&["apply", "--server-side", "-f", "-"], &self.manifests);
    }

    /// Returns the objects as the API server has them, by kind and name.
    fn objects(&self) -> BTreeMap<String, Value> {
        let list = kubectl(&["get", "-f", "-", "-o", "json"], &self.manifests);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        let objects = list["items"].as_array().expect("items").iter();
        objects
            .map(|object| {
                (
                    format!("{} {}", object["kind"], object["metadata"]["name"]),
                    object.clone(),
                )
            })
            .collect()
    }

    /// Runs Helm in the namespace, with the chart and values if the command takes them.
    fn helm(&self, arguments: &[&str]) {
        let checkout = Checkout::find().expect("the checkout");
        let mut command = Command::new(checkout.tool("helm").expect("Helm"));
        command
            .args(arguments)
            .arg(format!("--namespace={}", self.namespace));
        if arguments[0] != "uninstall" {
            command
                .arg(checkout.repository.join("deploy/chart"))
                .arg("--values=-");
        }
        run(command, VALUES);
    }
}

/// Writes the `caBundle` of each webhook of a registration, as the control plane does.
fn write_ca_bundles(registration: &Value) {
    let format = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
    let bundle = kubectl(&["config", "view", "--raw", "-o", format], "");
    let webhooks = registration["webhooks"].as_array().expect("webhooks");
    let operation = |index: usize| json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle});
    let patch: Value = (0..webhooks.len()).map(operation).collect();
    let kind = registration["kind"].as_str().expect("a kind");
    let name = registration["metadata"]["name"].as_str().expect("a name");
    kubectl(
        &["patch", kind, name, "--type=json", "--patch", &patch.to_string()],
        "",
    );
}

/// Runs kubectl of the cluster, which is beside the kubeconfig. Returns its output.
fn kubectl(arguments: &[&str], input: &str) -> String {
    let kubeconfig = variable("KUBECONFIG").expect("KUBECONFIG of a cluster: run `make test-api-server`");
    let program = Path::new(&kubeconfig).with_file_name("bin").join("kubectl");
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, input)
}

/// Runs a command, which must succeed. Returns its standard output.
fn run(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("the input is read");
    drop(stdin);
    let output = child.wait_with_output().expect("an exit code");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// The part of an object that users and controllers of the cluster act on: all but the metadata.
fn content(object: &Value) -> Value {
    let mut content = object.clone();
    content.as_object_mut().expect("an object").remove("metadata");
    content
}

fn assert_has_ca_bundles(objects: &BTreeMap<String, Value>) {
    let mut count = 0;
    for object in objects.values() {
        for webhook in object["webhooks"].as_array().into_iter().flatten() {
            assert!(webhook["clientConfig"]["caBundle"].is_string(), "{webhook}");
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

#[test]
fn manifests_that_are_applied_again_change_no_object_and_keep_the_ca_bundles() {
    let installation = Installation::start("applied");
    let before = installation.objects();
    assert_has_ca_bundles(&before);
    installation.apply();
    assert_eq!(installation.objects(), before);
    // kubectl diff fails if there is a difference.
    kubectl(&["diff", "--server-side", "-f", "-"], &installation.manifests);
}

#[test]
fn uninstallation_with_check_prints_no_object_while_a_pod_has_a_sidecar() {
    let _lock = INSTALLATION.lock().expect("the other tests succeed");
    let uninstall = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kumactl"));
        command.args(["uninstall", "control-plane", "--check"]);
        command.output().expect("kumactl runs")
    };
    assert!(uninstall().status.success());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "kube-system", "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {"containers": [{"name": "web", "image": "web"}], "serviceAccountName": "web"},
    });
    kubectl(&["create", "serviceaccount", "web", "-n", "kube-system"], "");
    kubectl(&["create", "-f", "-"], &pod.to_string());
    let output = uninstall();
    kubectl(&["delete", "-f", "-", "--force"], &pod.to_string());
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("kube-system: 1 (web)"), "{text}");
}

/// The CustomResourceDefinition of a kind of Kuma that Kermode does not install.
fn kind_of_kuma() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "meshtimeouts.kuma.io"},
        "spec": {
            "group": "kuma.io", "scope": "Namespaced",
            "names": {"kind": "MeshTimeout", "plural": "meshtimeouts"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

#[test]
fn migration_report_covers_every_kind_of_the_api_group_and_prints_no_data_of_secrets() {
    let _installation = Installation::start("kuma-system");
    let definition = kind_of_kuma();
    kubectl(&["apply", "--server-side", "-f", "-"], &definition.to_string());
    kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "customresourcedefinition/meshtimeouts.kuma.io",
        ],
        "",
    );
    let objects = [
        json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "MeshTimeout",
            "metadata": {"name": "web", "namespace": "kuma-system"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "system.kuma.io/secret",
            "metadata": {"name": "default.ca-builtin-key-ca-1", "namespace": "kuma-system"},
            "stringData": {"value": "confidential"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "system.kuma.io/secret",
            "metadata": {"name": "shop.ca-builtin-key-ca-1", "namespace": "kuma-system"},
            "stringData": {"value": "confidential", "certificate": "of a CA of Kermode"},
        }),
    ];
    let objects = yaml::documents(&objects).expect("YAML");
    kubectl(&["apply", "--server-side", "-f", "-"], &objects);

    let mut report = Command::new(env!("CARGO_BIN_EXE_kumactl"));
    // The other tests have installations in other namespaces.
    report.args([
        "migrate",
        "report",
        "--control-plane-namespace=kuma-system",
        "-o",
        "json",
    ]);
    let output = report.output().expect("kumactl runs");
    kubectl(&["delete", "-f", "-"], &objects);
    kubectl(&["delete", "-f", "-"], &definition.to_string());

    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let objects = report["objects"].as_array().expect("objects");
    let id_of = |name: &str| {
        let object = objects.iter().find(|object| object["object"] == name);
        object.unwrap_or_else(|| panic!("{name} is not in {text}"))["findings"][0]["id"].clone()
    };
    assert_eq!(id_of("MeshTimeout kuma-system/web"), "ResilienceNotInstalled");
    assert_eq!(
        id_of("Secret kuma-system/default.ca-builtin-key-ca-1"),
        "CaSecretUnreadable"
    );
    assert_eq!(
        id_of("ConfigMap kuma-system/kuma-control-plane-config"),
        "SettingsUnchanged"
    );
    assert_eq!(report["unread"], json!([]));
    assert!(!text.contains("confidential"), "{text}");
}

#[test]
fn helm_continues_an_installation_of_kumactl_and_keeps_the_ca_bundles() {
    let installation = Installation::start("helm");
    let before = installation.objects();
    installation.helm(&["install", "kermode", "--take-ownership"]);
    let after = installation.objects();
    for (name, object) in &before {
        assert_eq!(content(&after[name]), content(object), "{name}");
    }
    assert_has_ca_bundles(&after);

    installation.helm(&["upgrade", "kermode"]);
    assert_eq!(installation.objects(), after, "an upgrade without a change");

    installation.helm(&["uninstall", "kermode"]);
    let definitions = kubectl(&["get", "customresourcedefinitions", "-o", "name"], "");
    assert_eq!(definitions.matches(".kuma.io").count(), 4, "{definitions}");
    let deployments = kubectl(&["get", "deployments", "-n", "helm", "-o", "name"], "");
    assert_eq!(deployments, "");
}
