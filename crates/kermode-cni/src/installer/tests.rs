//! Tests of the installer on a folder that stands for the node.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;

use super::*;

const LIST: &str =
    r#"{"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "ptp"}, {"type": "portmap"}]}"#;
const SINGLE: &str = r#"{"cniVersion": "0.3.1", "name": "pods", "type": "bridge"}"#;

/// A node, and the image of the installer.
struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().expect("a folder"));
        for folder in ["etc/cni/net.d", "opt/cni/bin", "image/tools", "credentials"] {
            fs::create_dir_all(node.path(folder)).expect("a folder");
        }
        for (file, content) in [
            ("image/kuma-cni", "program"),
            ("image/tools/nft", "nft"),
            ("image/tools/libc.so.6", "library"),
            ("credentials/token", "token-1\n"),
            ("credentials/ca.crt", "roots"),
            ("opt/cni/bin/ptp", "plugin"),
            ("opt/cni/bin/portmap", "plugin"),
            ("opt/cni/bin/bridge", "plugin"),
        ] {
            node.write(file, content);
        }
        node
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.path(path), content).expect("a writable file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn write_network(&self, name: &str, content: &str) {
        self.write(&format!("etc/cni/net.d/{name}"), content);
    }

    /// Returns the types of the plugins of a list.
    fn plugins(&self, name: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.read(&format!("etc/cni/net.d/{name}"))).expect("JSON");
        let plugins = list["plugins"].as_array().expect("plugins").iter();
        plugins
            .map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Returns the names of all files in a folder.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn settings(&self) -> Settings {
        Settings {
            node: self.0.path().to_owned(),
            network_folder: "/etc/cni/net.d".into(),
            program_folder: "/opt/cni/bin".into(),
            network_name: None,
            is_chained: true,
            program: self.path("image/kuma-cni"),
            tools: Some(self.path("image/tools")),
            credentials: self.path("credentials"),
            api_server: "https://192.0.2.1:443".to_owned(),
            excluded_namespaces: vec!["kube-system".to_owned()],
        }
    }

    fn installer(&self) -> Installer {
        Installer::new(self.settings())
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn plugin_is_installed_and_a_second_installation_changes_nothing() {
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    fs::set_permissions(
        node.path("etc/cni/net.d/10-net.conflist"),
        fs::Permissions::from_mode(0o600),
    )
    .expect("a mode");
    let mut installer = node.installer();
    assert_eq!(installer.install().expect("an installation").len(), 4);
    assert_eq!(node.plugins("10-net.conflist"), ["ptp", "portmap", "kuma-cni"]);
    assert_eq!(
        mode(&node.path("etc/cni/net.d/10-net.conflist")),
        0o600,
        "the mode is kept"
    );
    assert_eq!(node.read("opt/cni/bin/kuma-cni"), "program");
    assert_eq!(mode(&node.path("opt/cni/bin/kuma-cni")), 0o755);
    let list: Value = serde_json::from_str(&node.read("etc/cni/net.d/10-net.conflist")).expect("JSON");
    let entry = &list["plugins"][2];
    assert_eq!(
        entry["kubernetes"],
        json!({"kubeconfig": "/etc/cni/net.d/ZZZ-kuma-cni-kubeconfig", "exclude_namespaces": ["kube-system"]})
    );
    let nft = entry["nft"].as_str().expect("a path").trim_start_matches('/');
    assert_eq!(node.read(nft), "nft");
    assert!(installer.install().expect("an installation").is_empty());
    // A new process of the same version also changes nothing.
    assert!(node.installer().install().expect("an installation").is_empty());
}

#[test]
fn kubeconfig_is_private_and_follows_the_token() {
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    let mut installer = node.installer();
    installer.install().expect("an installation");
    let kubeconfig = "etc/cni/net.d/ZZZ-kuma-cni-kubeconfig";
    let token = || {
        let value: Value = serde_json::from_str(&node.read(kubeconfig)).expect("JSON");
        value["users"][0]["user"]["token"].clone()
    };
    assert_eq!(token(), "token-1");
    assert_eq!(mode(&node.path(kubeconfig)), 0o600);
    node.write("credentials/token", "token-2");
    installer.install().expect("a repair");
    assert_eq!(token(), "token-2");
    fs::set_permissions(node.path(kubeconfig), fs::Permissions::from_mode(0o644)).expect("a mode");
    installer.install().expect("a repair");
    assert_eq!(mode(&node.path(kubeconfig)), 0o600, "a wider mode is repaired");
}

#[test]
fn token_is_renewed_while_other_files_cannot_be_written() {
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    let mut installer = node.installer();
    installer.install().expect("an installation");
    for broken in ["opt/cni/bin", "image/tools"] {
        let token = format!("token-of-{}", broken.replace('/', "-"));
        node.write("credentials/token", &token);
        fs::remove_dir_all(node.path(broken)).expect("a folder");
        node.write(broken, "not a folder");
        installer.install().expect_err("the programs cannot be written");
        assert!(
            node.read("etc/cni/net.d/ZZZ-kuma-cni-kubeconfig")
                .contains(&token),
            "{broken}"
        );
    }
}

#[test]
fn mode_of_programs_is_repaired() {
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    let mut installer = node.installer();
    installer.install().expect("an installation");
    let program = node.path("opt/cni/bin/kuma-cni");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).expect("a mode");
    installer.install().expect("a repair");
    assert_eq!(mode(&program), 0o755);
    // Another process finds the program of its own version.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).expect("a mode");
    node.installer().install().expect("a repair");
    assert_eq!(mode(&program), 0o755);
}

