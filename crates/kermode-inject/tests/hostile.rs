//! Tests with hostile input: randomly mutated golden inputs, and oversized Pods. Injection must not panic, its patches
//! must apply, and memory must stay bounded.
//!
//! Runs [`ITERATIONS`] inputs by default; `make fuzz-inject SECONDS=600` runs for 600 s with random seeds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a panic fails the test"
)]

mod fixture;
mod mutation;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use kermode_corpus::Corpus;
use kermode_crds::ContainerPatchSpec;
use kermode_inject::workload::misplaced_request;
use kermode_inject::{Outcome, Settings, explain, inject, validate_container_patch};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::mutation::Mutator;

/// Number of mutated inputs if `KERMODE_FUZZ_SECONDS` is not set.
const ITERATIONS: u64 = 4_000;
/// Maximum resident memory of the test process, in KiB: a few hundred times the largest input.
const MAX_MEMORY_KIB: u64 = 1024 * 1024;

/// Returns the documents to mutate as JSON: those of the golden inputs, and the Pods and Namespaces of `tests/corpus`.
/// All except ContainerPatches get the label that requests injection.
fn documents_to_mutate() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let corpus = Corpus::read().unwrap();
    let mut documents: Vec<Value> = corpus.pods.into_iter().chain(corpus.namespaces).collect();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().is_some_and(|path| path.ends_with(".input.yaml")) {
            let text = std::fs::read_to_string(path).unwrap();
            documents.extend(serde_saphyr::from_multiple::<Value>(&text).unwrap());
        }
    }
    let mut texts = Vec::new();
    for mut document in documents {
        if document["kind"] != "ContainerPatch" {
            document["metadata"]["labels"]["kuma.io/sidecar-injection"] = "enabled".into();
        }
        texts.push(document.to_string().into_bytes());
    }
    // The order of directory entries is not deterministic.
    texts.sort();
    assert!(texts.len() >= 150, "only {} documents", texts.len());
    texts
}

/// Passes one input to all entry points. Returns whether the input is a Pod that was injected.
fn process(input: &[u8]) -> bool {
    // The webhook uses the same parser, which limits the nesting depth.
    let Ok(value) = serde_json::from_slice::<Value>(input) else {
        return false;
    };
    let _ = misplaced_request(&value);
    let _ = validate_container_patch(&value, "kong-mesh-system");
    let mut fixture = Fixture::default();
    if let Ok(spec) = serde_json::from_value::<ContainerPatchSpec>(value["spec"].clone()) {
        fixture.patches.insert("p".to_owned(), spec);
    }
    let pod_with_patch = json!({
        "metadata": {
            "labels": {"kuma.io/sidecar-injection": "enabled"},
            "annotations": {"kuma.io/container-patches": "p"},
        },
        "spec": {"containers": []},
    });
    if value["kind"] == "Namespace" {
        let map = |name: &str| serde_json::from_value(value["metadata"][name].clone()).unwrap_or_default();
        (fixture.labels, fixture.annotations) = (map("labels"), map("annotations"));
    }
    let plain_pod = json!({"spec": {"containers": [{"name": "app"}]}});
    let mut injected = false;
    for native_with_cni in [true, false] {
        injected |= check_injection(&value, &fixture, native_with_cni);
        check_injection(&plain_pod, &fixture, native_with_cni);
        check_injection(&pod_with_patch, &fixture, native_with_cni);
    }
    injected
}

