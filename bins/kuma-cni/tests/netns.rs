//! Tests of the plugin as a container runtime executes it, with a simulated API server. They require root, because they
//! create network namespaces and change the rules in them.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

/// A network namespace. The open file keeps the namespace alive.
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests create a network namespace: run them as root"
        );
        let create = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (needs CAP_SYS_ADMIN)");
            File::open("/proc/thread-self/ns/net").expect("proc is mounted")
        };
        Self(thread::spawn(create).join().expect("the namespace is created"))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn rules(&self) -> String {
        let list = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            let output = Command::new("nft")
                .args(["list", "ruleset"])
                .output()
                .expect("nft is installed");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        thread::scope(|scope| scope.spawn(list).join()).expect("the rules are listed")
    }
}

/// Starts a simulated API server that serves one request for the pod. Returns a kubeconfig for this API server.
fn start_api_server(pod: &Value) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the listener has an address");
    let body = pod.to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection of the plugin");
        let mut request = String::new();
        BufReader::new(&stream)
            .read_line(&mut request)
            .expect("a request line");
        assert!(
            request.starts_with("GET /api/v1/namespaces/shop/pods/cart-1"),
            "{request}"
        );
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("the plugin reads the response");
        // Reads the rest of the request: closing the socket with unread input would reset the connection before the
        // plugin has read the response.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "users": [{ "name": "test", "user": {} }],
    })
}

/// Runs the plugin with an operation (`CNI_COMMAND`), the path of a network namespace, and a network configuration on
/// the standard input. Returns whether the plugin succeeded, and its standard output.
fn run_plugin(operation: &str, network_namespace: &str, network_config: &Value) -> (bool, String) {
    run_plugin_by(
        Command::new(env!("CARGO_BIN_EXE_kuma-cni")),
        operation,
        network_namespace,
        network_config,
    )
}

/// Like [`run_plugin`], with a command that starts the plugin.
fn run_plugin_by(
    mut command: Command,
    operation: &str,
    network_namespace: &str,
    network_config: &Value,
) -> (bool, String) {
    let mut child = command
        .env_clear()
        .env("CNI_COMMAND", operation)
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", network_namespace)
        .env(
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-1",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin is built");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(network_config.to_string().as_bytes())
        .expect("the plugin reads its input");
    let output = child.wait_with_output().expect("the plugin ends");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Starts an API server with the pod and writes its kubeconfig to `folder`. Returns a network configuration with this
/// kubeconfig and the result of a previous plugin.
fn start_api_server_and_mk_network_config(folder: &Path, pod: &Value) -> Value {
    let kubeconfig = folder.join("kubeconfig");
    fs::write(&kubeconfig, start_api_server(pod).to_string()).expect("the folder is writable");
    json!({
        "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "kuma-cni", "log_level": "info",
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.1.1.2/24" }] },
        "kubernetes": { "kubeconfig": kubeconfig, "exclude_namespaces": ["kube-system"] },
    })
}

fn mk_pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "cart-1", "namespace": "shop", "annotations": annotations },
        "spec": { "containers": [{ "name": "kuma-sidecar" }, { "name": "app" }] },
    })
}

#[test]
fn injected_pod_gets_the_rules_of_its_annotations() {
    let folder = tempfile::tempdir().expect("a folder");
    let annotations = json!({
        "kuma.io/sidecar-injected": "true",
        "kuma.io/sidecar-uid": "70000",
        "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids": "443:1234",
    });
    let network_config = start_api_server_and_mk_network_config(folder.path(), &mk_pod(&annotations));
    let rules = rules_after_add(&network_config);
    assert!(rules.contains("tcp dport 443 meta skuid 1234 return"), "{rules}");
    assert!(rules.contains("meta skuid 70000 return"), "{rules}");
}

#[test]
fn user_of_the_node_whose_name_is_a_number_does_not_change_the_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let annotations = json!({ "kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "70000" });
    let mut network_config = start_api_server_and_mk_network_config(folder.path(), &mk_pod(&annotations));
    let tools = folder.path().join("tools");
    fs::create_dir(&tools).expect("a folder");
    kermode_checkout::copy_with_libraries(Path::new("/usr/sbin/nft"), &tools).expect("a copy of nft");
    network_config["nft"] = json!(tools.join("nft"));
    let users = folder.path().join("passwd");
    fs::write(&users, "70000:x:4711:4711::/:/bin/sh\n").expect("a file");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "--", "sh", "-e", "-c"]);
    command.arg(format!(
        "mount --bind {} /etc/passwd\nexec \"$0\"",
        users.display()
    ));
    command.arg(env!("CARGO_BIN_EXE_kuma-cni"));
    let namespace = Namespace::new();
    let (succeeded, output) = run_plugin_by(command, "ADD", &namespace.path(), &network_config);
    assert!(succeeded, "{output}");
    let rules = namespace.rules();
    assert!(rules.contains("meta skuid 70000 return"), "{rules}");
}

#[test]
fn pod_outside_the_mesh_gets_no_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let network_config =
        start_api_server_and_mk_network_config(folder.path(), &mk_pod(&json!({ "some": "thing" })));
    assert_eq!(rules_after_add(&network_config), "");
}

/// Runs ADD in a new network namespace and asserts that the plugin passes on the result of the previous plugin. Returns
/// the namespace's rules.
fn rules_after_add(network_config: &Value) -> String {
    let namespace = Namespace::new();
    let (succeeded, output) = run_plugin("ADD", &namespace.path(), network_config);
    assert!(succeeded, "{output}");
    assert_eq!(
        serde_json::from_str::<Value>(&output).expect("valid JSON"),
        network_config["prevResult"]
    );
    namespace.rules()
}

#[test]
fn failure_has_the_fields_of_the_cni_specification() {
    let folder = tempfile::tempdir().expect("a folder");
    let annotations = json!({ "kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "root" });
    let network_config = start_api_server_and_mk_network_config(folder.path(), &mk_pod(&annotations));
    let (succeeded, output) = run_plugin("ADD", &Namespace::new().path(), &network_config);
    let failure: Value = serde_json::from_str(&output).expect("valid JSON");
    assert!(!succeeded);
    assert_eq!(
        (&failure["code"], &failure["cniVersion"]),
        (&json!(100), &json!("1.0.0"))
    );
    assert!(
        failure["details"]
            .as_str()
            .is_some_and(|text| text.contains("kuma.io/sidecar-uid")),
        "{failure}"
    );
}

#[test]
fn operations_other_than_add_need_no_api_server_and_unknown_operations_fail() {
    let (succeeded, output) = run_plugin("VERSION", "", &json!({ "cniVersion": "1.0.0" }));
    let versions: Value = serde_json::from_str(&output).expect("valid JSON");
    assert!(
        succeeded
            && versions["supportedVersions"]
                .as_array()
                .is_some_and(|all| all.contains(&json!("1.0.0")))
    );
    for operation in ["DEL", "GC"] {
        assert_eq!(
            run_plugin(operation, "", &json!({ "cniVersion": "1.0.0" })),
            (true, String::new())
        );
    }
    assert!(!run_plugin("ADDD", "", &json!({ "cniVersion": "1.0.0" })).0);
}