#[test]
fn first_valid_configuration_gets_the_entry() {
    let node = Node::new();
    node.write_network("00-broken.conflist", "{");
    node.write_network("05-huge.conflist", &" ".repeat(2 * 1024 * 1024));
    node.write_network("07-readme.txt", "text");
    fs::create_dir(node.path("etc/cni/net.d/08-folder.conflist")).expect("a folder");
    node.write_network("10-net.conflist", LIST);
    node.write_network("20-net.conflist", LIST);
    node.installer().install().expect("an installation");
    assert_eq!(
        node.plugins("10-net.conflist").last().map(String::as_str),
        Some("kuma-cni")
    );
    assert_eq!(node.plugins("20-net.conflist"), ["ptp", "portmap"]);
    // Another component installs a configuration that precedes the first one.
    node.write_network("09-net.conflist", LIST);
    node.installer().install().expect("a repair");
    assert_eq!(
        node.plugins("09-net.conflist").last().map(String::as_str),
        Some("kuma-cni")
    );
}

#[test]
fn single_configuration_becomes_a_list_and_is_restored() {
    let node = Node::new();
    node.write_network("10-net.conf", SINGLE);
    let mut installer = node.installer();
    installer.install().expect("an installation");
    assert_eq!(node.plugins("10-net.conflist"), ["bridge", "kuma-cni"]);
    assert!(!node.path("etc/cni/net.d/10-net.conf").exists());
    // Another component writes its configuration again.
    node.write_network("10-net.conf", SINGLE);
    installer.install().expect("a repair");
    assert_eq!(node.plugins("10-net.conflist"), ["bridge", "kuma-cni"]);
    installer.remove_entry().expect("a removal");
    installer.remove_files().expect("a removal");
    assert_eq!(node.names("etc/cni/net.d"), ["10-net.conf"]);
    assert_eq!(node.read("etc/cni/net.d/10-net.conf"), SINGLE);
}

#[test]
fn removal_leaves_the_network_of_the_node() {
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    let mut installer = node.installer();
    installer.install().expect("an installation");
    installer.remove_entry().expect("a removal");
    assert_eq!(node.plugins("10-net.conflist"), ["ptp", "portmap"]);
    // A runtime that has read the entry before still finds everything.
    assert!(node.path("opt/cni/bin/kuma-cni").exists());
    assert!(node.path("etc/cni/net.d/ZZZ-kuma-cni-kubeconfig").exists());
    installer.remove_files().expect("a removal");
    assert_eq!(node.names("etc/cni/net.d"), ["10-net.conflist"]);
    assert_eq!(node.names("opt/cni/bin"), ["bridge", "portmap", "ptp"]);
}

