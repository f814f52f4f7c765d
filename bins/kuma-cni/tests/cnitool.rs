//! The plugin, installed by the installer and called by `cnitool` of the CNI specification. The test requires root,
//! because it creates network namespaces and changes the rules in them.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

#[allow(dead_code, reason = "other tests use the rest of the module")]
#[path = "../../../crates/kermode-netfilter/tests/netns/lab/namespace.rs"]
mod namespace;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use kermode_checkout::Checkout;
use kermode_cni::{Installer, Problem, Settings};
use namespace::Namespace;
use serde_json::{Value, json};

/// First plugin of the list. It stands for the cluster's network plugin, and returns a result without interfaces.
const FIRST_PLUGIN: &str = r#"#!/bin/sh
version=$(sed -n 's/.*"cniVersion":"\([^"]*\)".*/\1/p')
case "$CNI_COMMAND" in
ADD) echo "{\"cniVersion\":\"$version\",\"interfaces\":[{\"name\":\"of-first-plugin\"}],\"ips\":[]}" ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
esac
"#;

/// A node with the plugin in its network configuration.
struct Node {
    folder: tempfile::TempDir,
    network: Namespace,
}

impl Node {
    fn new() -> Self {
        let network = Namespace::new();
        let node = Self {
            folder: tempfile::tempdir().expect("a folder"),
            network,
        };
        for folder in ["networks", "programs", "credentials"] {
            fs::create_dir(node.path(folder)).expect("a folder");
        }
        fs::write(node.path("credentials/token"), "token").expect("a file");
        fs::write(node.path("credentials/ca.crt"), "").expect("a file");
        let first_plugin = node.path("programs/first");
        fs::write(&first_plugin, FIRST_PLUGIN).expect("a file");
        fs::set_permissions(&first_plugin, fs::Permissions::from_mode(0o755)).expect("a mode");
        node
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Starts a simulated API server that returns the same pod for each request.
    fn start_api_server(&self) -> SocketAddr {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "cart-1", "namespace": "shop",
                "annotations": {"kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "70000"},
            },
            "spec": {"containers": [{"name": "kuma-sidecar"}, {"name": "app"}]},
        });
        let listener = self
            .network
            .run(|| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let address = listener.local_addr().expect("an address");
        let body = pod.to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection of the plugin");
                let lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
                let request: Vec<String> = lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                assert!(
                    request[0].starts_with("GET /api/v1/namespaces/shop/pods/cart-1"),
                    "{request:?}"
                );
                assert!(
                    request.iter().any(|line| line == "authorization: Bearer token"),
                    "{request:?}"
                );
                let length = body.len();
                // The plugin may have ended already.
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {length}\r\n\r\n{body}"
                );
            }
        });
        address
    }

    /// Writes the network configuration of the cluster's network plugin, and lets the installer add the plugin.
    fn install(&self, cni_version: &str, api_server: SocketAddr) {
        let plugins = json!([{"type": "first"}]);
        self.install_after(&plugins, cni_version, api_server)
            .expect("an installation");
    }

    /// Writes a network configuration with these plugins, and lets the installer add the plugin.
    fn install_after(
        &self,
        plugins: &Value,
        cni_version: &str,
        api_server: SocketAddr,
    ) -> Result<Vec<String>, Problem> {
        let list = json!({"cniVersion": cni_version, "name": "pods", "plugins": plugins});
        fs::write(self.path("networks/10-pods.conflist"), list.to_string()).expect("a file");
        let mut installer = Installer::new(Settings {
            node: "/".into(),
            network_folder: self.path("networks"),
            program_folder: self.path("programs"),
            network_name: None,
            is_chained: true,
            program: env!("CARGO_BIN_EXE_kuma-cni").into(),
            tools: None,
            credentials: self.path("credentials"),
            api_server: format!("http://{api_server}"),
            excluded_namespaces: vec!["kube-system".to_owned()],
        });
        installer.install()
    }

    /// Runs an operation for a pod with this network namespace. Returns whether it succeeded, and its output.
    fn cnitool(&self, operation: &str, namespace: &str, pod: &str) -> (bool, String) {
        let output = self.network.run(|| {
            Command::new(cnitool())
                .args([operation, "pods"])
                .arg(pod)
                .env("NETCONFPATH", self.path("networks"))
                .env("CNI_PATH", self.path("programs"))
                .env(
                    "CNI_ARGS",
                    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=cart-1"),
                )
                .output()
                .expect("cnitool runs")
        });
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn expect_success(&self, operation: &str, namespace: &str, pod: &str) -> String {
        let (succeeded, text) = self.cnitool(operation, namespace, pod);
        assert!(succeeded, "{operation}: {text}");
        text
    }
}

