//! Tests that injection preserves all fields of a Pod: the fields of the schema, and unknown fields.
//!
//! `pod/schema.json` was derived by `pod/derive.py` from the API server's own OpenAPI document.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use k8s_openapi::api::core::v1::Pod;
use kermode_inject::settings::SidecarMode;
use kermode_inject::{Outcome, Settings, inject};
use serde_json::{Map, Value, json};

use crate::fixture::Fixture;

/// Name of a field that no schema has.
const UNKNOWN_FIELD: &str = "fieldOfTheFuture";

/// Generator of values for the types of the schema.
struct PodGenerator {
    types: Map<String, Value>,
    /// Whether every object gets an unknown field.
    adds_unknown_fields: bool,
}

impl PodGenerator {
    fn new(adds_unknown_fields: bool) -> Self {
        let mut schema: Value = serde_json::from_str(include_str!("pod/schema.json")).unwrap();
        let types = schema["types"].take();
        Self {
            types: types.as_object().expect("types").clone(),
            adds_unknown_fields,
        }
    }

    /// Returns a Pod with all fields, two items in every list and two members in every map.
    fn pod(&self) -> Value {
        let mut pod = self.generate("Pod");
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["labels"]["kuma.io/sidecar-injection"] = "enabled".into();
        // A Pod with the network of its node gets no sidecar.
        pod["spec"]["hostNetwork"] = false.into();
        for list in ["containers", "initContainers", "volumes"] {
            for (index, item) in pod["spec"][list].as_array_mut().unwrap().iter_mut().enumerate() {
                item["name"] = format!("own-{index}").into();
            }
        }
        pod
    }

    /// Generates a value of a type: `[]T` is a list of `T`, and `{}T` a map with values of type `T`.
    fn generate(&self, type_name: &str) -> Value {
        if let Some(item) = type_name.strip_prefix("[]") {
            return json!([self.generate(item), self.generate(item)]);
        }
        if let Some(member) = type_name.strip_prefix("{}") {
            return json!({"one": self.generate(member), "two": self.generate(member)});
        }
        match type_name {
            "string" => "8080".into(),
            "time" => "2026-01-02T03:04:05Z".into(),
            "integer" => 7.into(),
            "boolean" => true.into(),
            // Only `FieldsV1` of `metadata.managedFields` has this type.
            "object" => json!({"f:any": {}}),
            name => match &self.types[name] {
                Value::String(alias) => self.generate(alias),
                fields => self.object(fields.as_object().expect("fields")),
            },
        }
    }

    fn object(&self, fields: &Map<String, Value>) -> Value {
        let generate_field = |(name, type_name): (&String, &Value)| {
            (name.clone(), self.generate(type_name.as_str().expect("a type")))
        };
        let mut object: Map<String, Value> = fields.iter().map(generate_field).collect();
        if self.adds_unknown_fields {
            object.insert(
                UNKNOWN_FIELD.to_owned(),
                json!({"list": [1, null, {"number": 1.5}]}),
            );
        }
        object.into()
    }
}

/// Asserts that `after` contains all of `before`. Containers and volumes are matched by name, since injection inserts
/// others.
fn assert_kept(path: &str, before: &Value, after: &Value) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, member) in before {
                let path = format!("{path}/{key}");
                let kept = after.get(key).unwrap_or_else(|| panic!("{path} is lost"));
                assert_kept(&path, member, kept);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            let by_name = ["/spec/containers", "/spec/initContainers", "/spec/volumes"].contains(&path);
            if !by_name {
                assert_eq!(before.len(), after.len(), "{path}");
            }
            for (index, item) in before.iter().enumerate() {
                let path = format!("{path}/{index}");
                let has_same_name = |other: &&Value| other["name"] == item["name"];
                let kept = if by_name {
                    after.iter().find(has_same_name)
                } else {
                    after.get(index)
                };
                assert_kept(&path, item, kept.unwrap_or_else(|| panic!("{path} is lost")));
            }
        }
        _ => assert_eq!(before, after, "{path}"),
    }
}

/// Returns the Pod after injection.
fn injected(pod: &Value, settings: &Settings) -> Value {
    let outcome = Fixture::default().with(|context| inject(pod, settings, context));
    let Ok(Outcome::Injected(injection)) = outcome else {
        panic!("{outcome:?}");
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
    after
}

fn settings(sidecar_mode: SidecarMode, virtual_probes_enabled: bool) -> Settings {
    Settings {
        sidecar_mode,
        virtual_probes_enabled,
        native_sidecars_supported: true,
        ..Settings::default()
    }
}

#[test]
fn schema_matches_the_pod_of_k8s_openapi() {
    let pod = PodGenerator::new(false).pod();
    let decoded: Pod = serde_json::from_value(pod.clone()).expect("a Pod");
    let encoded = serde_json::to_value(decoded).unwrap();
    assert_eq!(encoded, pod, "schema and k8s_openapi have different fields");
}

#[test]
fn known_and_unknown_fields_survive() {
    let pod = PodGenerator::new(true).pod();
    let unknown_fields = pod.to_string().matches(UNKNOWN_FIELD).count();
    assert!(
        unknown_fields > 500,
        "too few objects with an unknown field: {unknown_fields}"
    );
    for mode in [SidecarMode::Native, SidecarMode::Classic] {
        let after = injected(&pod, &settings(mode, false));
        assert_kept("", &pod, &after);
        assert_eq!(after.to_string().matches(UNKNOWN_FIELD).count(), unknown_fields);
        let sidecars = after.to_string().matches("\"kuma-sidecar\"").count();
        assert_eq!(sidecars, 1, "{mode:?}");
    }
}

#[test]
fn only_path_and_port_of_probes_change() {
    let mut pod = PodGenerator::new(true).pod();
    for container in pod["spec"]["containers"].as_array_mut().unwrap() {
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            // A probe with a `host` would not be rewritten.
            container[probe]["httpGet"]
                .as_object_mut()
                .unwrap()
                .remove("host");
        }
    }
    let after = injected(&pod, &settings(SidecarMode::Native, true));
    for container in pod["spec"]["containers"].as_array_mut().unwrap() {
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            container[probe]["httpGet"]["port"] = 9000.into();
            // The generator makes every string "8080" and every integer 7. So the original path and the name of the
            // port are "8080", and the number of the port is 7. The path of a virtual probe is the number of the
            // original port, then the original path.
            container[probe]["httpGet"]["path"] = "/7/8080".into();
        }
    }
    assert_kept("", &pod, &after);
}
