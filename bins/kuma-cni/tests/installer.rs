//! The installer as a process, on nodes on which the plugin cannot be installed: its log, its readiness, the Event, and
//! the network configuration of the node. The tests require root, because they mount file systems in mount namespaces of
//! their own.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// Time limit of each Event. The installer tries again every 5 s.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Configuration of the cluster's network plugin.
const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}"#;

/// Program that fails like `nft` on a kernel without nf_tables.
const NFT_WITHOUT_KERNEL_SUPPORT: &str =
    "#!/bin/sh\necho 'mnl.c:60: Unable to initialize Netlink socket: Protocol not supported' >&2\nexit 1\n";

/// A node with an installer, which runs in a mount namespace of its own.
struct Node {
    folder: tempfile::TempDir,
    events: Receiver<Value>,
    kubeconfig: PathBuf,
    installer: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut installer) = self.installer.take() {
            let _ = installer.kill();
            let _ = installer.wait();
        }
    }
}

impl Node {
    fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests mount file systems: run them as root"
        );
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["networks", "programs", "credentials", "tools", "namespaces"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        for (file, text) in [
            ("credentials/token", "token"),
            ("credentials/ca.crt", "roots"),
            ("networks/10-pods.conflist", LIST),
            ("programs/ptp", "plugin"),
        ] {
            fs::write(folder.path().join(file), text).expect("a file");
        }
        let (sender, events) = channel();
        let kubeconfig = folder.path().join("kubeconfig");
        fs::write(&kubeconfig, mk_kubeconfig(start_api_server(sender)).to_string()).expect("a file");
        let node = Self {
            folder,
            events,
            kubeconfig,
            installer: None,
        };
        node.set_nft("#!/bin/sh\nexec /usr/sbin/nft \"$@\"\n");
        node
    }

    fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Replaces `nft` in the image of the installer.
    fn set_nft(&self, script: &str) {
        let path = self.path("tools/nft");
        fs::write(&path, script).expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// Starts the installer after the shell commands of `prepare`, in the same mount namespace.
    fn start(&mut self, prepare: &str) {
        let flags = [
            ("cni-net-dir", self.path("networks")),
            ("cni-bin-dir", self.path("programs")),
            ("tools", self.path("tools")),
            ("credentials", self.path("credentials")),
            ("network-namespaces", self.path("namespaces")),
            ("state-file", self.path("state")),
            ("node-root", "/".to_owned()),
            ("api-server-host", "192.0.2.1".to_owned()),
            ("node-name", "node-1".to_owned()),
            ("pod-name", "kuma-cni-1".to_owned()),
            ("pod-namespace", "kube-system".to_owned()),
            ("pod-uid", "1".to_owned()),
        ];
        let flags = flags.map(|(flag, value)| format!("--{flag}={value}"));
        let script = format!("{prepare}\nexec \"$0\" install \"$@\"");
        let log = File::create(self.path("log")).expect("a file");
        let installer = Command::new("unshare")
            .args([
                "--mount",
                "--propagation=private",
                "--",
                "sh",
                "-e",
                "-c",
                &script,
            ])
            .arg(env!("CARGO_BIN_EXE_kuma-cni"))
            .args(flags)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare is installed");
        self.installer = Some(installer);
    }

    /// Runs shell commands in the mount namespace of the installer.
    fn run_beside_installer(&self, script: &str) {
        let installer = self.installer.as_ref().expect("the installer runs").id();
        let status = Command::new("nsenter")
            .arg(format!("--target={installer}"))
            .args(["--mount", "--", "sh", "-e", "-c", script])
            .status();
        assert!(status.expect("nsenter is installed").success(), "{script}");
    }

    /// Waits for an Event about the installer. Returns its reason and its note.
    fn next_event(&self) -> (String, String) {
        let event = self.events.recv_timeout(TIMEOUT).unwrap_or_else(|error| {
            let log = fs::read_to_string(self.path("log"));
            panic!("no Event: {error}; log: {log:?}")
        });
        assert_eq!(event["regarding"]["name"], "kuma-cni-1", "{event}");
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("note"))
    }

    /// Runs the readiness probe. Returns whether it succeeds, and its output.
    fn readiness(&self) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kuma-cni"))
            .args(["ready", "--state-file", &self.path("state")])
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success(), text)
    }

    /// Checks that an Event, the readiness probe and the log show a problem, and that the network configuration does not
    /// name the plugin, so that the container runtime can start Pods.
    fn expect_problem(&self, reason: &str, part: &str) {
        self.expect_report(reason, part);
        let list = fs::read_to_string(self.path("networks/10-pods.conflist"));
        assert!(list.is_ok_and(|list| list == LIST) || reason == "NetworkConfigurationMissing");
    }

    /// Checks that an Event, the readiness probe and the log show a problem, and that its text contains `part`.
    fn expect_report(&self, reason: &str, part: &str) {
        let (event_reason, note) = self.next_event();
        assert_eq!(event_reason, reason, "{note}");
        assert!(note.contains(part), "{part:?} is missing from {note}");
        assert_eq!(self.readiness(), (false, note.clone()));
        let log = fs::read_to_string(self.path("log")).expect("a log");
        assert!(log.contains(&note), "{note:?} is missing from the log: {log}");
    }

    fn expect_installed(&self) {
        let (reason, note) = self.next_event();
        assert_eq!(reason, "PluginInstalled", "{note}");
        assert_eq!(self.readiness(), (true, note));
    }
}