fn cnitool() -> PathBuf {
    let checkout = Checkout::find().expect("the checkout");
    checkout.tool("cnitool").expect("cnitool")
}

#[test]
fn cnitool_runs_each_operation_of_each_version() {
    let node = Node::new();
    let api_server = node.start_api_server();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        node.install(version, api_server);
        let pod = Namespace::new();
        let path = pod.path();
        let result = node.expect_success("add", "shop", &path);
        assert!(result.contains("of-first-plugin"), "{version}: {result}");
        let rules = pod.command("nft", &["list", "ruleset"], "");
        assert!(rules.contains("meta skuid 70000 return"), "{version}: {rules}");
        // Version 0.3.1 has no CHECK, and only 1.1.0 has STATUS and GC.
        if version != "0.3.1" {
            node.expect_success("check", "shop", &path);
            pod.command("nft", &["delete", "table", "inet", "kuma_mesh"], "");
            let (succeeded, text) = node.cnitool("check", "shop", &path);
            assert!(!succeeded && text.contains("has no rules"), "{version}: {text}");
        }
        if version == "1.1.0" {
            node.expect_success("status", "shop", &path);
            node.expect_success("gc", "shop", &path);
        }
        node.expect_success("del", "shop", &path);
    }
}

#[test]
fn pod_of_an_excluded_namespace_gets_no_rules_and_status_names_a_missing_kubeconfig() {
    let node = Node::new();
    // Nothing listens on this port.
    node.install("1.1.0", SocketAddr::from(([127, 0, 0, 1], 1)));
    let pod = Namespace::new();
    node.expect_success("add", "kube-system", &pod.path());
    assert_eq!(pod.command("nft", &["list", "ruleset"], ""), "");
    node.expect_success("check", "kube-system", &pod.path());
    node.expect_success("del", "kube-system", &pod.path());
    fs::remove_file(node.path("networks/ZZZ-kuma-cni-kubeconfig")).expect("a file");
    let (succeeded, text) = node.cnitool("status", "kube-system", &pod.path());
    assert!(!succeeded && text.contains("ZZZ-kuma-cni-kubeconfig"), "{text}");
}

#[test]
fn no_pod_starts_while_the_program_of_a_chained_plugin_is_missing() {
    let node = Node::new();
    let api_server = node.start_api_server();
    let (first, absent) = (json!({"type": "first"}), json!({"type": "absent"}));
    for plugins in [json!([absent, first]), json!([first, absent])] {
        let problem = node
            .install_after(&plugins, "1.1.0", api_server)
            .expect_err("a program is missing");
        assert_eq!(problem.reason(), "ChainedPluginMissing");
        let pod = Namespace::new();
        for operation in ["status", "add"] {
            let (succeeded, text) = node.cnitool(operation, "shop", &pod.path());
            assert!(!succeeded && text.contains("absent"), "{operation}: {text}");
        }
    }
    fs::copy(node.path("programs/first"), node.path("programs/absent")).expect("a program");
    let pod = Namespace::new();
    node.expect_success("status", "shop", &pod.path());
    node.expect_success("add", "shop", &pod.path());
    let rules = pod.command("nft", &["list", "ruleset"], "");
    assert!(rules.contains("meta skuid 70000 return"), "{rules}");
}
