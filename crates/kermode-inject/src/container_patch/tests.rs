//! Tests of selecting, applying and validating ContainerPatches.

use kermode_crds::{ContainerPatchSpec, JsonPatchBlock};
use serde_json::{Value, json};

use super::{ContainerRole, Operation, PatchFailure, PatchStage, SelectedPatches, apply};
use crate::denial::Denial;
use crate::trace::Trace;

fn mk_sidecar() -> Value {
    json!({
        "name": "kuma-sidecar",
        "image": "dp:1",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "1000m"}},
        "securityContext": {"runAsUser": 5678},
    })
}

fn apply_operations(base: &Value, operations: Value) -> Result<Value, PatchFailure> {
    let blocks: Vec<JsonPatchBlock> = serde_json::from_value(operations).unwrap();
    let operations: Vec<Operation<'_>> = blocks
        .iter()
        .enumerate()
        .map(|(index, block)| Operation {
            patch: "p",
            list: "sidecarPatch",
            index,
            block,
        })
        .collect();
    apply(base, &operations, ContainerRole::KeepsRunning)
}

/// Applies an `add` operation that fails. Returns the stage and the problems.
fn failure_of_add(path: &str, value: &Value) -> (PatchStage, String) {
    let failure = apply_operations(
        &mk_sidecar(),
        json!([{"op": "add", "path": path, "value": value.to_string()}]),
    )
    .unwrap_err();
    (failure.stage, failure.problems.join("; "))
}

#[test]
fn negative_indices_count_from_the_end() {
    let container = apply_operations(
        &mk_sidecar(),
        json!([
            {"op": "add", "path": "/args/0", "value": "\"run\""},
            {"op": "add", "path": "/args/-1", "value": "\"last\""},
            {"op": "add", "path": "/args/-2", "value": "\"middle\""},
            {"op": "replace", "path": "/env/-1/value", "value": "\"two\""},
            {"op": "remove", "path": "/env/-2"},
        ]),
    )
    .unwrap();
    assert_eq!(container["args"], json!(["run", "middle", "last"]));
    assert_eq!(container["env"], json!([{"name": "B", "value": "two"}]));
}

#[test]
fn only_add_creates_missing_parents() {
    let deep = "/securityContext/capabilities/drop/-";
    let container = apply_operations(
        &mk_sidecar(),
        json!([{"op": "add", "path": deep, "value": "\"ALL\""}]),
    )
    .unwrap();
    assert_eq!(
        container["securityContext"]["capabilities"]["drop"],
        json!(["ALL"])
    );
    for operation in [
        json!({"op": "replace", "path": deep, "value": "\"ALL\""}),
        json!({"op": "copy", "from": "/image", "path": "/lifecycle/preStop"}),
        json!({"op": "move", "from": "/image", "path": "/lifecycle/preStop"}),
        json!({"op": "remove", "path": "/lifecycle/preStop"}),
    ] {
        let failure = apply_operations(&mk_sidecar(), json!([operation])).unwrap_err();
        assert_eq!(failure.stage, PatchStage::Apply, "{operation}");
    }
}

#[test]
fn invalid_and_out_of_range_indices_are_rejected() {
    for index in ["3", "-4", "01", "+1", "x", "", "1.0"] {
        let operations = json!([{"op": "add", "path": format!("/env/{index}"), "value": "{\"name\":\"C\"}"}]);
        assert_eq!(
            apply_operations(&mk_sidecar(), operations).unwrap_err().stage,
            PatchStage::Apply,
            "{index:?}"
        );
    }
}

#[test]
fn failure_names_the_patch_the_operation_and_the_path() {
    let failure = apply_operations(
        &mk_sidecar(),
        json!([{"op": "add", "path": "/image", "value": "\"x\""}, {"op": "remove", "path": "/nope"}]),
    )
    .unwrap_err();
    assert_eq!(
        failure.to_string(),
        "could not apply patches [\"p\"]: ContainerPatch \"p\", sidecarPatch[1] (remove /nope): there is no /nope"
    );
}

#[test]
fn unknown_fields_and_invalid_env_ports_and_resources_are_failures() {
    assert_failures([
        ("/notAField", json!("x"), "notAField: unknown field"),
        ("/env/0/valueFrm", json!({}), "env[0].valueFrm: unknown field"),
        (
            "/resources/requests/cpu",
            json!("abc"),
            "resources.requests.cpu: \"abc\" is not a quantity",
        ),
        (
            "/resources/requests/cpu",
            json!("2"),
            "resources.requests.cpu: must not be above the limit",
        ),
        ("/resources/requests/memory", json!("-1"), "must not be negative"),
        ("/image", json!(5), "image: invalid type"),
        (
            "/env/-",
            json!({"name": "A", "value": "x"}),
            "env[2].name: duplicate of env[0] (A)",
        ),
        ("/env/-", json!({"name": "a=b"}), "env[2].name"),
        (
            "/env/0/valueFrom",
            json!({"fieldRef": {"fieldPath": "metadata.name"}}),
            "both value and valueFrom",
        ),
        (
            "/ports",
            json!([{"name": "x", "containerPort": 1}, {"name": "x", "containerPort": 2}]),
            "ports[1].name: duplicate",
        ),
        (
            "/ports",
            json!([{"containerPort": 70000}]),
            "ports[0].containerPort",
        ),
    ]);
}

