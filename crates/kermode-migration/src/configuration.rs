//! Configuration of Kuma's control plane: its ConfigMap, its variables, Helm values.

use kermode_config::Config;
use kermode_manifests::documents;
use serde_json::Value;

use crate::report::Finding;
use crate::rule;

/// Name of the ConfigMap with the configuration of the control plane, in Kuma and Kermode.
const CONFIG_MAP: &str = "kuma-control-plane-config";
/// Name of the Deployment of the control plane, in Kuma and Kermode.
const CONTROL_PLANE: &str = "kuma-control-plane";
/// Sections of Kuma's Helm values by which a file without a kind is recognized.
const HELM_SECTIONS: [&str; 5] = ["controlPlane", "cni", "dataPlane", "ingress", "egress"];
/// Prefix of the variables of Kuma's control plane.
const VARIABLE_PREFIX: &str = "KUMA_";

/// Returns the findings about the ConfigMap of the control plane; `None` for another ConfigMap.
pub(crate) fn config_map(object: &Value) -> Option<Vec<Finding>> {
    if object["metadata"]["name"] != CONFIG_MAP {
        return None;
    }
    let entries = object["data"].as_object().into_iter().flatten();
    let mut findings: Vec<Finding> = entries
        .filter_map(|(entry, text)| Some((entry, text.as_str()?)))
        .flat_map(|(entry, text)| problems_of_file(entry, text))
        .map(refused)
        .collect();
    if findings.is_empty() {
        findings.push(Finding::new(
            &rule::SETTINGS_UNCHANGED,
            "the control plane accepts all settings",
        ));
    }
    Some(findings)
}

fn problems_of_file(entry: &str, text: &str) -> Vec<String> {
    let documents = match documents::parse(text) {
        Ok(documents) => documents,
        Err(error) => return vec![format!("{entry}: {error}")],
    };
    let content = documents
        .first()
        .map_or(Value::Null, |document| document.value.clone());
    let loaded = Config::load_content(entry, &content, |_| None);
    loaded
        .err()
        .map(|error| error.problems().to_vec())
        .unwrap_or_default()
}

fn refused(problem: String) -> Finding {
    Finding::new(&rule::SETTING_REFUSED, problem).with_remedy(
        "remove or correct the setting; the configuration reference lists all settings of Kermode",
    )
}

/// Returns the findings about the variables of the control plane's Deployment, which `template` is the Pod template of.
/// Variables of other workloads are none of Kuma's.
pub(crate) fn variables(object: &Value, template: &Value) -> Vec<Finding> {
    if object["metadata"]["name"] != CONTROL_PLANE {
        return Vec::new();
    }
    let settings = kermode_config::settings();
    let containers = template["spec"]["containers"].as_array().into_iter().flatten();
    let variables: Vec<(&str, Option<&str>)> = containers
        .flat_map(|container| container["env"].as_array().into_iter().flatten())
        .filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str())))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .collect();
    let is_known = |name: &str| settings.iter().any(|setting| setting.variables.contains(&name));
    let unknown = variables.iter().filter(|(name, _)| !is_known(name));
    let mut findings: Vec<Finding> = unknown
        .map(|(name, _)| {
            Finding::new(&rule::VARIABLE_IGNORED, format!("variable {name} has no effect")).with_remedy(
                "do not set the variable; the configuration reference lists the variables of Kermode",
            )
        })
        .collect();
    let value_of = |name: &str| {
        let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
        value.map(str::to_owned)
    };
    let loaded = Config::load_content("", &Value::Null, value_of);
    findings.extend(
        loaded
            .err()
            .iter()
            .flat_map(|error| error.problems().to_vec())
            .map(refused),
    );
    findings
}

/// Returns the findings about a file with Helm values; `None` if the object is none. `known` contains the paths of the
/// values of Kermode's chart.
pub(crate) fn helm_values(object: &Value, known: &[&str]) -> Option<Vec<Finding>> {
    // Kong's chart has the values of Kuma's chart below `kuma`.
    let (prefix, values) = match object.get("kuma") {
        Some(values) if values.is_object() => ("kuma.", values),
        _ => ("", object),
    };
    if !HELM_SECTIONS.iter().any(|section| values.get(section).is_some()) {
        return None;
    }
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    collect_values(values, "", known, &mut accepted, &mut refused);
    let mut findings: Vec<Finding> = refused
        .iter()
        .map(|path| {
            let text = format!("the chart has no value {prefix}{path}, and its schema refuses it");
            Finding::new(&rule::VALUE_REFUSED, text).with_remedy(
                "remove the value; the installation reference lists all values of Kermode's chart",
            )
        })
        .collect();
    if !accepted.is_empty() {
        let text = format!(
            "{}: the chart has these values; their content is not checked",
            accepted.join(", ")
        );
        findings.push(Finding::new(&rule::VALUES_UNCHANGED, text));
    }
    Some(findings)
}

/// Sorts the leaves below `value` by whether the chart knows them. `path` is the path of `value`.
fn collect_values(
    value: &Value,
    path: &str,
    known: &[&str],
    accepted: &mut Vec<String>,
    refused: &mut Vec<String>,
) {
    if known.contains(&path) {
        accepted.push(path.to_owned());
        return;
    }
    let is_above_known = known.iter().any(|known| known.starts_with(&format!("{path}.")));
    match value.as_object() {
        Some(entries) if path.is_empty() || is_above_known => {
            for (key, value) in entries {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect_values(value, &path, known, accepted, refused);
            }
        }
        _ => refused.push(path.to_owned()),
    }
}
