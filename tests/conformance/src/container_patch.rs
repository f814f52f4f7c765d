//! Suite `container-patch`: operations on one container, and which patches apply to which container.

use anyhow::{Context, Result, bail};
use kermode_crds::{ContainerPatch, JsonPatchBlock};
use kermode_inject::container_patch::{ContainerRole, Operation, apply};
use kermode_inject::{PatchStage, Settings};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::{World, comparable_container, denial};
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

fn apply_operations(case: &Case<'_>) -> Result<Outcome> {
    let file = case.document.json["files"]["base"]
        .as_str()
        .context("the suite has no `files.base` with base containers")?;
    let name = case.at("/inputs/base").as_str().unwrap_or_default();
    let base = case.document.yaml(file)?[name].clone();
    let expected = match case.at("/expectedError/stage") {
        Value::Null => json!({"container": comparable_container(case.at("/expected/container"))}),
        stage => json!({"fails at": stage}),
    };
    let actual = match case.decode::<Vec<JsonPatchBlock>>("/inputs/ops") {
        Ok(blocks) => apply_blocks(
            &base,
            &blocks,
            if name == "init" {
                ContainerRole::Init
            } else {
                ContainerRole::Running
            },
        ),
        Err(error) => json!({"fails at": "admission", "because": format!("{:#}", error.root_cause())}),
    };
    Ok(Outcome::Compared { expected, actual })
}

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
            PatchStage::Validate => json!({"fails at": "decode"}),
        },
    }
}

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
    let world = World {
        namespace: json!({"metadata": {"name": "ns"}}),
        meshes: vec!["default".to_owned()],
        system_namespace: "kuma-system".to_owned(),
        container_patches: patches,
        ..World::default()
    };
    let admitted = world.admitted(&pod, &settings)?;
    if !case.at("/expectedError").is_null() {
        let (expected, actual) = denial(case.at("/expectedError"), admitted);
        return Ok(Outcome::Compared { expected, actual });
    }
    let expected = case.at("/expected").clone();
    let actual = match admitted {
        Ok(pod) => json!({
            "sidecar": expected_members(&expected["sidecar"], &pod["spec"]["containers"][0]),
            "init": expected_members(&expected["init"], &pod["spec"]["initContainers"][0]),
        }),
        Err(denial) => json!({"refused": denial.to_string()}),
    };
    Ok(Outcome::Compared { expected, actual })
}

/// Returns the members of a container that the expectation mentions. `envEndsWith` lists the names of the last
/// variables.
fn expected_members(expected: &Value, container: &Value) -> Value {
    let members = expected.as_object().into_iter().flatten();
    let actual = members.map(|(key, value)| {
        let member = match (key.as_str(), value) {
            ("envEndsWith", Value::Array(names)) => last_variables(container, names.len()),
            _ => container[key].clone(),
        };
        (key.clone(), member)
    });
    Value::Object(actual.collect())
}

fn last_variables(container: &Value, count: usize) -> Value {
    let variables = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = &variables[variables.len().saturating_sub(count)..];
    last.iter().map(|variable| variable["name"].clone()).collect()
}
