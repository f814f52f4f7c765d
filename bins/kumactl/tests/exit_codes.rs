//! Tests of the program's exit code, standard output and standard error.

#![allow(clippy::expect_used, reason = "a failed expectation fails the test")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {kuma.io/sidecar-injection: enabled}}\n\
    spec: {containers: [{name: a}]}\n";

fn run_kumactl(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kumactl"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut stdin = child.stdin.take().expect("a pipe");
    // The program may have ended without reading its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("an exit code")
}

/// Runs the program. Returns exit code, standard output and standard error.
fn run(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let output = run_kumactl(arguments, input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn injected_pod_is_printed_with_code_0() {
    let (code, out, err) = run(&["inject", "-f", "-"], POD);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("kuma-sidecar"), "{out}");
    // A notice asks for the missing flag.
    assert!(err.contains("--ca-cert"), "{err}");
}

#[test]
fn denied_pod_gives_code_3_and_no_manifests() {
    let denied = POD.replace("enabled", "perhaps");
    let both = format!("{POD}---\n{denied}");
    let (code, out, err) = run(&["inject", "-f", "-"], &both);
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    assert!(err.contains("Denied: Pod default/a: label"), "{err}");
    let (code, out, _) = run(&["inject", "-f", "-", "--explain"], &both);
    assert_eq!(code, Some(3));
    assert!(out.contains("denied (WrongValue)"), "{out}");
}

#[test]
fn files_that_are_unreadable_or_lack_the_object_give_code_1_and_wrong_flags_code_2() {
    assert_eq!(run(&["inject", "-f", "-"], "a: [").0, Some(1));
    assert_eq!(run(&["inject", "-f", "/nothing/there"], "").0, Some(1));
    assert_eq!(run(&["inject"], "").0, Some(2));
    assert_eq!(run(&["validate", "containerpatch", "-f", "-"], "a: 1").0, Some(1));
}

#[test]
fn uninstallation_without_an_answer_about_the_pods_prints_no_object() {
    let (code, out, err) = run(
        &[
            "uninstall",
            "control-plane",
            "--check",
            "--kubeconfig=/nothing/there",
        ],
        "",
    );
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert_eq!(run(&["uninstall", "control-plane"], "").0, Some(0));
}

#[test]
fn invalid_container_patch_gives_code_3() {
    let patch = |value: &str| {
        format!(
            "apiVersion: kuma.io/v1alpha1\nkind: ContainerPatch\nmetadata: {{name: p}}\n\
             spec: {{sidecarPatch: [{{op: add, path: /tty, value: '{value}'}}]}}\n"
        )
    };
    let check = ["validate", "containerpatch", "-f", "-"];
    assert_eq!(run(&check, &patch("true")).0, Some(0));
    let (code, out, _) = run(&check, &patch("100m"));
    assert_eq!(code, Some(3));
    assert!(out.contains("value is not valid JSON"), "{out}");
}

#[test]
fn explanation_with_a_problem_gives_code_3_and_without_one_code_0() {
    let explain = |input: &str| run(&["explain", "pod", "-f", "-"], input);
    let (code, out, err) = explain(POD);
    assert_eq!(code, Some(3), "{err}");
    assert!(out.contains("NotInjected"), "{out}");
    let opted_out = POD.replace("enabled", "disabled");
    let (code, out, err) = explain(&opted_out);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("Pod default/a: has no sidecar"), "{out}");
    let other_name = ["explain", "pod", "b", "-f", "-"];
    assert_eq!(run(&other_name, POD).0, Some(1));
    assert_eq!(run(&["explain", "pod"], "").0, Some(2));
    let without_file = ["explain", "pod", "a", "--config=x"];
    assert_eq!(run(&without_file, "").0, Some(2));
}

#[test]
fn migration_report_gives_code_3_if_an_object_needs_work() {
    let report = |input: &str| run(&["migrate", "report", "-f", "-"], input);
    let (code, out, err) = report(POD);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("works         Pod default/a"), "{out}");
    let unknown = POD.replace("enabled}", "enabled, kuma.io/new: a}");
    let (code, out, _) = report(&unknown);
    assert_eq!(code, Some(3));
    assert!(out.contains("UnknownKey: label kuma.io/new"), "{out}");
    let (code, out, _) = run(&["migrate", "report", "-f", "-", "-o", "json"], &unknown);
    assert_eq!(code, Some(3));
    assert!(out.contains("\"verdict\": \"ignored\""), "{out}");
    assert_eq!(report("a: [").0, Some(1));
    assert_eq!(run(&["migrate"], "").0, Some(2));
}

#[test]
fn unusable_kubeconfig_gives_code_1_and_is_named() {
    let arguments = ["explain", "pod", "a", "--kubeconfig=/nothing/there"];
    let (code, out, err) = run(&arguments, "");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(
        err.contains("/nothing/there") && err.contains("--kubeconfig"),
        "{err}"
    );
}