#[test]
fn lost_files_are_repaired_and_tools_of_earlier_versions_are_removed() {
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    let mut installer = node.installer();
    installer.install().expect("an installation");
    node.write_network("10-net.conflist", LIST);
    node.write("opt/cni/bin/kuma-cni", "another program");
    fs::remove_file(node.path("etc/cni/net.d/ZZZ-kuma-cni-kubeconfig")).expect("a file");
    installer.install().expect("a repair");
    assert_eq!(node.plugins("10-net.conflist").len(), 3);
    assert_eq!(node.read("opt/cni/bin/kuma-cni"), "program");
    assert!(node.path("etc/cni/net.d/ZZZ-kuma-cni-kubeconfig").exists());
    node.write("image/tools/nft", "nft of another version");
    node.installer().install().expect("an upgrade");
    let own = node.names("opt/cni/bin");
    let own = own.iter().filter(|name| name.starts_with("kuma-cni"));
    assert_eq!(own.count(), 2, "the program and one folder of tools");
}

#[test]
fn symbolic_link_within_the_folder_is_followed_and_a_link_out_of_it_is_a_problem() {
    let node = Node::new();
    node.write_network("real.list", LIST);
    symlink("real.list", node.path("etc/cni/net.d/10-net.conflist")).expect("a link");
    node.installer().install().expect("an installation");
    assert!(node.read("etc/cni/net.d/real.list").contains("kuma-cni"));
    assert!(node.path("etc/cni/net.d/10-net.conflist").is_symlink());
    // The container runtime follows an absolute link from the root of the node.
    symlink(
        "/etc/cni/net.d/real.list",
        node.path("etc/cni/net.d/05-net.conflist"),
    )
    .expect("a link");
    node.installer().install().expect("an installation");
    symlink("/etc/passwd", node.path("etc/cni/net.d/00-net.conflist")).expect("a link");
    let problem = node.installer().install().expect_err("a link out of the folder");
    assert!(matches!(problem, Problem::LinkOutside(_)), "{problem}");
    fs::remove_file(node.path("etc/cni/net.d/00-net.conflist")).expect("a link");
    symlink("00-net.conflist", node.path("etc/cni/net.d/00-net.conflist")).expect("a link");
    let problem = node.installer().install().expect_err("a link to itself");
    assert!(matches!(problem, Problem::LinkOutside(_)), "{problem}");
}

#[test]
fn problems_name_the_folder_and_the_remedy() {
    let node = Node::new();
    let mut installer = node.installer();
    let problem = installer.install().expect_err("no configuration");
    assert!(matches!(problem, Problem::NoNetwork(_)), "{problem}");
    assert_eq!(problem.reason(), "NetworkConfigurationMissing");
    assert!(problem.to_string().contains("/etc/cni/net.d"), "{problem}");
    node.write_network("10-net.conflist", &LIST.replace("0.4.0", "0.1.0"));
    let problem = installer.install().expect_err("an old version");
    assert!(problem.to_string().contains("0.1.0"), "{problem}");
    fs::remove_file(node.path("credentials/token")).expect("a file");
    let problem = installer.install().expect_err("no token");
    assert!(matches!(problem, Problem::Credentials { .. }), "{problem}");
}