/// Injects a Pod and checks the result. Returns whether a sidecar was injected. `native_with_cni`: a native sidecar and
/// the CNI plugin; otherwise, a classic sidecar and `kuma-init`.
fn check_injection(pod: &Value, fixture: &Fixture, native_with_cni: bool) -> bool {
    let settings = Settings {
        native_sidecars_supported: native_with_cni,
        cni_enabled: native_with_cni,
        image_pull_secrets: vec!["registry".to_owned(), "mirror.credentials".to_owned()],
        ..Settings::default()
    };
    let outcome = fixture.with(|context| inject(pod, &settings, context));
    let explanation = fixture.with(|context| explain(pod, &settings, context));
    assert_eq!(explanation.result, outcome, "explain and inject differ");
    let Ok(Outcome::Injected(injection)) = outcome else {
        return false;
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
    let second = fixture.with(|context| inject(&after, &settings, context));
    assert!(
        matches!(second, Ok(Outcome::Skipped(_))),
        "a second injection is not skipped: {second:?}"
    );
    true
}

/// Returns the duration of the run, if `KERMODE_FUZZ_SECONDS` is set.
#[allow(clippy::disallowed_methods, reason = "switch of this test")]
fn fuzz_duration() -> Option<Duration> {
    let text = std::env::var("KERMODE_FUZZ_SECONDS").ok()?;
    Some(Duration::from_secs(text.parse().expect("a number of seconds")))
}

#[test]
fn mutated_pods_and_patches_do_not_panic() {
    let documents = documents_to_mutate();
    let duration = fuzz_duration();
    let first_seed = if duration.is_some() { fastrand::u64(..) } else { 0 };
    let start = Instant::now();
    let (mut count, mut injected_count) = (0, 0);
    while duration.map_or(count < ITERATIONS, |duration| start.elapsed() < duration) {
        let seed = first_seed.wrapping_add(count);
        let input = Mutator::new(seed).mutate(&documents);
        let Ok(sidecar_injected) = catch_unwind(AssertUnwindSafe(|| process(&input))) else {
            let shown = String::from_utf8_lossy(&input[..input.len().min(4_000)]);
            panic!("seed {seed} panics, input of {} bytes: {shown}", input.len());
        };
        injected_count += u64::from(sidecar_injected);
        count += 1;
    }
    println!("{count} inputs, first seed {first_seed}, {injected_count} injected");
    assert!(
        injected_count * 20 > count,
        "fewer than 5 % of the inputs were injected"
    );
    assert_memory_is_bounded();
}

#[test]
fn oversized_pods_do_not_panic() {
    for (name, pod) in oversized_pods() {
        let input = pod.to_string();
        assert!(input.len() > 250_000, "{name} is too small");
        let start = Instant::now();
        process(input.as_bytes());
        println!("{name}: {} bytes, {:.0?}", input.len(), start.elapsed());
    }
    // The parser's limit of the nesting depth is 128.
    for depth in [100, 127, 200, 1_000_000] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let label = r#""labels": {"kuma.io/sidecar-injection": "enabled"}"#;
        let pod = format!(r#"{{"metadata": {{{label}}}, "spec": {{"containers": [], "x": {open}{close}}}}}"#);
        process(pod.as_bytes());
    }
    assert_memory_is_bounded();
}

/// Returns a small Pod with one field replaced.
fn pod_with(pointer: &str, value: Value) -> Value {
    let mut pod = json!({
        "metadata": {"labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": {}},
        "spec": {"containers": [{"name": "app", "livenessProbe": {}, "ports": []}], "volumes": []},
    });
    *pod.pointer_mut(pointer).expect("the pointer exists") = value;
    pod
}

fn many(count: usize, item: Value) -> Value {
    Value::Array(vec![item; count])
}

/// Returns Pods of more than 250 kB, each with a description of its oversized field.
fn oversized_pods() -> Vec<(&'static str, Value)> {
    let annotated =
        |key: &str, item: &str, count| pod_with("/metadata/annotations", json!({key: item.repeat(count)}));
    let mut pods = pods_with_oversized_probes();
    pods.extend([
        (
            "containers",
            pod_with("/spec/containers", many(40_000, json!({"name": "a"}))),
        ),
        (
            "too many containers",
            pod_with("/spec/containers", many(110_000, json!({"name": "a"}))),
        ),
        (
            "volumes",
            pod_with("/spec/volumes", many(40_000, json!({"name": "v"}))),
        ),
        (
            "name",
            pod_with("/spec/containers/0/name", "a".repeat(2_000_000).into()),
        ),
        (
            "names of ContainerPatches",
            annotated("kuma.io/container-patches", "ab,", 200_000),
        ),
        (
            "variables",
            annotated("kuma.io/sidecar-env-vars", "a=b;", 200_000),
        ),
        (
            "UID exclusions",
            annotated(
                "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids",
                "1:2;",
                75_000,
            ),
        ),
        (
            "excluded ports",
            annotated("traffic.kuma.io/exclude-inbound-ports", "12,", 150_000),
        ),
        (
            "log level",
            annotated("kuma.io/envoy-log-level", "trace", 300_000),
        ),
        ("mesh", annotated("kuma.io/mesh", "m", 1_000_000)),
        ("invalid boolean", annotated("kuma.io/gateway", "yes", 300_000)),
    ]);
    pods
}

/// Returns Pods with many or large probes, hooks and ports.
fn pods_with_oversized_probes() -> Vec<(&'static str, Value)> {
    let container_with_probe = json!({"name": "a", "livenessProbe": {"httpGet": {"port": 1}}});
    let container_with_every_kind = json!({
        "name": "a", "restartPolicy": "Always",
        "livenessProbe": {"httpGet": {"port": 65535, "path": "%zz?\n", "scheme": "HTTPS"}},
        "readinessProbe": {"tcpSocket": {"port": "9000"}},
        "startupProbe": {"grpc": {"port": 0, "service": "\0%"}},
        "lifecycle": {"preStop": {"httpGet": {"port": -1}}, "postStart": {"httpGet": {"port": 1e300}}},
    });
    let container_with_long_service =
        json!({"name": "a", "livenessProbe": {"grpc": {"port": 1, "service": "\u{1}".repeat(1_024)}}});
    let probe_with_long_path = json!({"httpGet": {"port": 1, "path": "/%".repeat(200_000)}});
    let every_port = (0..=65_536).map(|port| json!({"containerPort": port})).collect();
    let container_with_many_ports = json!({
        "name": "a",
        "ports": many(4_000, json!({"name": "b", "containerPort": 1})),
        "livenessProbe": {"httpGet": {"port": "nowhere"}},
    });
    vec![
        (
            "probes",
            pod_with("/spec/containers", many(6_000, container_with_probe)),
        ),
        (
            "probes and hooks of every kind",
            pod_with("/spec/containers", many(3_000, container_with_every_kind)),
        ),
        (
            "services of gRPC probes",
            pod_with("/spec/containers", many(300, container_with_long_service)),
        ),
        (
            "path of a probe",
            pod_with("/spec/containers/0/livenessProbe", probe_with_long_path),
        ),
        ("every port", pod_with("/spec/containers/0/ports", every_port)),
        (
            "ports among which a name is looked up",
            pod_with("/spec/containers", many(10, container_with_many_ports)),
        ),
    ]
}

/// Checks the peak resident memory of this process.
fn assert_memory_is_bounded() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("Linux reports VmHWM");
    let peak: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("peak memory: {peak} KiB");
    assert!(peak < MAX_MEMORY_KIB, "{peak} KiB");
}
