//! Suite `transparent-proxy`, kind `cni-exclude`: the pods that the CNI plugin leaves alone.

use std::collections::BTreeMap;

use anyhow::Result;
use kermode_model::annotation::SIDECAR_INJECTED;
use kuma_cni::decision::{PodSummary, is_excluded, skip_reason};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `cni-exclude`.
pub(crate) struct CniExclusion;

impl Runner for CniExclusion {
    fn suite(&self) -> &'static str {
        "transparent-proxy"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["cni-exclude"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let actual = is_left_alone(case.at("/inputs"))?;
        Ok(Outcome::Compared {
            expected: case.at("/expected/excluded").clone(),
            actual: json!(actual),
        })
    }
}

/// Whether the plugin leaves alone a pod with these properties. Each case has one property; the pod is otherwise one
/// that gets rules.
fn is_left_alone(inputs: &Value) -> Result<bool> {
    let injected = || BTreeMap::from([(SIDECAR_INJECTED.to_owned(), "true".to_owned())]);
    let list = |key: &str| -> Result<Vec<String>> {
        let list: Option<_> = serde_json::from_value(inputs[key].clone())?;
        Ok(list.unwrap_or_default())
    };
    let annotations: Option<BTreeMap<_, _>> = serde_json::from_value(inputs["annotations"].clone())?;
    let pod = PodSummary {
        annotations: annotations.unwrap_or_else(injected),
        init_containers: list("initContainers")?,
        long_running_containers: 2,
    };
    let namespace = inputs["podNamespace"].as_str().unwrap_or("default");
    Ok(is_excluded(namespace, &list("excludeNamespaces")?) || skip_reason(&pod).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_property_decides_alone() {
        for (inputs, expected) in [
            (json!({}), false),
            (json!({"excludeNamespaces": ["a"], "podNamespace": "a"}), true),
            (json!({"excludeNamespaces": ["a"], "podNamespace": "b"}), false),
            (json!({"initContainers": ["kuma-init"]}), true),
            (json!({"initContainers": ["init"]}), false),
            (
                json!({"annotations": {"kuma.io/sidecar-injected": "false"}}),
                true,
            ),
            (json!({"annotations": {}}), true),
        ] {
            assert_eq!(is_left_alone(&inputs).unwrap(), expected, "{inputs}");
        }
    }
}
