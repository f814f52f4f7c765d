//! Tests that run the program in real network namespaces, as in the init containers `kuma-init` and `kuma-validation`.
//!
//! The tests require root (`make test-netns`). The namespaces have no name, so the kernel deletes them when a test
//! ends.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

#[allow(dead_code, reason = "other tests use the rest of the module")]
#[path = "../../../crates/kermode-netfilter/tests/netns/lab/namespace.rs"]
mod namespace;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use namespace::Namespace;

const ROOT: u32 = 0;
/// UID of `kuma-validation`.
const NOBODY: u32 = 65534;
/// UID of the proxy in [`ARGUMENTS`].
const PROXY_UID: u32 = 5678;
/// Arguments of both init containers.
const ARGUMENTS: [&str; 4] = [
    "--redirect-outbound-port=15001",
    "--redirect-inbound=true",
    "--kuma-dp-uid=5678",
    "--redirect-all-dns-traffic",
];

/// Creates the network namespace of a pod with addresses and routes of IPv4 and IPv6.
fn mk_pod_namespace() -> Namespace {
    let pod = Namespace::new();
    for command in [
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        "addr add 10.1.1.2/24 dev eth0",
        "route add default via 10.1.1.1",
        "addr add fd01::2/64 dev eth0 nodad",
        "-6 route add default via fd01::1",
    ] {
        pod.ip(command);
    }
    pod
}

/// Copies the program to a directory where all users may execute it. The original may be in a private directory of
/// root.
///
/// `install` writes the copy in a separate process. If this process wrote the file, a child forked by another thread
/// could inherit the open file descriptor, and the file could not be executed (`ETXTBSY`).
fn copy_program(directory: &tempfile::TempDir) -> std::path::PathBuf {
    let path = directory.path().join("kuma-init");
    let status = Command::new("install")
        .args(["--mode=755", env!("CARGO_BIN_EXE_kuma-init")])
        .arg(&path)
        .status()
        .expect("install (coreutils) runs");
    assert!(status.success(), "install failed to copy the program");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
        .expect("the permissions are changed");
    path
}

/// Runs the program in a namespace, with [`ARGUMENTS`] and more arguments. Returns whether the program succeeded, and
/// its output.
fn run_program(pod: &Namespace, uid: u32, more_arguments: &[&str]) -> (bool, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let program = copy_program(&directory);
    let output = pod.run(|| {
        Command::new(program)
            .args(ARGUMENTS)
            .args(more_arguments)
            .uid(uid)
            .gid(uid)
            .output()
            .expect("the program starts")
    });
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn working_redirection_is_validated_by_an_unprivileged_user() {
    let pod = mk_pod_namespace();
    let (succeeded, text) = run_program(&pod, ROOT, &[]);
    assert!(succeeded, "{text}");
    let before = pod.command("nft", &["-s", "list", "ruleset"], "");
    let (valid, text) = run_program(&pod, NOBODY, &["--validate-only"]);
    assert!(valid, "{text}");
    // The check connects to these two addresses, which are reserved for documentation.
    assert!(
        text.contains("192.0.2.1 and 2001:db8::1 reach port 15001"),
        "an IP family is missing: {text}"
    );
    let after = pod.command("nft", &["-s", "list", "ruleset"], "");
    assert_eq!(after, before);
}

#[test]
fn validation_of_a_pod_without_redirection_fails() {
    let pod = mk_pod_namespace();
    let (valid, text) = run_program(&pod, NOBODY, &["--validate-only"]);
    assert!(!valid, "{text}");
    assert!(
        text.starts_with("kuma-init: traffic of this pod is not redirected to the proxy")
            && text.contains("kuma-cni"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(
        pod.command("nft", &["list", "ruleset"], ""),
        "",
        "the validation added rules"
    );
}

/// The installer of the CNI plugin repairs a pod that started without the plugin.
#[test]
fn validation_waits_for_the_redirection() {
    let pod = mk_pod_namespace();
    let directory = tempfile::tempdir().expect("a directory");
    let program = copy_program(&directory);
    let mut validation = pod.run(|| {
        Command::new(program)
            .args([
                "--validate-only",
                "--kuma-dp-uid=5678",
                "--wait-for-redirection=600",
            ])
            .uid(NOBODY)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    });
    let mut line = String::new();
    BufReader::new(validation.stderr.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line about the wait");
    assert!(line.contains("waiting 600 s"), "{line}");
    let (succeeded, rules) = run_program(&pod, ROOT, &["--dry-run"]);
    assert!(succeeded, "{rules}");
    pod.command("nft", &["-f", "-"], &rules);
    assert!(validation.wait().expect("the program ends").success());
}

#[test]
fn validation_of_a_redirection_to_another_port_fails() {
    let pod = mk_pod_namespace();
    let (succeeded, text) = run_program(&pod, ROOT, &[]);
    assert!(succeeded, "{text}");
    let directory = tempfile::tempdir().expect("a directory");
    let program = copy_program(&directory);
    let output = pod.run(|| {
        Command::new(program)
            .args([
                "--validate-only",
                "--kuma-dp-uid=5678",
                "--redirect-outbound-port=15002",
            ])
            .uid(NOBODY)
            .output()
            .expect("the program starts")
    });
    assert!(!output.status.success());
}

#[test]
fn validation_that_is_not_possible_fails() {
    let namespace_without_routes = Namespace::new();
    let (valid, text) = run_program(&namespace_without_routes, NOBODY, &["--validate-only"]);
    assert!(
        !valid && text.contains("cannot check") && text.contains("route"),
        "{text}"
    );
    // Connections of the proxy's user are not redirected.
    let (valid, text) = run_program(&mk_pod_namespace(), PROXY_UID, &["--validate-only"]);
    assert!(!valid && text.contains("UID 5678"), "{text}");
}
