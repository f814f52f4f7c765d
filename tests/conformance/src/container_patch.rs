//! Suite `container-patch`: patch operations on a container, and the selection of the ContainerPatches for a Pod.

use anyhow::{Context, Result, bail};
use kermode_crds::{ContainerPatch, JsonPatchBlock};
use kermode_inject::container_patch::{ContainerRole, Operation, apply};
use kermode_inject::{PatchStage, Settings};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::{InjectionInputs, comparable_container, comparable_denials};
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct ContainerPatches;

impl Runner for ContainerPatches {
    fn suite(&self) -> &'static str {
        "container-patch"
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        match case.kind() {
            "apply-ops" => apply_operations(case),
            "select-and-apply" => select_and_apply(case),
            kind => bail!("unknown kind {kind:?}"),
        }
    }
}

/// Kind `apply-ops`: applies JSON patch operations to the container that `inputs.base` names.
fn apply_operations(case: &Case<'_>) -> Result<Outcome> {
    let file = case.suite.json["files"]["base"]
        .as_str()
        .context("the suite has no `files.base`, the name of the file with the unpatched containers")?;
    let container_name = case.at("/inputs/base").as_str().unwrap_or_default();
    let base = case.suite.yaml(file)?[container_name].clone();
    let role = if container_name == "init" {
        ContainerRole::RunsToCompletion
    } else {
        ContainerRole::KeepsRunning
    };
    let expected = match case.at("/expectedError/stage") {
        Value::Null => json!({"container": comparable_container(case.at("/expected/container"))}),
        stage => json!({"fails at": stage}),
    };
    let actual = match case.decode::<Vec<JsonPatchBlock>>("/inputs/ops") {
        Ok(blocks) => apply_blocks(&base, &blocks, role),
        Err(error) => json!({"fails at": "admission", "because": format!("{:#}", error.root_cause())}),
    };
    Ok(Outcome::Compared { expected, actual })
}

/// Returns the patched container, or the stage at which the patch fails.
fn apply_blocks(base: &Value, blocks: &[JsonPatchBlock], role: ContainerRole) -> Value {
    let operation = |(index, block)| Operation {
        patch: "case",
        list: "sidecarPatch",
        index,
        block,
    };
    let operations: Vec<Operation<'_>> = blocks.iter().enumerate().map(operation).collect();
    match apply(base, &operations, role) {
        Ok(container) => json!({"container": comparable_container(&container)}),
        Err(failure) => match failure.stage {
            PatchStage::Apply => json!({"fails at": "apply"}),
            // The corpus calls this stage `decode`, because Kuma only decodes the patched container.
            PatchStage::Validate => json!({"fails at": "decode"}),
        },
    }
}

/// Kind `select-and-apply`: injects a Pod. The Pod's annotation or the injector's settings list the ContainerPatches to
/// apply.
fn select_and_apply(case: &Case<'_>) -> Result<Outcome> {
    let patches: Vec<ContainerPatch> = case.decode("/inputs/containerPatches")?;
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"kuma.io/sidecar-injection": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    if let Some(list) = case.at("/inputs/annotation").as_str() {
        pod["metadata"]["annotations"] = json!({"kuma.io/container-patches": list});
    }
    let settings = Settings {
        container_patches: case.decode("/inputs/defaultPatches")?,
        ..Settings::default()
    };
    let inputs = InjectionInputs {
        namespace: json!({"metadata": {"name": "ns"}}),
        meshes: vec!["default".to_owned()],
        system_namespace: "kuma-system".to_owned(),
        container_patches: patches,
        ..InjectionInputs::default()
    };
    let admission = inputs.inject_and_patch(&pod, &settings)?;
    if !case.at("/expectedError").is_null() {
        let (expected, actual) = comparable_denials(case.at("/expectedError"), admission);
        return Ok(Outcome::Compared { expected, actual });
    }
    let expected = case.at("/expected").clone();
    let actual = match admission {
        // The injector inserts its containers before those of the Pod.
        Ok(pod) => json!({
            "sidecar": members_as_in(&expected["sidecar"], &pod["spec"]["containers"][0]),
            "init": members_as_in(&expected["init"], &pod["spec"]["initContainers"][0]),
        }),
        Err(denial) => json!({"denied": denial.to_string()}),
    };
    Ok(Outcome::Compared { expected, actual })
}

/// Returns the members of a container that the expected result also has. The member `envEndsWith` of the expected
/// result is not a field of a container: it lists the names of the container's last environment variables.
fn members_as_in(expected: &Value, container: &Value) -> Value {
    let members = expected.as_object().into_iter().flatten();
    let actual = members.map(|(key, value)| {
        let member = match (key.as_str(), value) {
            ("envEndsWith", Value::Array(names)) => names_of_last_variables(container, names.len()),
            _ => container[key].clone(),
        };
        (key.clone(), member)
    });
    Value::Object(actual.collect())
}

fn names_of_last_variables(container: &Value, count: usize) -> Value {
    let variables = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = &variables[variables.len().saturating_sub(count)..];
    last.iter().map(|variable| variable["name"].clone()).collect()
}