#[test]
fn invalid_security_contexts_probes_and_names_are_failures() {
    assert_failures([
        (
            "/securityContext/runAsNonRoot",
            json!("yes"),
            "securityContext.runAsNonRoot: invalid type",
        ),
        (
            "/securityContext",
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            "runAsNonRoot: cannot be true while runAsUser is 0",
        ),
        (
            "/securityContext",
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
            "allowPrivilegeEscalation: cannot be false",
        ),
        (
            "/securityContext/seccompProfile",
            json!({"type": "Localhost"}),
            "needs localhostProfile",
        ),
        (
            "/securityContext/seccompProfile",
            json!({"type": "Default"}),
            "type must be",
        ),
        (
            "/securityContext/runAsUser",
            json!(-1),
            "runAsUser: must be from 0",
        ),
        ("/livenessProbe", json!({"periodSeconds": 1}), "exactly one of"),
        (
            "/livenessProbe",
            json!({"exec": {}, "successThreshold": 2}),
            "successThreshold: must be 1",
        ),
        (
            "/imagePullPolicy",
            json!("Sometimes"),
            "imagePullPolicy: must be one of",
        ),
        (
            "/volumeMounts/-",
            json!({"name": "v", "mountPath": ""}),
            "volumeMounts[0].mountPath",
        ),
        ("/name", json!("Kuma_Sidecar"), "name: must be"),
        ("", json!([]), "not a container"),
    ]);
}

/// Asserts that `add` operations with these paths and values fail with these problems.
fn assert_failures<const COUNT: usize>(cases: [(&str, Value, &str); COUNT]) {
    for (path, value, problem) in cases {
        let (stage, text) = failure_of_add(path, &value);
        assert_eq!(stage, PatchStage::Validate, "{path} {value}");
        assert!(text.contains(problem), "{path} {value}: {text}");
        assert!(
            text.starts_with(&format!("ContainerPatch \"p\", sidecarPatch[0] (add {path})")),
            "{text}"
        );
    }
}

#[test]
fn numeric_quantities_are_kept_as_written() {
    let container = apply_operations(
        &mk_sidecar(),
        json!([{"op": "add", "path": "/resources/requests/cpu", "value": "0.1"}]),
    )
    .unwrap();
    assert_eq!(container["resources"]["requests"]["cpu"], json!(0.1));
}

#[test]
fn intermediate_states_may_be_invalid() {
    let container = apply_operations(
        &mk_sidecar(),
        json!([
            {"op": "add", "path": "/env/-", "value": "{\"name\":\"A\",\"value\":\"new\"}"},
            {"op": "remove", "path": "/env/0"},
        ]),
    )
    .unwrap();
    assert_eq!(container["env"][1]["value"], "new");
}

#[test]
fn null_removes_a_member() {
    let container = apply_operations(
        &mk_sidecar(),
        json!([{"op": "add", "path": "/securityContext", "value": "null"}]),
    )
    .unwrap();
    assert_eq!(container.get("securityContext"), None);
}

#[test]
fn probe_of_an_init_container_is_a_failure() {
    let blocks: Vec<JsonPatchBlock> =
        serde_json::from_value(json!([{"op": "add", "path": "/livenessProbe", "value": "{\"exec\":{}}"}]))
            .unwrap();
    let operation = Operation {
        patch: "p",
        list: "initPatch",
        index: 0,
        block: &blocks[0],
    };
    assert!(apply(&mk_sidecar(), &[operation], ContainerRole::RunsToCompletion).is_err());
    assert!(apply(&mk_sidecar(), &[operation], ContainerRole::KeepsRunning).is_ok());
}

#[test]
fn size_and_depth_are_bounded() {
    let doubling: Vec<Value> = (0..40)
        .map(|step| json!({"op": "copy", "from": "/env", "path": format!("/env/0/x{step}")}))
        .collect();
    let deep = "/a".repeat(10_000);
    for operations in [
        Value::Array(doubling),
        json!([{"op": "add", "path": deep, "value": "1"}]),
        json!([{"op": "add", "path": "/a", "value": "[".repeat(100_000)}]),
        Value::Array(vec![json!({"op": "add", "path": "/tty", "value": "true"}); 1_001]),
    ] {
        let failure = apply_operations(&mk_sidecar(), operations).unwrap_err();
        assert_eq!(failure.stage, PatchStage::Apply);
        assert!(failure.to_string().len() < 2_000, "the message is too long");
    }
}

#[test]
fn all_missing_patches_are_reported_and_the_pods_list_replaces_the_default() {
    let find = |name: &str| (name == "existing").then(ContainerPatchSpec::default);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let missing = SelectedPatches::look_up(
        Some(names(&["b", "existing", "a"])),
        &names(&["default"]),
        &find,
        &mut Trace::off(),
    )
    .unwrap_err();
    assert_eq!(
        missing.to_string(),
        "it appears some expected container patches are missing: [\"b\" \"a\"]"
    );
    assert!(
        SelectedPatches::look_up(
            Some(names(&["existing"])),
            &names(&["default"]),
            &find,
            &mut Trace::off()
        )
        .is_ok()
    );
    assert!(
        SelectedPatches::look_up(Some(Vec::new()), &names(&["default"]), &find, &mut Trace::off()).is_ok()
    );
    assert_eq!(
        SelectedPatches::look_up(None, &names(&["default"]), &find, &mut Trace::off()).unwrap_err(),
        Denial::ContainerPatchesMissing {
            names: names(&["default"])
        }
    );
}
