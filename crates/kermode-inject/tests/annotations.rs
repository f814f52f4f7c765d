//! Tests of the annotations of a Pod that injection reads (docs/reference/labels-and-annotations.md).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use kermode_inject::{Denial, Outcome, Settings, inject};
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// Injects a Pod with these annotations. Returns the injected Pod.
fn injected_with(annotations: Value) -> Result<Value, Denial> {
    let mut pod = json!({
        "metadata": {"name": "p", "labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "x", "readinessProbe": {"httpGet": {"port": 8080}}}]},
    });
    match Fixture::default().with(|context| inject(&pod, &Settings::default(), context))? {
        Outcome::Injected(injection) => {
            json_patch::patch(&mut pod, &injection.patch).unwrap();
            Ok(pod)
        }
        Outcome::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

/// Returns the argument of `kuma-init` that starts with a prefix.
fn argument_of_init(pod: &Value, prefix: &str) -> String {
    let arguments = pod["spec"]["initContainers"][0]["args"]
        .as_array()
        .expect("arguments");
    let mut arguments = arguments.iter().filter_map(Value::as_str);
    arguments
        .find(|argument| argument.starts_with(prefix))
        .expect(prefix)
        .to_owned()
}

#[test]
fn gateway_annotation_disables_redirection_of_inbound_traffic_and_probes() {
    for (value, is_gateway) in [
        ("enabled", true),
        ("true", true),
        ("provided", true),
        ("disabled", false),
        ("false", false),
    ] {
        let pod = injected_with(json!({"kuma.io/gateway": value})).expect(value);
        assert_eq!(
            argument_of_init(&pod, "--redirect-inbound="),
            format!("--redirect-inbound={}", !is_gateway)
        );
        let virtual_probes = if is_gateway { "disabled" } else { "enabled" };
        assert_eq!(
            pod["metadata"]["annotations"]["kuma.io/virtual-probes"], virtual_probes,
            "{value}"
        );
    }
    let denial = injected_with(json!({"kuma.io/gateway": "builtin"})).expect_err("denied");
    assert_eq!(
        denial.to_string(),
        "failed to parse annotation \"kuma.io/gateway\": wrong value \"builtin\", use enabled, provided or disabled \
         (on Pod shop/p)"
    );
}

/// Returns the variables of the sidecar that the annotation `kuma.io/sidecar-env-vars` sets, as pairs of name and
/// value.
fn configured_variables(annotation: &str) -> Vec<(String, String)> {
    let variables = |annotations: Value| -> Vec<(String, String)> {
        let pod = injected_with(annotations).expect("injected");
        let env = pod["spec"]["containers"][0]["env"]
            .as_array()
            .expect("a list")
            .clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        env.iter()
            .map(|variable| (text(&variable["name"]), text(&variable["value"])))
            .collect()
    };
    let without = variables(json!({}));
    let mut configured = variables(json!({"kuma.io/sidecar-env-vars": annotation}));
    configured.retain(|variable| !without.contains(variable));
    configured
}

#[test]
fn configured_variables_may_contain_commas_and_equals_signs() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        configured_variables("OTEL_RESOURCE_ATTRIBUTES=team=payments,env=prod; B=2;"),
        [
            pair("B", "2"),
            pair("OTEL_RESOURCE_ATTRIBUTES", "team=payments,env=prod")
        ]
    );
    assert_eq!(configured_variables(""), []);
    let denial = injected_with(json!({"kuma.io/sidecar-env-vars": "A=1;B"}))
        .expect_err("denied")
        .to_string();
    assert!(
        denial.contains("kuma.io/sidecar-env-vars") && denial.contains("item \"B\" on Pod shop/p"),
        "{denial}"
    );
}
