//! Golden tests of the conversion of a Pod to its Dataplane.
//!
//! `dataplane.NN.input.yaml` holds the objects of a cluster in the order of their watch events. A document of kind
//! `ConvertSettings`, if any, holds the settings of the conversion. `dataplane.NN.golden.yaml` holds the resulting
//! Dataplane or its deletion, and the Events on the Pod and its Services.
//!
//! `UPDATE_GOLDENS=1` rewrites the golden files.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

use std::path::{Path, PathBuf};

use kermode_k8s::convert::facts::{IntermediateFacts, NamespaceFacts, PodFacts, ServiceFacts};
use kermode_k8s::convert::{ConvertSettings, WarningSubject, dataplane_object};
use kermode_k8s::index::{Changes, DataplaneChange, Index};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn decode<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).expect("an object of its kind")
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a readable file");
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn apply(index: &mut Index, object: &Value) -> Changes {
    match object["kind"].as_str() {
        Some("Pod") => index.apply_pod(PodFacts::from(&decode(object))),
        Some("Service") => index.apply_service(ServiceFacts::from(&decode(object))),
        Some("Namespace") => index.apply_namespace(NamespaceFacts::from(&decode(object))),
        Some("ReplicaSet") => {
            let replica_set: k8s_openapi::api::apps::v1::ReplicaSet = decode(object);
            index.apply_intermediate(IntermediateFacts::from(&replica_set))
        }
        Some("Job") => {
            let job: k8s_openapi::api::batch::v1::Job = decode(object);
            index.apply_intermediate(IntermediateFacts::from(&job))
        }
        other => panic!("inputs do not support objects of kind {other:?}"),
    }
}

/// Applies the objects of `input` to an index. The objects include only one Pod. Returns the last change of the Pod's
/// Dataplane as documents of a golden file.
fn outcome(input: &[Value]) -> Vec<Value> {
    let settings = input
        .iter()
        .find(|document| document["kind"] == "ConvertSettings");
    let mut index = Index::new(ConvertSettings {
        zone: settings
            .and_then(|settings| settings["zone"].as_str())
            .map(Into::into),
    });
    let objects = input
        .iter()
        .filter(|document| document["kind"] != "ConvertSettings");
    let mut last_change_documents = Vec::new();
    for object in objects {
        for change in apply(&mut index, object).dataplanes {
            last_change_documents = describe(&change);
        }
    }
    last_change_documents
}

/// Returns a change as documents of a golden file: the Dataplane with an Event for each warning, the deletion of the
/// Dataplane, or the Event of a failed conversion.
fn describe(change: &DataplaneChange) -> Vec<Value> {
    match change {
        DataplaneChange::Upsert {
            dataplane,
            pod_uid,
            warnings,
        } => {
            let object = dataplane_object(dataplane, pod_uid);
            let mut documents = vec![serde_json::to_value(object).expect("a Dataplane is JSON")];
            documents.extend(warnings.iter().map(|warning| {
                let mut event = json!({
                    "kind": "Event", "reason": warning.reason(), "message": warning.to_string(),
                });
                if let WarningSubject::Service(key, uid) = warning.subject() {
                    event["service"] = json!({"key": key.to_string(), "uid": uid});
                    event["type"] = json!(if warning.is_usual() { "Normal" } else { "Warning" });
                }
                event
            }));
            documents
        }
        DataplaneChange::Delete(key) => vec![json!({"deleted": key.to_string()})],
        DataplaneChange::Failed { key, error, .. } => vec![json!({
            "kind": "Event", "pod": key.to_string(), "field": error.field(), "message": error.to_string(),
        })],
    }
}

fn golden_text(documents: &[Value]) -> String {
    let texts = documents
        .iter()
        .map(|document| serde_saphyr::to_string(document).expect("JSON is YAML"));
    texts.collect::<Vec<_>>().join("---\n")
}

fn input_paths() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(folder).expect("a readable folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut inputs: Vec<_> = paths
        .filter(|path| path.to_string_lossy().ends_with(".input.yaml"))
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_input_matches_its_golden_file() {
    let is_update_requested = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut failures = Vec::new();
    let inputs = input_paths();
    assert!(inputs.len() >= 18, "only {} inputs were found", inputs.len());
    for input in inputs {
        let golden = PathBuf::from(input.to_string_lossy().replace(".input.yaml", ".golden.yaml"));
        let actual = outcome(&documents(&input));
        if is_update_requested {
            std::fs::write(&golden, golden_text(&actual)).expect("the golden can be written");
        }
        let expected = documents(&golden);
        if expected != actual {
            failures.push(format!("{}:\n{}", golden.display(), golden_text(&actual)));
        }
    }
    assert!(
        failures.is_empty(),
        "outcomes differ from their golden files (UPDATE_GOLDENS=1 rewrites them):\n{}",
        failures.join("\n")
    );
}
