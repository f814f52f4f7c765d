//! Common code of the suites that inject: the context of an injection, and comparable forms of Pods and containers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kermode_crds::{ContainerPatch, ContainerPatchSpec};
use kermode_inject::{Context, Denial, Namespace, Outcome, Settings, inject};
use serde_json::{Value, json};

/// Objects and settings of the control plane that an injection depends on, besides the Pod and the injector settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) namespace: Value,
    pub(crate) meshes: Vec<String>,
    pub(crate) system_namespace: String,
    pub(crate) container_patches: Vec<ContainerPatch>,
    pub(crate) control_plane_url: String,
    pub(crate) control_plane_ca_pem: String,
}

// === impl World ===

impl World {
    /// Injects a Pod.
    pub(crate) fn inject(&self, pod: &Value, settings: &Settings) -> Result<Outcome, Denial> {
        let texts = |pointer: &str| -> BTreeMap<String, String> {
            self.namespace
                .pointer(pointer)
                .and_then(|texts| serde_json::from_value(texts.clone()).ok())
                .unwrap_or_default()
        };
        let (labels, annotations) = (texts("/metadata/labels"), texts("/metadata/annotations"));
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
        };
        inject(pod, settings, &context)
    }

    /// Returns the admitted Pod, unchanged when it is skipped.
    pub(crate) fn admitted(&self, pod: &Value, settings: &Settings) -> Result<Result<Value, Denial>> {
        let mut admitted = pod.clone();
        match self.inject(pod, settings) {
            Ok(Outcome::Injected(injection)) => {
                json_patch::patch(&mut admitted, &injection.patch)
                    .context("the patch of the injection does not apply")?;
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

/// Returns both sides of an expected denial: the exact text, or the expected part of it.
pub(crate) fn denial(expected: &Value, actual: Result<Value, Denial>) -> (Value, Value) {
    let actual = match actual {
        Ok(pod) => return (json!({"refused": expected}), json!({"admitted": pod})),
        Err(denial) => denial.to_string(),
    };
    if let Some(exact) = expected["exact"].as_str() {
        return (json!({"refused": exact}), json!({"refused": actual}));
    }
    let part = expected["contains"].as_str().unwrap_or_default();
    let shown = if actual.contains(part) {
        part
    } else {
        actual.as_str()
    };
    (json!({"refused, with": part}), json!({"refused, with": shown}))
}

/// Removes incidental differences from a container: quantities become amounts, and the command of Kuma's init
/// container becomes that of Kermode.
pub(crate) fn comparable_container(container: &Value) -> Value {
    let mut container = container.clone();
    for kind in ["requests", "limits"] {
        let amounts = container
            .pointer_mut(&format!("/resources/{kind}"))
            .and_then(Value::as_object_mut);
        for (_, amount) in amounts.into_iter().flatten() {
            let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
            if let Ok(parsed) = kermode_inject::parse_quantity(&text) {
                *amount = parsed.to_string().into();
            }
        }
    }
    if container["command"] == json!(["/usr/bin/kumactl", "install", "transparent-proxy"]) {
        container["command"] = json!(["/usr/bin/kuma-init"]);
    }
    container
}

/// Removes incidental differences from a Pod.
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
