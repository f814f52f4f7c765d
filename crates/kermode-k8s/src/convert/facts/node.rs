//! Facts of Nodes.

use k8s_openapi::api::core::v1::Node;
use kermode_model::KubernetesVersion;

/// Label with the operating system of a Node.
const OS_LABEL: &str = "kubernetes.io/os";
/// Label that marks Nodes without a kubelet.
const TYPE_LABEL: &str = "type";
/// Value of [`TYPE_LABEL`] for a Node without a kubelet.
const VIRTUAL: &str = "virtual-kubelet";

/// Facts of a Node to which Pods with a sidecar may be scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Version of the kubelet.
    pub version: KubernetesVersion,
}

impl NodeFacts {
    /// Returns the facts of a Node. Returns `None` if no Pod with a sidecar can be scheduled to the Node: the Node is
    /// cordoned, runs Windows, has no kubelet, or its kubelet has not reported a version yet. Taints do not matter,
    /// because Pods may tolerate taints.
    pub fn of(node: &Node) -> Option<Self> {
        let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let is_virtual = label(TYPE_LABEL).is_some_and(|value| value == VIRTUAL);
        let info = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref())?;
        let is_windows = label(OS_LABEL).unwrap_or(&info.operating_system) == "windows";
        if is_cordoned || is_virtual || is_windows {
            return None;
        }
        let version = KubernetesVersion::parse(&info.kubelet_version)?;
        Some(Self { version })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(labels: Value, spec: Value, kubelet: &str) -> Option<String> {
        let info = json!({
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": kubelet, "machineID": "", "operatingSystem": "linux",
            "osImage": "", "systemUUID": "",
        });
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": labels}, "spec": spec, "status": {"nodeInfo": info},
        }))
        .expect("a Node");
        NodeFacts::of(&node).map(|facts| facts.version.to_string())
    }

    #[test]
    fn only_nodes_to_which_pods_with_a_sidecar_are_scheduled_have_facts() {
        let tainted = json!({"taints": [{"key": "example.com/fake", "effect": "NoSchedule"}]});
        assert_eq!(version(json!({}), json!({}), "v1.27.9").as_deref(), Some("1.27"));
        assert_eq!(
            version(json!({"kubernetes.io/os": "linux"}), tainted, "v1.28.0").as_deref(),
            Some("1.28")
        );
        assert_eq!(
            version(json!({"kubernetes.io/os": "windows"}), json!({}), "v1.27.9"),
            None
        );
        assert_eq!(
            version(json!({"type": "virtual-kubelet"}), json!({}), "v1.19.10-vk"),
            None
        );
        assert_eq!(
            version(json!({}), json!({"unschedulable": true}), "v1.27.9"),
            None
        );
        assert_eq!(version(json!({}), json!({}), ""), None);
        let empty = Node::default();
        assert_eq!(NodeFacts::of(&empty), None);
    }
}
