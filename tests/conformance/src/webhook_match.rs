//! Suite `page-examples`, kind `webhook-match`: the webhooks that the API server calls when a Pod is created.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `webhook-match`.
pub(crate) struct WebhookMatch;

impl Runner for WebhookMatch {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["webhook-match"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let objects = kumactl::control_plane_objects(&[])?;
        let registration = objects
            .iter()
            .find(|object| object["kind"] == "MutatingWebhookConfiguration")
            .context("kumactl prints no MutatingWebhookConfiguration")?;
        let namespace_labels = labels_with_namespace_name(case.at("/inputs/namespace"));
        let pod_labels = &case.at("/inputs/pod")["metadata"]["labels"];
        let called_webhooks: Vec<&Value> = registration["webhooks"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|webhook| {
                is_called_for_new_pods(webhook)
                    && selects(&webhook["namespaceSelector"], &namespace_labels)
                    && selects(&webhook["objectSelector"], pod_labels)
            })
            .collect();
        let names: Vec<&Value> = called_webhooks.iter().map(|webhook| &webhook["name"]).collect();
        // With the failure policy `Fail`, the API server denies a Pod if the webhook does not respond. Therefore, it is
        // guaranteed that no Pod is created without a response of the webhook.
        let guaranteed = called_webhooks
            .iter()
            .any(|webhook| webhook["failurePolicy"] == "Fail");
        Ok(Outcome::Compared {
            expected: case.at("/expected").clone(),
            actual: json!({"webhooks": names, "guaranteed": guaranteed}),
        })
    }
}

/// Returns the labels of a namespace, including the label with its name, which the API server adds.
fn labels_with_namespace_name(namespace: &Value) -> Value {
    let mut labels = namespace["metadata"]["labels"].clone();
    if !labels.is_object() {
        labels = json!({});
    }
    labels["kubernetes.io/metadata.name"] = namespace["metadata"]["name"].clone();
    labels
}

/// Returns whether the rules of a webhook include the creation of Pods.
fn is_called_for_new_pods(webhook: &Value) -> bool {
    let contains = |list: &Value, word: &str| list.as_array().is_some_and(|list| list.contains(&word.into()));
    let mut rules = webhook["rules"].as_array().into_iter().flatten();
    rules.any(|rule| contains(&rule["operations"], "CREATE") && contains(&rule["resources"], "pods"))
}

/// Returns whether a label selector selects an object with these labels, as in the API server. An absent selector
/// selects everything.
fn selects(selector: &Value, labels: &Value) -> bool {
    let match_labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    match_labels
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| fulfils(expression, labels))
}

/// Returns whether labels fulfil one expression of a selector.
fn fulfils(expression: &Value, labels: &Value) -> bool {
    let label = labels.get(expression["key"].as_str().unwrap_or_default());
    let is_listed = || {
        let values = expression["values"].as_array();
        label.is_some_and(|label| values.is_some_and(|values| values.contains(label)))
    };
    match expression["operator"].as_str() {
        Some("In") => is_listed(),
        Some("NotIn") => !is_listed(),
        Some("Exists") => label.is_some(),
        Some("DoesNotExist") => label.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors_select_as_in_the_api_server() {
        let labels = json!({"a": "1"});
        for (operator, key, is_selected) in [
            ("In", "a", true),
            ("In", "b", false),
            ("NotIn", "a", false),
            ("NotIn", "b", true),
            ("Exists", "a", true),
            ("Exists", "b", false),
            ("DoesNotExist", "a", false),
            ("DoesNotExist", "b", true),
            ("Unknown", "a", false),
        ] {
            let expression = json!({"key": key, "operator": operator, "values": ["1"]});
            let selector = json!({"matchExpressions": [expression]});
            assert_eq!(selects(&selector, &labels), is_selected, "{operator} {key}");
        }
        assert!(selects(&Value::Null, &labels));
        assert!(!selects(&json!({"matchLabels": {"a": "2"}}), &labels));
    }
}
