//! The network configuration on standard input: our entry of the node's conflist.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::protocol::Failure;

/// Our entry. Keys are Kuma's.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Network {
    /// Version of the CNI specification that the runtime speaks.
    #[serde(rename = "cniVersion", default = "oldest_version")]
    pub(crate) cni_version: String,
    /// What the plugins before this one made. Passed on unread, so that nothing of it is lost.
    #[serde(rename = "prevResult")]
    previous_result: Option<Value>,
    /// How to find pods, and which to leave alone.
    pub(crate) kubernetes: KubernetesSettings,
    /// Where nft is; by default beside this program.
    pub(crate) nft: Option<PathBuf>,
}

/// How to find pods, and which to leave alone.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KubernetesSettings {
    /// Path of the kubeconfig that the installer wrote.
    pub(crate) kubeconfig: PathBuf,
    /// Namespaces whose pods are left alone.
    #[serde(default)]
    pub(crate) exclude_namespaces: Vec<String>,
}

/// The version of a configuration without one, by the specification.
fn oldest_version() -> String {
    "0.1.0".to_owned()
}

/// The version an answer has to be of, even to input that cannot be used otherwise.
pub(crate) fn version_of(input: &str) -> String {
    let input: Value = serde_json::from_str(input).unwrap_or_default();
    input
        .get("cniVersion")
        .and_then(Value::as_str)
        .map_or_else(oldest_version, str::to_owned)
}

impl Network {
    /// Reads standard input.
    pub(crate) fn parse(input: &str) -> Result<Self, Failure> {
        serde_json::from_str(input).map_err(|error| Failure::configuration(&error.to_string()))
    }

    /// What ADD answers: the interfaces are those of the plugins before, none when there is none (Multus).
    pub(crate) fn result(&self) -> Value {
        self.previous_result
            .clone()
            .unwrap_or_else(|| json!({ "cniVersion": self.cni_version }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAINED: &str = r#"{
        "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "kuma-cni", "log_level": "info",
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": "10.1.1.2/24", "futureField": 1 }] },
        "kubernetes": { "kubeconfig": "/etc/cni/net.d/ZZZ-kuma-cni-kubeconfig", "exclude_namespaces": ["kube-system"] }
    }"#;

    #[test]
    fn the_previous_result_is_passed_on_whole() {
        let network = Network::parse(CHAINED).expect("legal");
        let expected =
            json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.1.2/24", "futureField": 1 }] });
        assert_eq!(network.result(), expected);
        assert_eq!(network.kubernetes.exclude_namespaces, ["kube-system"]);
    }

    #[test]
    fn unchained_the_result_is_empty() {
        let network =
            Network::parse(r#"{"cniVersion":"0.4.0","kubernetes":{"kubeconfig":"/k"}}"#).expect("legal");
        assert_eq!(network.result(), json!({ "cniVersion": "0.4.0" }));
    }

    #[test]
    fn a_configuration_without_kubeconfig_is_refused() {
        let failure = Network::parse(r#"{"cniVersion":"1.0.0","kubernetes":{}}"#).expect_err("refused");
        assert!(failure.to_json("1.0.0").contains("kubeconfig"));
    }

    #[test]
    fn the_version_is_found_in_input_of_any_kind() {
        assert_eq!(version_of(CHAINED), "1.0.0");
        assert_eq!(version_of("not json"), "0.1.0");
    }
}
