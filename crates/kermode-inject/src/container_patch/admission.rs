//! Validation of a ContainerPatch at admission, before any Pod uses it
//! (docs/design.md#validation-of-patched-containers).

use std::collections::BTreeMap;

use kermode_crds::annotation::{CONTAINER_PATCHES, SIDECAR_INJECTION};
use kermode_crds::{ContainerPatch, ContainerPatchSpec, JsonPatchBlock, JsonPatchOp};
use serde_json::{Value, json};

use super::{PatchFailure, operation};
use crate::denial::Denial;
use crate::settings::Settings;
use crate::{Context, Namespace, inject};

/// Problem of a ContainerPatch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchProblem {
    /// The ContainerPatch is outside the control plane's namespace, where injection does not look for it.
    #[error(
        "ContainerPatch can only be placed in {namespace} namespace. It can be however referenced by pods in all namespaces"
    )]
    WrongNamespace {
        /// Namespace of the control plane.
        namespace: String,
    },
    /// The object cannot be decoded as a ContainerPatch.
    #[error("{path}: {problem}")]
    Undecodable {
        /// Path of the field.
        path: String,
        /// Description of the problem.
        problem: String,
    },
    /// An operation that no container accepts: its path, source or value is invalid.
    #[error("spec.{list}[{index}] ({op} {path}): {problem}")]
    Operation {
        /// Name of the list: `sidecarPatch` or `initPatch`.
        list: &'static str,
        /// Index of the operation in the list.
        index: usize,
        /// Kind of the operation, for example `add`.
        op: &'static str,
        /// Path of the operation.
        path: String,
        /// Description of the problem.
        problem: String,
    },
}

/// Validates the raw ContainerPatch that the validating webhook received.
///
/// # Errors
/// Returns all problems.
pub fn validate_container_patch(object: &Value, system_namespace: &str) -> Result<(), Vec<PatchProblem>> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    if namespace != Some(system_namespace) {
        return Err(vec![PatchProblem::WrongNamespace {
            namespace: system_namespace.to_owned(),
        }]);
    }
    let decoded: Result<ContainerPatch, _> = serde_path_to_error::deserialize(object);
    let patch = decoded.map_err(|error| {
        vec![PatchProblem::Undecodable {
            path: error.path().to_string(),
            problem: error.inner().to_string(),
        }]
    })?;
    let lists = [
        ("sidecarPatch", &patch.spec.sidecar_patch),
        ("initPatch", &patch.spec.init_patch),
    ];
    let problems: Vec<PatchProblem> = lists
        .into_iter()
        .flat_map(|(list, blocks)| {
            blocks
                .iter()
                .enumerate()
                .filter_map(move |(index, block)| operation_problem(list, index, block))
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Applies a ContainerPatch to the containers that injection renders for a plain Pod. Returns the failure if the
/// containers cannot be patched. Pods that use such a ContainerPatch are denied, unless other ContainerPatches or
/// annotations change the containers so that it applies.
pub fn try_container_patch(
    name: &str,
    spec: &ContainerPatchSpec,
    settings: &Settings,
) -> Option<PatchFailure> {
    let pod = json!({
        "metadata": {
            "labels": {SIDECAR_INJECTION: "enabled"},
            "annotations": {CONTAINER_PATCHES: name},
        },
        "spec": {"containers": [{"name": "app"}]},
    });
    let no_entries = BTreeMap::new();
    let context = Context {
        namespace: Namespace {
            name: "default",
            labels: &no_entries,
            annotations: &no_entries,
        },
        control_plane_url: "",
        control_plane_ca_pem: "",
        oldest_node: None,
        mesh_exists: &|_| true,
        container_patch: &|_| Some(spec.clone()),
    };
    match inject(&pod, settings, &context) {
        Err(Denial::ContainerPatch(failure)) => Some(failure),
        _ => None,
    }
}

fn operation_problem(list: &'static str, index: usize, block: &JsonPatchBlock) -> Option<PatchProblem> {
    let problem = check_operation(block).err()?;
    Some(PatchProblem::Operation {
        list,
        index,
        op: block.op.as_str(),
        path: block.path.clone(),
        problem,
    })
}

fn check_operation(block: &JsonPatchBlock) -> Result<(), String> {
    operation::parse_path(&block.path)?;
    match block.op {
        JsonPatchOp::Add | JsonPatchOp::Replace => operation::parse_value(block).map(drop),
        JsonPatchOp::Move | JsonPatchOp::Copy => operation::parse_source(block).map(drop),
        JsonPatchOp::Remove => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_patch(operations: Value) -> Value {
        json!({
            "apiVersion": "kuma.io/v1alpha1",
            "kind": "ContainerPatch",
            "metadata": {"name": "p", "namespace": "mesh"},
            "spec": {"sidecarPatch": operations},
        })
    }

    #[test]
    fn invalid_operations_are_rejected_at_admission() {
        // Only the second operation is valid: a value is a text that contains JSON.
        let problems = validate_container_patch(
            &mk_patch(json!([
                {"op": "add", "path": "/image", "value": "other"},
                {"op": "add", "path": "/image", "value": "\"other\""},
                {"op": "add", "path": "/tty"},
                {"op": "add", "path": "tty", "value": "true"},
                {"op": "move", "path": "/tty"},
            ])),
            "mesh",
        )
        .unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert!(
            texts[0].starts_with("spec.sidecarPatch[0] (add /image): value is not valid JSON"),
            "{texts:?}"
        );
    }

    #[test]
    fn patch_outside_the_control_planes_namespace_is_rejected() {
        assert_eq!(validate_container_patch(&mk_patch(json!([])), "mesh"), Ok(()));
        let problems = validate_container_patch(&mk_patch(json!([])), "kong-mesh-system").unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            "ContainerPatch can only be placed in kong-mesh-system namespace. It can be however referenced by pods in all namespaces"
        );
    }

    #[test]
    fn patch_that_fits_no_container_is_found_without_a_pod() {
        let try_operations = |list: &str, operations: Value| {
            let spec = serde_json::from_value(json!({list: operations})).unwrap();
            try_container_patch("p", &spec, &Settings::default()).map(|failure| failure.to_string())
        };
        for list in ["sidecarPatch", "initPatch"] {
            for path in ["/nosuchfield", "/nosuchfield/below", "/env/999"] {
                let operation = json!([{"op": "replace", "path": path, "value": "1"}]);
                let text = try_operations(list, operation).expect(path);
                assert!(text.contains(&format!("{list}[0] (replace {path})")), "{text}");
            }
            let unknown_field = json!([{"op": "add", "path": "/nosuchfield", "value": "1"}]);
            assert!(
                try_operations(list, unknown_field)
                    .expect("a problem")
                    .contains("nosuchfield")
            );
            let fitting = json!([{"op": "add", "path": "/workingDir", "value": "\"/tmp\""}]);
            assert_eq!(try_operations(list, fitting), None);
        }
    }

    #[test]
    fn unknown_operation_is_rejected() {
        let problems = validate_container_patch(
            &mk_patch(json!([{"op": "test", "path": "/image", "value": "1"}])),
            "mesh",
        );
        assert!(
            problems.unwrap_err()[0].to_string().contains("sidecarPatch"),
            "the problem does not name the list"
        );
    }
}