fn mk_kubeconfig(api_server: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{api_server}") } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "users": [{ "name": "test", "user": {} }],
    })
}

/// Starts a simulated API server without Pods. Sends the Events that it receives.
fn start_api_server(events: Sender<Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let events = events.clone();
            thread::spawn(move || serve(&stream, &events));
        }
    });
    address
}

/// Serves the requests of a connection: lists of Pods, and Events. The watch of Pods gets no response.
fn serve(mut stream: &TcpStream, events: &Sender<Value>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        for line in reader.by_ref().lines() {
            match line.ok()? {
                line if line.is_empty() => break,
                line => head.push(line.to_lowercase()),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        reader.read_exact(&mut body).ok()?;
        let request = head.first()?;
        if request.contains("watch=true") {
            continue;
        }
        let response = match serde_json::from_slice::<Value>(&body) {
            Ok(event) => {
                events.send(event.clone()).ok()?;
                event
            }
            Err(_) => {
                json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": []})
            }
        };
        let response = response.to_string();
        let length = response.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{response}"
        )
        .ok()?;
    }
}

#[test]
fn kernel_without_nf_tables_is_reported_until_its_modules_are_loaded() {
    let mut node = Node::new();
    node.set_nft(NFT_WITHOUT_KERNEL_SUPPORT);
    node.start("");
    node.expect_problem("KernelUnsupported", "load the modules nf_tables");
    node.set_nft("#!/bin/sh\nexec /usr/sbin/nft \"$@\"\n");
    node.expect_installed();
}

#[test]
fn folder_without_another_configuration_is_reported_until_the_network_plugin_is_installed() {
    let mut node = Node::new();
    fs::remove_file(node.path("networks/10-pods.conflist")).expect("a file");
    node.start("");
    node.expect_problem(
        "NetworkConfigurationMissing",
        "install the cluster's network plugin",
    );
    fs::write(node.path("networks/10-pods.conflist"), LIST).expect("a file");
    node.expect_installed();
}

#[test]
fn missing_chained_plugin_is_reported_until_it_is_installed() {
    let mut node = Node::new();
    let plugin = node.path("programs/ptp");
    fs::remove_file(&plugin).expect("a file");
    node.start("");
    node.expect_report("ChainedPluginMissing", "has no program ptp");
    fs::write(&plugin, "plugin").expect("a file");
    node.expect_installed();
}

#[test]
fn full_disk_of_the_programs_is_reported_until_space_is_free() {
    let mut node = Node::new();
    let programs = node.path("programs");
    let program = fs::metadata(env!("CARGO_BIN_EXE_kuma-cni")).expect("the program is built");
    // The program fits into the empty file system.
    let size = program.len() + 1024 * 1024;
    node.start(&format!(
        "mount -t tmpfs -o size={size} tmpfs {programs}
         touch {programs}/ptp
         head -c {size} /dev/zero > {programs}/other || true"
    ));
    node.expect_problem("NodeDiskFull", "free space");
    node.run_beside_installer(&format!("rm {programs}/other"));
    node.expect_installed();
}

#[test]
fn full_disk_of_the_network_configuration_is_reported_until_space_is_free() {
    let mut node = Node::new();
    let networks = node.path("networks");
    node.start(&format!(
        "cp -r {networks} {networks}.original
         mount -t tmpfs -o size=64k tmpfs {networks}
         cp {networks}.original/* {networks}
         head -c 1M /dev/zero > {networks}/other || true"
    ));
    node.expect_problem("NodeDiskFull", "free space");
    node.run_beside_installer(&format!(
        "cmp {networks}/10-pods.conflist {networks}.original/10-pods.conflist"
    ));
    node.run_beside_installer(&format!("rm {networks}/other"));
    node.expect_installed();
}

#[test]
fn read_only_folder_is_reported_until_it_is_writable() {
    for name in ["networks", "programs"] {
        let mut node = Node::new();
        let folder = node.path(name);
        node.start(&format!(
            "mount --bind {folder} {folder}
             mount -o remount,bind,ro {folder}"
        ));
        node.expect_problem("NodeFolderReadOnly", &folder);
        node.run_beside_installer(&format!("mount -o remount,bind,rw {folder}"));
        node.expect_installed();
    }
}
