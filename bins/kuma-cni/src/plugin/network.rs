//! Network configuration: the plugin's entry of the node's conflist, which the container runtime writes to standard
//! input.

use std::path::PathBuf;

use kermode_netfilter::Nft;
use kuma_cni::decision::is_excluded;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::environment::Environment;
use super::protocol::Failure;

/// The plugin's entry of the conflist. The keys are those of Kuma's plugin, except `nft`, which is Kermode's.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NetworkConfig {
    /// Version of the CNI specification that the runtime uses.
    #[serde(rename = "cniVersion", default = "default_version")]
    pub(crate) cni_version: String,
    /// Result of the plugins that ran before this one. It is passed on as text, because decoded numbers may lose digits.
    #[serde(rename = "prevResult")]
    previous_result: Option<Box<RawValue>>,
    /// Access to the API server, and the excluded namespaces.
    pub(crate) kubernetes: KubernetesSettings,
    /// Path of the program nft. By default, nft in the plugin's directory if it exists, otherwise `/usr/sbin/nft`.
    pub(crate) nft: Option<PathBuf>,
}

/// Access to the API server, and the excluded namespaces.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KubernetesSettings {
    /// Path of the kubeconfig, which the installer of the plugin writes to the node.
    pub(crate) kubeconfig: PathBuf,
    /// Namespaces whose pods get no rules.
    #[serde(default)]
    pub(crate) exclude_namespaces: Vec<String>,
}

/// Returns the version that the specification defines for a configuration without `cniVersion`. The plugin does not
/// support this version.
fn default_version() -> String {
    "0.1.0".to_owned()
}

/// Returns `cniVersion` of the input, or the default version if the input is invalid or has no `cniVersion`: an error
/// about invalid input must contain a version, too.
pub(crate) fn version_of(input: &str) -> String {
    let input: Value = serde_json::from_str(input).unwrap_or_default();
    input
        .get("cniVersion")
        .and_then(Value::as_str)
        .map_or_else(default_version, str::to_owned)
}

impl NetworkConfig {
    /// Parses the content of standard input.
    pub(crate) fn parse(input: &str) -> Result<Self, Failure> {
        serde_json::from_str(input).map_err(|error| Failure::configuration(&error.to_string()))
    }

    /// Returns namespace and name of the environment's pod; `None` if the environment names no pod, or if pods of its
    /// namespace get no rules.
    ///
    /// # Errors
    /// If the environment is invalid.
    pub(crate) fn pod_with_rules<'a>(
        &self,
        environment: &'a Environment,
    ) -> Result<Option<(&'a str, &'a str)>, Failure> {
        let excluded = &self.kubernetes.exclude_namespaces;
        let pod = environment.pod()?;
        Ok(pod.filter(|(namespace, _)| !is_excluded(namespace, excluded)))
    }

    /// Returns the program that applies the rules.
    pub(crate) fn nft(&self) -> Nft {
        self.nft.as_ref().map_or_else(Nft::default, Nft::at)
    }

    /// Returns the result of ADD: the result of the previous plugins, or only a version if no plugin ran before. Multus
    /// can run the plugin as the first one.
    pub(crate) fn result(&self) -> String {
        match &self.previous_result {
            Some(result) => result.get().to_owned(),
            None => json!({ "cniVersion": self.cni_version }).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAINED: &str = r#"{
        "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "kuma-cni", "log_level": "info",
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "futureField": 123456789012345678901.10, "address": "10.1.1.2/24" }] },
        "kubernetes": { "kubeconfig": "/etc/cni/net.d/ZZZ-kuma-cni-kubeconfig", "exclude_namespaces": ["kube-system"] }
    }"#;

    #[test]
    fn previous_result_is_passed_on_unchanged() {
        let network = NetworkConfig::parse(CHAINED).expect("a valid configuration");
        assert_eq!(
            network.result(),
            r#"{ "cniVersion": "1.0.0", "ips": [{ "futureField": 123456789012345678901.10, "address": "10.1.1.2/24" }] }"#
        );
        assert_eq!(network.kubernetes.exclude_namespaces, ["kube-system"]);
    }

    #[test]
    fn result_without_previous_plugins_has_only_a_version() {
        for previous in ["", r#","prevResult":null"#] {
            let text = format!(r#"{{"cniVersion":"0.4.0","kubernetes":{{"kubeconfig":"/k"}}{previous}}}"#);
            let network = NetworkConfig::parse(&text).expect("a valid configuration");
            assert_eq!(network.result(), r#"{"cniVersion":"0.4.0"}"#);
        }
    }

    #[test]
    fn configuration_without_kubeconfig_is_rejected() {
        let failure = NetworkConfig::parse(r#"{"cniVersion":"1.0.0","kubernetes":{}}"#)
            .expect_err("the kubeconfig is missing");
        assert!(failure.to_json("1.0.0").contains("kubeconfig"));
    }

    #[test]
    fn version_is_read_from_valid_input_and_is_the_default_for_invalid_input() {
        assert_eq!(version_of(CHAINED), "1.0.0");
        for invalid in ["not json", "[]", r#"{"cniVersion": 1}"#, &"[".repeat(1_000_000)] {
            assert_eq!(version_of(invalid), "0.1.0");
        }
    }

    #[test]
    fn input_of_another_form_is_rejected() {
        let nested = format!(
            r#"{{"kubernetes":{}1{}}}"#,
            r#"{"kubeconfig":"#.repeat(1000),
            "}".repeat(1000)
        );
        let inputs = [
            "",
            "null",
            "[]",
            "{}",
            "\u{0}",
            r#"{"kubernetes":null}"#,
            r#"{"kubernetes":{"kubeconfig":1}}"#,
        ];
        for input in inputs.into_iter().chain([nested.as_str()]) {
            let failure = NetworkConfig::parse(input).expect_err("an invalid configuration");
            assert!(failure.to_json("1.0.0").contains(r#""code":7"#), "{failure}");
        }
    }
}
