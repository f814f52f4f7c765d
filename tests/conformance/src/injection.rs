//! Helpers for all suites that inject Pods: the inputs of an injection, and the normalization of results.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kermode_crds::{ContainerPatch, ContainerPatchSpec};
use kermode_inject::{Context, Denial, Namespace, Outcome, Settings, inject};
use serde_json::{Value, json};

/// Inputs of an injection besides the Pod and the injector's settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct InjectionInputs {
    /// Namespace object of the Pod, as JSON.
    pub(crate) namespace: Value,
    /// Names of the existing meshes.
    pub(crate) meshes: Vec<String>,
    /// Namespace of the control plane; only ContainerPatches of this namespace apply.
    pub(crate) system_namespace: String,
    pub(crate) container_patches: Vec<ContainerPatch>,
    pub(crate) control_plane_url: String,
    pub(crate) control_plane_ca_pem: String,
}

// === impl InjectionInputs ===

impl InjectionInputs {
    /// Injects a Pod.
    pub(crate) fn inject(&self, pod: &Value, settings: &Settings) -> Result<Outcome, Denial> {
        let string_map = |pointer: &str| -> BTreeMap<String, String> {
            self.namespace
                .pointer(pointer)
                .and_then(|map| serde_json::from_value(map.clone()).ok())
                .unwrap_or_default()
        };
        let (labels, annotations) = (
            string_map("/metadata/labels"),
            string_map("/metadata/annotations"),
        );
        let context = Context {
            namespace: Namespace {
                name: self
                    .namespace
                    .pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .unwrap_or("default"),
                labels: &labels,
                annotations: &annotations,
            },
            control_plane_url: &self.control_plane_url,
            control_plane_ca_pem: &self.control_plane_ca_pem,
            mesh_exists: &|name| self.meshes.iter().any(|mesh| mesh == name),
            container_patch: &|name| self.container_patch(name),
            oldest_node: None,
        };
        inject(pod, settings, &context)
    }

    /// Injects a Pod and returns the admitted Pod. A skipped Pod is unchanged.
    ///
    /// # Errors
    /// The outer error: the JSON patch of the injection does not apply. The inner error: the Pod is denied.
    pub(crate) fn inject_and_patch(&self, pod: &Value, settings: &Settings) -> Result<Result<Value, Denial>> {
        let mut admitted = pod.clone();
        match self.inject(pod, settings) {
            Ok(Outcome::Injected(injection)) => {
                json_patch::patch(&mut admitted, &injection.patch)
                    .context("the JSON patch of the injection does not apply")?;
                Ok(Ok(admitted))
            }
            Ok(Outcome::Skipped(_)) => Ok(Ok(admitted)),
            Err(denial) => Ok(Err(denial)),
        }
    }

    fn container_patch(&self, name: &str) -> Option<ContainerPatchSpec> {
        let found = self.container_patches.iter().find(|patch| {
            patch.metadata.name.as_deref() == Some(name)
                && patch.metadata.namespace.as_deref() == Some(&self.system_namespace)
        });
        found.map(|patch| patch.spec.clone())
    }
}

/// Returns the expected and the actual result of a case that expects a denial, for the comparison. `expected` has the
/// member `exact`, the whole message, or `contains`, a part of the message. If the actual message contains the expected
/// part, both results contain only this part, so they are equal.
pub(crate) fn comparable_denials(expected: &Value, actual: Result<Value, Denial>) -> (Value, Value) {
    let actual = match actual {
        Ok(pod) => return (json!({"denied": expected}), json!({"admitted": pod})),
        Err(denial) => denial.to_string(),
    };
    if let Some(exact) = expected["exact"].as_str() {
        return (json!({"denied": exact}), json!({"denied": actual}));
    }
    let expected_part = expected["contains"].as_str().unwrap_or_default();
    let actual_part = if actual.contains(expected_part) {
        expected_part
    } else {
        actual.as_str()
    };
    (
        json!({"message of the denial contains": expected_part}),
        json!({"message of the denial contains": actual_part}),
    )
}

/// Normalizes a container for the comparison: equal quantities get the same notation, and the command of Kuma's init
/// container becomes the command of Kermode's init container.
pub(crate) fn comparable_container(container: &Value) -> Value {
    let mut container = container.clone();
    for kind in ["requests", "limits"] {
        let quantities = container
            .pointer_mut(&format!("/resources/{kind}"))
            .and_then(Value::as_object_mut);
        for (_, quantity) in quantities.into_iter().flatten() {
            let text = quantity
                .as_str()
                .map_or_else(|| quantity.to_string(), str::to_owned);
            if let Ok(parsed) = kermode_inject::parse_quantity(&text) {
                *quantity = parsed.to_string().into();
            }
        }
    }
    if container["command"] == json!(["/usr/bin/kumactl", "install", "transparent-proxy"]) {
        container["command"] = json!(["/usr/bin/kuma-init"]);
    }
    container
}

/// Normalizes a Pod for the comparison: removes its status and its creation time, and normalizes its containers.
pub(crate) fn comparable_pod(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(members) = pod.as_object_mut() {
        members.remove("status");
    }
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    for list in ["containers", "initContainers"] {
        let containers = pod
            .pointer_mut(&format!("/spec/{list}"))
            .and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            *container = comparable_container(container);
        }
    }
    pod
}
