//! Golden tests: `golden/<name>.input.yaml` holds a Pod, and optionally its Namespace and ContainerPatches;
//! `<name>.settings.yaml` holds settings that differ from the defaults; `<name>.golden.yaml` holds the expected result.
//!
//! `UPDATE_GOLDENS=1 cargo test -p kermode-inject` rewrites the expected results.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use std::path::{Path, PathBuf};

use kermode_crds::ContainerPatch;
use kermode_inject::{Denial, Outcome, Settings, explain, inject};
use serde_json::{Value, json};

use crate::fixture::Fixture;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Returns the names of the inputs.
fn names() -> Vec<String> {
    let files = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = files
        .filter_map(|file| file.to_str()?.strip_suffix(".input.yaml").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn settings(name: &str) -> Settings {
    let path = folder().join(format!("{name}.settings.yaml"));
    if !path.exists() {
        return Settings::default();
    }
    let mut value: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    // These settings are not part of the configuration, because they depend on the API server.
    let mut of_api_server = |name: &str| value.as_object_mut().unwrap().remove(name) == Some(json!(true));
    let native = of_api_server("nativeSidecarsSupported");
    let sleep_hooks = of_api_server("sleepHooksSupported");
    let mut settings: Settings = serde_json::from_value(value).unwrap();
    settings.native_sidecars_supported = native;
    settings.sleep_hooks_supported = sleep_hooks;
    assert_eq!(settings.problems(), Vec::<String>::new(), "{name}");
    settings
}

/// Reads YAML documents: one Pod, and optionally its Namespace and ContainerPatches.
fn read(yaml: &str) -> (Value, Fixture) {
    let (mut pod, mut fixture) = (None, Fixture::default());
    for document in serde_saphyr::from_multiple::<Value>(yaml).unwrap() {
        match document["kind"].as_str() {
            Some("Namespace") => {
                let string_map =
                    |key: &str| serde_json::from_value(document["metadata"][key].clone()).unwrap_or_default();
                fixture.labels = string_map("labels");
                fixture.annotations = string_map("annotations");
            }
            Some("ContainerPatch") => {
                let patch: ContainerPatch = serde_json::from_value(document).unwrap();
                fixture.patches.insert(patch.metadata.name.unwrap(), patch.spec);
            }
            _ => assert!(pod.replace(document).is_none(), "the input has more than one Pod"),
        }
    }
    (pod.expect("the input has no Pod"), fixture)
}

/// Runs injection with and without explanation. Returns the outcome, which must be the same, and the trace.
fn run(pod: &Value, fixture: &Fixture, settings: &Settings) -> Value {
    let explanation = fixture.with(|context| explain(pod, settings, context));
    let outcome = fixture.with(|context| inject(pod, settings, context));
    assert_eq!(explanation.result, outcome, "explain and inject differ");
    let mut result = describe(pod, outcome);
    let steps = explanation.steps.iter();
    result["trace"] = steps
        .map(|step| Value::from(format!("{}: {}", step.topic, step.text)))
        .collect();
    result
}

fn describe(pod: &Value, outcome: Result<Outcome, Denial>) -> Value {
    match outcome {
        Err(denial) => json!({"denied": denial.reason(), "message": denial.to_string()}),
        Ok(Outcome::Skipped(reason)) => json!({"skipped": reason.as_str()}),
        Ok(Outcome::Injected(injection)) => {
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, &injection.patch).expect("the patch applies");
            let operation_line = |operation: &json_patch::PatchOperation| {
                let operation = serde_json::to_value(operation).unwrap();
                format!(
                    "{} {}",
                    operation["op"].as_str().unwrap(),
                    operation["path"].as_str().unwrap()
                )
            };
            json!({
                "injected": injection.source.as_str(),
                "warnings": injection.warnings,
                "operations": injection.patch.0.iter().map(operation_line).collect::<Vec<_>>(),
                "pod": patched,
            })
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "switch of the golden tests")]
fn every_input_gives_its_golden_result() {
    let update = std::env::var("UPDATE_GOLDENS").is_ok_and(|value| value == "1");
    let names = names();
    assert!(
        names.len() >= 10,
        "golden files are missing in {}",
        folder().display()
    );
    let mut differing = Vec::new();
    for name in names {
        let input = std::fs::read_to_string(folder().join(format!("{name}.input.yaml"))).unwrap();
        let (pod, fixture) = read(&input);
        let actual = run(&pod, &fixture, &settings(&name));
        let path = folder().join(format!("{name}.golden.yaml"));
        if update {
            std::fs::write(&path, serde_saphyr::to_string(&actual).unwrap()).unwrap();
            continue;
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let golden: Value = serde_saphyr::from_str(&golden).unwrap_or(Value::Null);
        if golden != actual {
            differing.push(format!(
                "--- {name}\n{}",
                serde_saphyr::to_string(&actual).unwrap()
            ));
        }
    }
    assert!(
        differing.is_empty(),
        "results differ from the golden files; if intended, rewrite them with UPDATE_GOLDENS=1:\n{}",
        differing.join("\n")
    );
}