#[test]
fn missing_programs_of_chained_plugins_are_named_and_the_plugin_is_installed_nevertheless() {
    let node = Node::new();
    let list = LIST.replace("}, {", r#", "ipam": {"type": "host-local"}}, {"#);
    node.write_network("10-net.conflist", &list);
    fs::remove_file(node.path("opt/cni/bin/portmap")).expect("a file");
    let mut installer = node.installer();
    let problem = installer.install().expect_err("two programs are missing");
    assert_eq!(problem.reason(), "ChainedPluginMissing");
    let text = problem.to_string();
    assert!(
        text.starts_with("/opt/cni/bin has no program host-local, portmap"),
        "{text}"
    );
    assert_eq!(node.plugins("10-net.conflist"), ["ptp", "portmap", "kuma-cni"]);
    assert!(node.path("opt/cni/bin/kuma-cni").exists());
    node.write("opt/cni/bin/host-local", "plugin");
    // The target is a path of the node.
    symlink("/usr/libexec/cni/portmap", node.path("opt/cni/bin/portmap")).expect("a link");
    assert!(installer.install().expect("an installation").is_empty());
    node.write_network("10-net.conflist", &LIST.replace("\"ptp\"", "\"../bin/ptp\""));
    let problem = installer.install().expect_err("a name with slashes");
    assert!(
        problem.to_string().contains("has no program ../bin/ptp,"),
        "{problem}"
    );
}

#[test]
fn plugin_that_is_not_chained_gets_its_own_configuration() {
    let node = Node::new();
    fs::remove_file(node.path("opt/cni/bin/ptp")).expect("a file");
    node.write_network("10-net.conflist", LIST);
    let mut installer = Installer::new(Settings {
        is_chained: false,
        ..node.settings()
    });
    installer.install().expect("an installation");
    let network: Value = serde_json::from_str(&node.read("etc/cni/net.d/kuma-cni.conf")).expect("JSON");
    assert_eq!(
        (&network["name"], &network["type"]),
        (&json!("kuma-cni"), &json!("kuma-cni"))
    );
    assert_eq!(node.read("etc/cni/net.d/10-net.conflist"), LIST);
    assert!(installer.install().expect("an installation").is_empty());
    installer.remove_entry().expect("a removal");
    installer.remove_files().expect("a removal");
    assert_eq!(node.names("etc/cni/net.d"), ["10-net.conflist"]);
}

/// Another process replaces the configuration while the installer adds its entry. Each version of the other process
/// survives until the other process replaces it, and the installer adds its entry to the last one.
#[test]
fn changes_of_a_second_writer_are_never_lost() {
    let node = Node::new();
    let version = |number: u32| LIST.replace("\"n\"", &format!("\"v{number}\""));
    node.write_network("10-net.conflist", &version(0));
    let is_finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=300 {
                node.write_network("second.tmp", &version(number));
                fs::rename(
                    node.path("etc/cni/net.d/second.tmp"),
                    node.path("etc/cni/net.d/10-net.conflist"),
                )
                .expect("a rename");
            }
            is_finished.store(true, Ordering::SeqCst);
        });
        let mut installer = node.installer();
        while !is_finished.load(Ordering::SeqCst) {
            // The other process may win all attempts.
            let _ = installer.install();
        }
        installer.install().expect("an installation");
    });
    let list: Value = serde_json::from_str(&node.read("etc/cni/net.d/10-net.conflist")).expect("JSON");
    assert_eq!(list["name"], "v300");
    assert_eq!(node.plugins("10-net.conflist"), ["ptp", "portmap", "kuma-cni"]);
    assert_eq!(
        node.names("etc/cni/net.d"),
        ["10-net.conflist", "ZZZ-kuma-cni-kubeconfig"],
        "no temporary file is left"
    );
}

/// Runs `mount` in the mount namespace of the calling thread.
fn mount(arguments: &[&str]) {
    let status = std::process::Command::new("mount").args(arguments).status();
    assert!(status.expect("mount runs").success(), "mount {arguments:?}");
}

#[test]
fn full_disk_and_read_only_folders_are_named_and_leave_no_partial_file() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts file systems in a mount namespace of its own: run it as root"
    );
    let node = Node::new();
    node.write_network("10-net.conflist", LIST);
    node.write("image/kuma-cni", &"x".repeat(100_000));
    let node = &node;
    let check = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(&["--make-rprivate", "/"]);
        let programs = node.path("opt/cni/bin");
        let programs = programs.to_str().expect("UTF-8");
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs", programs]);
        let problem = node.installer().install().expect_err("a full disk");
        assert!(
            matches!(&problem, Problem::DiskFull(path) if path.ends_with("kuma-cni")),
            "{problem}"
        );
        assert!(
            node.names("opt/cni/bin")
                .iter()
                .all(|name| name.starts_with("kuma-cni."))
        );
        mount(&["-o", "remount,ro", programs]);
        let problem = node.installer().install().expect_err("a read-only folder");
        assert!(matches!(problem, Problem::ReadOnly(_)), "{problem}");
        let networks = node.path("etc/cni/net.d");
        let networks = networks.to_str().expect("UTF-8");
        mount(&["-o", "remount,rw,size=10m", programs]);
        mount(&["--bind", networks, networks]);
        mount(&["-o", "remount,bind,ro", networks]);
        let problem = node.installer().install().expect_err("a read-only folder");
        assert!(
            matches!(&problem, Problem::ReadOnly(path) if path.starts_with(networks)),
            "{problem}"
        );
        // The network configuration never names a plugin that is not installed.
        assert_eq!(node.plugins("10-net.conflist"), ["ptp", "portmap"]);
    };
    thread::scope(|scope| scope.spawn(check).join()).expect("the checks pass");
}
