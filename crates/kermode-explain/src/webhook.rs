//! The webhooks that the API server calls for a Pod: evaluates the selectors of the registration
//! (docs/reference/injection.md#registration).

use std::collections::BTreeMap;

use kermode_k8s::controller::registration::MUTATING;
use serde_json::Value;

use crate::explanation::Line;
use crate::observed::{ObservedCluster, list, text};

/// Label that the API server sets on every Namespace.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name>
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// The webhooks of the injector, and whether the API server calls them for a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Webhooks {
    /// The webhooks in the order of the registration.
    webhooks: Vec<Webhook>,
}

/// One webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Webhook {
    name: String,
    failure_policy: String,
    /// First requirement of a selector that the Pod does not meet; `None` if the webhook is called.
    unmet_requirement: Option<String>,
    has_ca_bundle: bool,
    has_conditions: bool,
}

// === impl Webhooks ===

impl Webhooks {
    /// Evaluates the selectors for a Pod of a namespace. Returns `None` if the objects do not contain the registration.
    pub(crate) fn evaluate(
        cluster: &ObservedCluster,
        namespace: &str,
        namespace_labels: &Labels,
        pod_labels: &Labels,
    ) -> Option<Self> {
        let registration = cluster.find("MutatingWebhookConfiguration", "", MUTATING)?;
        let mut namespace_labels = namespace_labels.clone();
        namespace_labels.insert(NAMESPACE_NAME.to_owned(), namespace.to_owned());
        let evaluate = |webhook: &Value| Webhook {
            name: text(webhook, "/name").to_owned(),
            failure_policy: text(webhook, "/failurePolicy").to_owned(),
            unmet_requirement: unmet_requirement(&webhook["namespaceSelector"], &namespace_labels)
                .map(|requirement| format!("Namespace {namespace} {requirement}"))
                .or_else(|| {
                    let unmet = unmet_requirement(&webhook["objectSelector"], pod_labels);
                    unmet.map(|requirement| format!("the Pod {requirement}"))
                }),
            has_ca_bundle: !text(webhook, "/clientConfig/caBundle").is_empty(),
            has_conditions: !list(webhook, "/matchConditions").is_empty(),
        };
        Some(Self {
            webhooks: list(registration, "/webhooks").iter().map(evaluate).collect(),
        })
    }

    /// Whether the API server calls at least one webhook for the Pod.
    pub(crate) fn any_called(&self) -> bool {
        self.called().next().is_some()
    }

    /// Whether the Pod is admitted without a sidecar while no webhook answers.
    pub(crate) fn fails_open(&self) -> bool {
        self.called().all(|webhook| webhook.failure_policy == "Ignore")
    }

    /// Whether a webhook that is called has no CA certificate, so that each call fails.
    pub(crate) fn lacks_ca_bundle(&self) -> bool {
        self.called().any(|webhook| !webhook.has_ca_bundle)
    }

    fn called(&self) -> impl Iterator<Item = &Webhook> {
        self.webhooks
            .iter()
            .filter(|webhook| webhook.unmet_requirement.is_none())
    }

    /// Describes each webhook.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.webhooks.iter().map(|webhook| {
            let Webhook { name, failure_policy, .. } = webhook;
            Line::new(match &webhook.unmet_requirement {
                Some(requirement) => format!("webhook {name} is not called: {requirement}"),
                None if webhook.has_conditions => format!(
                    "webhook {name} is called if its matchConditions hold, which are not evaluated here (failure policy \
                     {failure_policy})"
                ),
                None => format!("webhook {name} is called (failure policy {failure_policy})"),
            })
        })
    }
}

/// Returns the first requirement of a label selector that the labels do not meet, as a clause about their object. An
/// absent or empty selector has no requirements.
fn unmet_requirement(selector: &Value, labels: &Labels) -> Option<String> {
    let found = |key: &str| match labels.get(key) {
        Some(value) if value.is_empty() => format!("an empty label {key}"),
        Some(value) => format!("{key}={value}"),
        None => format!("no label {key}"),
    };
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    for (key, value) in wanted {
        let value = value.as_str().unwrap_or_default();
        if labels.get(key).map(String::as_str) != Some(value) {
            return Some(format!(
                "has {}, but the selector requires {key}={value}",
                found(key)
            ));
        }
    }
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let values: Vec<&str> = list(expression, "/values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let is_listed = labels
            .get(key)
            .is_some_and(|value| values.contains(&value.as_str()));
        let (holds, requirement) = match text(expression, "/operator") {
            "In" => (is_listed, format!("{key} in ({})", values.join(", "))),
            "NotIn" => (!is_listed, format!("{key} not in ({})", values.join(", "))),
            "Exists" => (labels.contains_key(key), format!("the label {key}")),
            "DoesNotExist" => (!labels.contains_key(key), format!("no label {key}")),
            _ => (true, String::new()),
        };
        if !holds {
            return Some(format!(
                "has {}, but the selector requires {requirement}",
                found(key)
            ));
        }
    }
    None
}

/// Returns the labels of an object, or of the Pod template at `pointer`.
pub(crate) fn labels_at(object: &Value, pointer: &str) -> Labels {
    let labels = object
        .pointer(pointer)
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn selector_reports_its_first_unmet_requirement() {
        let selector = json!({
            "matchLabels": {"a": "1"},
            "matchExpressions": [
                {"key": "b", "operator": "In", "values": ["x", "y"]},
                {"key": "c", "operator": "NotIn", "values": ["z"]},
                {"key": "d", "operator": "Exists"},
                {"key": "e", "operator": "DoesNotExist"},
            ],
        });
        let complete = [("a", "1"), ("b", "y"), ("d", "")];
        assert_eq!(unmet_requirement(&selector, &labels(&complete)), None);
        for (changed, expected) in [
            (("a", "2"), "has a=2, but the selector requires a=1"),
            (("b", "q"), "has b=q, but the selector requires b in (x, y)"),
            (("c", "z"), "has c=z, but the selector requires c not in (z)"),
            (("e", "1"), "has e=1, but the selector requires no label e"),
        ] {
            let mut changed_labels = labels(&complete);
            changed_labels.extend(labels(&[changed]));
            assert_eq!(
                unmet_requirement(&selector, &changed_labels).as_deref(),
                Some(expected)
            );
        }
        let without = |missing: &str| {
            let kept = complete.iter().filter(|(key, _)| *key != missing).copied();
            unmet_requirement(&selector, &labels(&kept.collect::<Vec<_>>()))
        };
        assert_eq!(
            without("a").as_deref(),
            Some("has no label a, but the selector requires a=1")
        );
        assert_eq!(
            without("d").as_deref(),
            Some("has no label d, but the selector requires the label d")
        );
        assert_eq!(unmet_requirement(&Value::Null, &labels(&[])), None);
    }

    #[test]
    fn name_of_the_namespace_is_its_label_even_if_the_file_lacks_it() {
        let cluster = ObservedCluster {
            objects: vec![json!({
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": MUTATING},
                "webhooks": [{
                    "name": "w",
                    "failurePolicy": "Ignore",
                    "namespaceSelector": {"matchExpressions": [
                        {"key": NAMESPACE_NAME, "operator": "NotIn", "values": ["kube-system"]},
                    ]},
                }],
            })],
            ..ObservedCluster::default()
        };
        let called = |namespace: &str| {
            let webhooks = Webhooks::evaluate(&cluster, namespace, &Labels::new(), &Labels::new());
            webhooks.expect("a registration").any_called()
        };
        assert!(called("shop"));
        assert!(!called("kube-system"));
    }
}
