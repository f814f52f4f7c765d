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

/// Mount path of service account tokens.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

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

/// Injects a Pod whose container mounts the volume `credentials` at the path of service account tokens. `volume_source`
/// is the volume without its name. Returns the injected Pod and the warnings.
fn injected_with_volume(annotations: &Value, volume_source: &Value) -> (Value, Vec<String>) {
    let mut volume = volume_source.clone();
    volume["name"] = "credentials".into();
    let mount = json!({"name": "credentials", "mountPath": TOKEN_DIRECTORY, "readOnly": true});
    let mut pod = json!({
        "metadata": {"name": "p", "labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": annotations},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "x", "volumeMounts": [mount]}],
            "volumes": [volume],
        },
    });
    let outcome = Fixture::default().with(|context| inject(&pod, &Settings::default(), context));
    match outcome.expect("injected") {
        Outcome::Injected(injection) => {
            json_patch::patch(&mut pod, &injection.patch).unwrap();
            (pod, injection.warnings)
        }
        Outcome::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

/// Returns the volume source of a projected volume with a token for an audience.
fn projected_token(audience: &str) -> Value {
    let token = json!({"audience": audience, "expirationSeconds": 3600, "path": "token"});
    json!({"projected": {"sources": [{"serviceAccountToken": token}]}})
}

#[test]
fn sidecar_has_a_token_of_its_own_whatever_the_containers_mount() {
    let api_server_token = json!({"projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]}});
    for source in [
        api_server_token,
        json!({"secret": {"secretName": "crawler-token"}}),
        json!({"configMap": {"name": "kube-root-ca.crt"}}),
        projected_token("sts.example.org"),
        json!({"emptyDir": {}}),
    ] {
        let (pod, warnings) = injected_with_volume(&json!({}), &source);
        let sidecar = &pod["spec"]["containers"][0];
        let mounts = sidecar["volumeMounts"].as_array().expect("mounts");
        let tokens: Vec<_> = mounts
            .iter()
            .filter(|mount| mount["mountPath"] == TOKEN_DIRECTORY)
            .collect();
        assert_eq!(tokens.len(), 1, "{source}");
        assert_eq!(tokens[0]["name"], "kuma-sidecar-token", "{source}");
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == "kuma-sidecar-token")
            .expect("the volume of the sidecar's token");
        let mut expected = projected_token("kuma-control-plane")["projected"].clone();
        expected["sources"]
            .as_array_mut()
            .expect("sources")
            .push(roots_source());
        assert_eq!(volume["projected"], expected, "{source}");
        assert_eq!(warnings, Vec::<String>::new(), "{source}");
    }
}

/// Returns the item of `projected.sources` with the roots of the control plane.
fn roots_source() -> Value {
    let items = json!([{"key": "ca.crt", "path": "control-plane-ca.crt"}]);
    json!({"configMap": {"name": "kuma-control-plane-ca", "optional": true, "items": items}})
}

#[test]
fn sidecar_reads_the_roots_of_the_control_plane_beside_its_token_or_in_a_volume_of_their_own() {
    let token_volume_named = json!({"kuma.io/service-account-token-volume": "credentials"});
    let roots_directory = "/var/run/secrets/kuma.io/control-plane-ca";
    for (annotations, volume_name, directory) in [
        (json!({}), "kuma-sidecar-token", TOKEN_DIRECTORY),
        (token_volume_named, "kuma-sidecar-ca", roots_directory),
    ] {
        let (pod, _) = injected_with_volume(&annotations, &projected_token("kuma-control-plane"));
        let sidecar = &pod["spec"]["containers"][0];
        let env = sidecar["env"].as_array().expect("variables");
        let variable = env
            .iter()
            .find(|variable| variable["name"] == "KUMA_CONTROL_PLANE_CA_CERT_FILE");
        // The default of `kuma-dp` is the file beside the token.
        let path = variable.map(|variable| variable["value"].clone());
        let is_default = directory == TOKEN_DIRECTORY;
        let expected = (!is_default).then(|| json!(format!("{directory}/control-plane-ca.crt")));
        assert_eq!(path, expected);
        let mounts = sidecar["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| mount["mountPath"] == directory);
        assert_eq!(mount.expect("the mount of the file")["name"], volume_name);
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == volume_name);
        let sources = volume.expect("the volume of the file")["projected"]["sources"].as_array();
        assert!(
            sources.expect("sources").contains(&roots_source()),
            "{volume_name}"
        );
    }
}

#[test]
fn named_token_volume_without_a_token_for_the_control_plane_causes_a_warning() {
    let token_volume_named = json!({"kuma.io/service-account-token-volume": "credentials"});
    for (source, is_warned) in [
        (projected_token("kuma-control-plane"), false),
        (json!({"csi": {"driver": "tokens.example.org"}}), false),
        (projected_token("sts.example.org"), true),
        (json!({"secret": {"secretName": "crawler-token"}}), true),
        (json!({"configMap": {"name": "kube-root-ca.crt"}}), true),
    ] {
        let (pod, warnings) = injected_with_volume(&token_volume_named, &source);
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["name"], "credentials",
            "{source}"
        );
        assert_eq!(warnings.len(), usize::from(is_warned), "{source}: {warnings:?}");
    }
}

#[test]
fn annotation_that_the_cni_plugin_rejects_for_its_size_is_denied() {
    for key in [
        "traffic.kuma.io/exclude-outbound-ports-for-uids",
        "traffic.kuma.io/exclude-outbound-ports",
        "traffic.kuma.io/virtual-networks",
    ] {
        let denial = injected_with(json!({key: "0;".repeat(128 * 1024)})).expect_err(key);
        assert_eq!(denial.reason(), "InvalidTrafficSettings");
        let text = denial.to_string();
        assert!(
            text.starts_with("the value has 262144 bytes, more than 4096"),
            "{text}"
        );
        assert!(text.contains(key) && text.len() < 300, "{text}");
    }
    let ports = "8080,".repeat(819);
    injected_with(json!({"traffic.kuma.io/exclude-outbound-ports": ports})).expect("4095 bytes");
}
