//! `kumactl uninstall --check`: the Pods that are still in the mesh.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use kermode_model::annotation;
use serde_json::Value;

use crate::cluster::{ClusterArgs, ClusterClient, Resource, Selection};

/// Number of Pods of a Namespace that a text names at most.
const NAMED_PODS: usize = 5;

/// Names of the Pods with a sidecar, by Namespace.
pub(super) type MeshedPods = BTreeMap<String, Vec<String>>;

/// Reads the Pods of all Namespaces. Returns those that have a sidecar and have not ended.
pub(super) fn read(args: &ClusterArgs) -> Result<MeshedPods> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the asynchronous runtime cannot be started")?;
    let pods = runtime.block_on(async {
        let client = ClusterClient::connect(args).await?;
        // A Pod that has ended needs no sidecar any more.
        let running = Selection {
            fields: "status.phase!=Succeeded,status.phase!=Failed",
            ..Selection::default()
        };
        client.list(&Resource::POD, running).await
    })?;
    Ok(with_sidecar(&pods))
}

fn with_sidecar(pods: &[Value]) -> MeshedPods {
    let mut meshed = MeshedPods::new();
    for pod in pods {
        let metadata = &pod["metadata"];
        if metadata["annotations"][annotation::SIDECAR_INJECTED] == "true" {
            let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
            meshed.entry(text("namespace")).or_default().push(text("name"));
        }
    }
    meshed
}

/// Describes the Pods, a line for each Namespace.
pub(super) fn description(meshed: &MeshedPods) -> String {
    let count: usize = meshed.values().map(Vec::len).sum();
    let mut text = format!(
        "Pods with a sidecar: {count}. Take them out of the mesh before you remove the control plane:"
    );
    for (namespace, pods) in meshed {
        let named: Vec<&str> = pods.iter().take(NAMED_PODS).map(String::as_str).collect();
        let more = if pods.len() > NAMED_PODS { ", …" } else { "" };
        _ = write!(
            text,
            "\n  {namespace}: {} ({}{more})",
            pods.len(),
            named.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_with_a_sidecar_are_counted_by_namespace() {
        let pod = |namespace: &str, name: &str, injected: Value| {
            json!({"metadata": {
                "namespace": namespace, "name": name, "annotations": {"kuma.io/sidecar-injected": injected},
            }})
        };
        let mut pods: Vec<Value> = (0..6)
            .map(|index| pod("shop", &format!("web-{index}"), "true".into()))
            .collect();
        pods.push(pod("bank", "api", "true".into()));
        pods.push(pod("bank", "other", Value::Null));
        pods.push(json!({"metadata": {"namespace": "none", "name": "plain"}}));
        assert_eq!(
            description(&with_sidecar(&pods)),
            "Pods with a sidecar: 7. Take them out of the mesh before you remove the control plane:\n  bank: 1 (api)\n  \
             shop: 6 (web-0, web-1, web-2, web-3, web-4, …)"
        );
    }
}
