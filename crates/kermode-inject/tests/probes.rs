//! Tests of virtual probes (docs/reference/injection.md#virtual-probes) and of the sidecar's ports. No value of a probe
//! causes a denial of the Pod.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use kermode_inject::settings::SidecarMode;
use kermode_inject::{Outcome, Settings, inject};
use kermode_model::MAX_PROBES;
use serde_json::{Value, json};

use crate::fixture::Fixture;

fn mk_pod(annotations: Value, spec: Value) -> Value {
    let labels = json!({"kuma.io/sidecar-injection": "enabled"});
    json!({"metadata": {"name": "p", "labels": labels, "annotations": annotations}, "spec": spec})
}

/// Returns the Pod after injection, and the warnings.
fn injected(pod: &Value, sidecar_mode: SidecarMode) -> (Value, Vec<String>) {
    let settings = Settings {
        sidecar_mode,
        native_sidecars_supported: true,
        ..Settings::default()
    };
    let outcome = Fixture::default().with(|context| inject(pod, &settings, context));
    let Ok(Outcome::Injected(injection)) = outcome else {
        panic!("{outcome:?}");
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
    (after, injection.warnings)
}

fn annotation<'a>(pod: &'a Value, key: &str) -> &'a str {
    pod["metadata"]["annotations"][key].as_str().expect(key)
}

fn sidecar_of(pod: &Value) -> &Value {
    let init = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    init.chain(containers)
        .find(|container| container["name"] == "kuma-sidecar")
        .expect("a sidecar")
}

fn variable<'a>(pod: &'a Value, name: &str) -> &'a str {
    let variables = sidecar_of(pod)["env"].as_array().unwrap();
    let variable = variables.iter().find(|variable| variable["name"] == name);
    variable.expect(name)["value"].as_str().unwrap()
}

#[test]
fn probe_on_the_virtual_probes_port_moves_that_port() {
    let pod = mk_pod(
        json!({}),
        json!({"containers": [{
            "name": "object-store",
            "ports": [{"name": "api", "containerPort": 9000}, {"containerPort": 9001}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "api"}},
        }]}),
    );
    let (after, warnings) = injected(&pod, SidecarMode::Native);
    assert_eq!(annotation(&after, "kuma.io/virtual-probes-port"), "9002");
    assert_eq!(
        after["spec"]["containers"][0]["livenessProbe"],
        json!({"httpGet": {"path": "/9000/healthz", "port": 9002}})
    );
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn undeclared_port_of_a_probe_or_hook_moves_the_virtual_probes_port() {
    for container in [
        json!({"name": "a", "livenessProbe": {"tcpSocket": {"port": 9000}}}),
        json!({"name": "a", "readinessProbe": {"grpc": {"port": 9000}}}),
        json!({"name": "a", "lifecycle": {"preStop": {"httpGet": {"port": 9000}}}}),
    ] {
        let (after, _) = injected(
            &mk_pod(json!({}), json!({"containers": [container]})),
            SidecarMode::Native,
        );
        assert_eq!(
            annotation(&after, "kuma.io/virtual-probes-port"),
            "9001",
            "{container}"
        );
    }
}

#[test]
fn every_port_of_the_sidecar_moves_if_the_application_declares_it() {
    let ports = [9901, 9000, 15001, 15006, 15010, 15053, 19153];
    let ports: Vec<_> = ports.iter().map(|port| json!({"containerPort": port})).collect();
    // Ports of init containers count: a native sidecar runs beside them.
    let spec = json!({
        "initContainers": [{"name": "i", "ports": [{"containerPort": 9902}]}],
        "containers": [{"name": "own-proxy", "ports": ports}],
    });
    let (after, warnings) = injected(&mk_pod(json!({}), spec), SidecarMode::Native);
    for (key, port) in [
        ("kuma.io/envoy-admin-port", "9903"),
        ("kuma.io/virtual-probes-port", "9001"),
        ("kuma.io/transparent-proxying-outbound-port", "15002"),
        ("kuma.io/transparent-proxying-inbound-port", "15007"),
        ("kuma.io/transparent-proxying-inbound-v6-port", "15011"),
        ("kuma.io/builtin-dns-port", "15054"),
        ("kuma.io/builtindnsport", "15054"),
    ] {
        assert_eq!(annotation(&after, key), port, "{key}");
    }
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(variable(&after, "KUMA_DATAPLANE_ADMIN_PORT"), "9903");
    assert_eq!(variable(&after, "KUMA_DNS_CORE_DNS_PORT"), "15054");
    assert_eq!(variable(&after, "KUMA_DNS_PROMETHEUS_PORT"), "19154");
    assert_eq!(sidecar_of(&after)["readinessProbe"]["httpGet"]["port"], 9903);
    let init = after["spec"]["initContainers"][0]["args"].to_string();
    for arguments in [
        r#""--redirect-outbound-port","15002""#,
        r#""--redirect-inbound-port","15007""#,
        r#""--redirect-inbound-port-v6","15011""#,
        "15054",
    ] {
        assert!(init.contains(arguments), "{arguments} not in {init}");
    }
}

#[test]
fn udp_port_of_the_application_moves_only_the_dns_port() {
    let ports: Vec<_> = [9901, 15053]
        .iter()
        .map(|port| json!({"containerPort": port, "protocol": "UDP"}))
        .collect();
    let spec = json!({"containers": [{"name": "a", "ports": ports}]});
    let (after, _) = injected(&mk_pod(json!({}), spec), SidecarMode::Native);
    assert_eq!(annotation(&after, "kuma.io/envoy-admin-port"), "9901");
    assert_eq!(annotation(&after, "kuma.io/builtin-dns-port"), "15054");
}

#[test]
fn annotated_port_that_the_application_uses_moves_with_a_warning() {
    let annotations = json!({"kuma.io/envoy-admin-port": "8001"});
    let spec = json!({"containers": [{"name": "a", "ports": [{"containerPort": 8001}]}]});
    let (after, warnings) = injected(&mk_pod(annotations, spec), SidecarMode::Native);
    assert_eq!(annotation(&after, "kuma.io/envoy-admin-port"), "8002");
    let [warning] = &*warnings else {
        panic!("{warnings:?}")
    };
    assert!(
        warning.contains("kuma.io/envoy-admin-port") && warning.contains("8001") && warning.contains("8002"),
        "{warning}"
    );
}

#[test]
fn annotated_port_of_another_server_of_the_sidecar_moves_one_of_them() {
    for (annotated, admin, probes, is_warned) in [
        (
            json!({"kuma.io/envoy-admin-port": "15001"}),
            "15002",
            "9000",
            true,
        ),
        (
            json!({"kuma.io/virtual-probes-port": "15006"}),
            "9901",
            "15007",
            true,
        ),
        (json!({"kuma.io/envoy-admin-port": "9000"}), "9000", "9001", false),
        (
            json!({"kuma.io/envoy-admin-port": "80", "kuma.io/virtual-probes-port": "80"}),
            "80",
            "81",
            true,
        ),
    ] {
        let spec = json!({"containers": [{"name": "a"}]});
        let (after, warnings) = injected(&mk_pod(annotated.clone(), spec), SidecarMode::Native);
        assert_eq!(
            annotation(&after, "kuma.io/envoy-admin-port"),
            admin,
            "{annotated}"
        );
        assert_eq!(
            annotation(&after, "kuma.io/virtual-probes-port"),
            probes,
            "{annotated}"
        );
        assert_eq!(!warnings.is_empty(), is_warned, "{annotated}: {warnings:?}");
        let names_user = |warning: &String| warning.contains("another server of the sidecar uses port");
        assert!(warnings.iter().all(names_user), "{warnings:?}");
    }
    let annotations = json!({"kuma.io/envoy-admin-port": "15053"});
    let spec = json!({"containers": [{"name": "a"}]});
    let (after, _) = injected(&mk_pod(annotations, spec), SidecarMode::Native);
    assert_eq!(annotation(&after, "kuma.io/builtin-dns-port"), "15054");
}

#[test]
fn configured_port_of_dns_metrics_that_the_application_uses_moves_with_a_warning() {
    let annotations = json!({"kuma.io/sidecar-env-vars": "KUMA_DNS_PROMETHEUS_PORT=8001"});
    let pod = |port: u16| {
        let spec = json!({"containers": [{"name": "a", "ports": [{"containerPort": port}]}]});
        mk_pod(annotations.clone(), spec)
    };
    let (after, warnings) = injected(&pod(8001), SidecarMode::Native);
    assert_eq!(variable(&after, "KUMA_DNS_PROMETHEUS_PORT"), "8002");
    let [warning] = &*warnings else {
        panic!("{warnings:?}")
    };
    assert!(
        warning.contains("KUMA_DNS_PROMETHEUS_PORT") && warning.contains("8001") && warning.contains("8002"),
        "{warning}"
    );
    // The application may use the default port, which the sidecar does not use.
    let (after, warnings) = injected(&pod(19153), SidecarMode::Native);
    assert_eq!(variable(&after, "KUMA_DNS_PROMETHEUS_PORT"), "8001");
    assert_eq!(warnings, Vec::<String>::new());
    // Another port of the sidecar does not move to this port.
    let annotations = json!({"kuma.io/sidecar-env-vars": "KUMA_DNS_PROMETHEUS_PORT=9902"});
    let spec = json!({"containers": [{"name": "a", "ports": [{"containerPort": 9901}]}]});
    let (after, _) = injected(&mk_pod(annotations, spec), SidecarMode::Native);
    assert_eq!(annotation(&after, "kuma.io/envoy-admin-port"), "9903");
}

#[test]
fn probe_or_hook_that_cannot_be_rewritten_stays_unchanged_with_a_warning() {
    let container = json!({
        "name": "a",
        "livenessProbe": {"httpGet": {"port": "nowhere"}},
        "readinessProbe": {"tcpSocket": {"port": 70000}},
        "startupProbe": {"grpc": {"port": 1, "service": "s".repeat(1025)}},
        "lifecycle": {"preStop": {"httpGet": {"port": 0}}, "postStart": {"httpGet": {"port": true}}},
    });
    let (after, warnings) = injected(
        &mk_pod(
            json!({}),
            json!({"containers": [container, {"name": "b", "livenessProbe": {"httpGet": {}}}]}),
        ),
        SidecarMode::Native,
    );
    assert_eq!(after["spec"]["containers"][0], container);
    assert_eq!(warnings.len(), 6, "{warnings:?}");
    assert!(
        warnings[0]
            .starts_with("container \"a\": livenessProbe: httpGet.port: the container has no port named"),
        "{warnings:?}"
    );
    assert!(warnings[5].starts_with("1 other"), "{warnings:?}");
}

#[test]
fn commands_and_handlers_with_a_host_are_not_rewritten() {
    let container = json!({
        "name": "a",
        "livenessProbe": {"httpGet": {"port": 8080, "host": "10.0.0.9"}},
        "readinessProbe": {"tcpSocket": {"port": 8080, "host": "10.0.0.9"}},
        "startupProbe": {"exec": {"command": ["true"]}},
        "lifecycle": {
            "preStop": {"httpGet": {"port": 8080, "host": "10.0.0.9"}},
            // The kubelet rejects this hook.
            "postStart": {"tcpSocket": {"port": 8080}},
        },
    });
    let pod = mk_pod(json!({}), json!({"containers": [container]}));
    let (after, warnings) = injected(&pod, SidecarMode::Native);
    assert_eq!(after["spec"]["containers"][0], container);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn container_that_starts_before_a_classic_sidecar_keeps_its_startup_probe_and_post_start_hook() {
    let probe = json!({"httpGet": {"path": "/x", "port": 8282}});
    let agent = json!({
        "name": "agent", "restartPolicy": "Always",
        "startupProbe": probe, "livenessProbe": probe,
        "lifecycle": {"postStart": probe, "preStop": probe},
    });
    let pod = mk_pod(
        json!({}),
        json!({"initContainers": [agent], "containers": [{"name": "a"}]}),
    );
    let (after, warnings) = injected(&pod, SidecarMode::Classic);
    let agent = &after["spec"]["initContainers"][0];
    let virtual_probe = json!({"httpGet": {"path": "/8282/x", "port": 9000}});
    assert_eq!(agent["startupProbe"], probe);
    assert_eq!(agent["lifecycle"]["postStart"], probe);
    assert_eq!(agent["livenessProbe"], virtual_probe);
    assert_eq!(agent["lifecycle"]["preStop"], virtual_probe);
    let remedy =
        "use kuma.io/sidecar-mode: native, or list port 8282 in traffic.kuma.io/exclude-inbound-ports";
    let starts_before = |field: &str| {
        format!(
            "container \"agent\": {field}: in classic mode, the container starts before the sidecar: {remedy} (not \
             rewritten to the sidecar; it may fail under STRICT)"
        )
    };
    assert_eq!(
        warnings,
        [
            starts_before("startupProbe"),
            starts_before("lifecycle.postStart"),
            format!(
                "container \"agent\": livenessProbe: in classic mode, the sidecar starts after all init containers, and \
                 the probe fails until then, so the kubelet may restart the container: {remedy}"
            ),
        ]
    );

    let (after, warnings) = injected(&pod, SidecarMode::Native);
    // `kuma-init` and the sidecar are the first two.
    let agent = &after["spec"]["initContainers"][2];
    assert_eq!(agent["startupProbe"], virtual_probe);
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn early_probe_of_a_port_that_is_not_redirected_is_not_changed() {
    let get = json!({"httpGet": {"path": "/x", "port": 8282}});
    let agent = json!({
        "name": "agent", "restartPolicy": "Always",
        "startupProbe": get, "livenessProbe": get, "readinessProbe": get, "lifecycle": {"postStart": get},
    });
    let pod = mk_pod(
        json!({"traffic.kuma.io/exclude-inbound-ports": "8000-8300"}),
        json!({"initContainers": [agent], "containers": [{"name": "a", "livenessProbe": get}]}),
    );
    let (after, warnings) = injected(&pod, SidecarMode::Classic);
    assert_eq!(warnings, Vec::<String>::new());
    let virtual_get = json!({"httpGet": {"path": "/8282/x", "port": 9000}});
    let mut expected = agent.clone();
    // The kubelet does not restart a container that is not ready.
    expected["readinessProbe"] = virtual_get.clone();
    assert_eq!(after["spec"]["initContainers"][0], expected);
    assert_eq!(after["spec"]["containers"][1]["livenessProbe"], virtual_get);
}

#[test]
fn startup_probe_that_native_mode_has_rewritten_is_restored_in_classic_mode() {
    let headers = json!([{"name": "a", "value": "b"}]);
    for startup in [
        json!({"httpGet": {"path": "/x?y", "port": 8282, "scheme": "HTTP", "httpHeaders": headers}}),
        json!({"httpGet": {"path": "/x", "port": 8282, "scheme": "HTTPS"}}),
        json!({"tcpSocket": {"port": 8282}, "periodSeconds": 3}),
        json!({"grpc": {"port": 8282, "service": "a/b c"}}),
        json!({"grpc": {"port": 8282, "service": ""}}),
    ] {
        let agent = json!({"name": "agent", "restartPolicy": "Always", "startupProbe": startup});
        let pod = mk_pod(
            json!({}),
            json!({"initContainers": [agent], "containers": [{"name": "a"}]}),
        );
        let (native, _) = injected(&pod, SidecarMode::Native);
        assert_ne!(native["spec"]["initContainers"][2]["startupProbe"], startup);
        let (classic, warnings) = injected(&native, SidecarMode::Classic);
        assert_eq!(classic["spec"]["initContainers"][0], agent);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let (again, _) = injected(&classic, SidecarMode::Native);
        assert_eq!(
            again["spec"]["initContainers"][2],
            native["spec"]["initContainers"][2]
        );
    }
}

#[test]
fn probes_that_an_earlier_injection_rewrote_are_restored_if_virtual_probes_are_disabled() {
    let containers = json!([{
        "name": "a",
        "livenessProbe": {"httpGet": {"path": "/x", "port": 8080, "scheme": "HTTP"}},
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    }]);
    let pod = mk_pod(json!({}), json!({"containers": containers}));
    let (mut after, _) = injected(&pod, SidecarMode::Native);
    assert_ne!(after["spec"]["containers"], containers);
    after["metadata"]["annotations"]["kuma.io/virtual-probes"] = json!("disabled");
    let (restored, _) = injected(&after, SidecarMode::Native);
    assert_eq!(restored["spec"]["containers"], containers);
}

#[test]
fn probe_that_an_earlier_injection_rewrote_follows_the_virtual_probes_port() {
    let annotations = json!({"kuma.io/sidecar-injected": "true", "kuma.io/virtual-probes-port": "9000"});
    let probe = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}});
    let spec = |ports_of_b: Value| {
        json!({"containers": [
            {"name": "a", "livenessProbe": probe("/8080/x", 9000), "readinessProbe": probe("/tcp/8080", 9000)},
            {"name": "b", "ports": ports_of_b},
        ]})
    };
    let (after, _) = injected(&mk_pod(annotations.clone(), spec(json!([]))), SidecarMode::Native);
    assert_eq!(after["spec"]["containers"], spec(json!([]))["containers"]);

    let ports = json!([{"containerPort": 9000}]);
    let (after, _) = injected(&mk_pod(annotations, spec(ports)), SidecarMode::Native);
    let container = &after["spec"]["containers"][0];
    assert_eq!(container["livenessProbe"], probe("/8080/x", 9001));
    assert_eq!(container["readinessProbe"], probe("/tcp/8080", 9001));
}

#[test]
fn port_of_the_sidecar_stays_with_a_warning_if_the_application_declares_every_port() {
    let ports: Vec<_> = (1..=65535).map(|port| json!({"containerPort": port})).collect();
    let spec = json!({"containers": [{"name": "a", "ports": ports}]});
    let (after, warnings) = injected(&mk_pod(json!({}), spec), SidecarMode::Native);
    assert_eq!(annotation(&after, "kuma.io/virtual-probes-port"), "9000");
    assert_eq!(annotation(&after, "kuma.io/envoy-admin-port"), "9901");
    assert_eq!(warnings.len(), 7, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("port 9901 of the sidecar")),
        "{warnings:?}"
    );
}

#[test]
fn sidecar_answers_a_limited_number_of_probes() {
    let container = |index: usize| {
        let probe = json!({"tcpSocket": {"port": index + 1}});
        json!({"name": format!("c{index}"), "livenessProbe": probe, "readinessProbe": probe})
    };
    let containers: Vec<_> = (0..300).map(container).collect();
    let pod = mk_pod(json!({}), json!({"containers": containers}));
    let (after, warnings) = injected(&pod, SidecarMode::Native);
    assert_eq!(after.to_string().matches("\"path\":\"/tcp/").count(), MAX_PROBES);
    assert_eq!(after.to_string().matches("tcpSocket").count(), 600 - MAX_PROBES);
    assert!(
        warnings[0].contains("at most 500 probes") && warnings[5].starts_with("95 other"),
        "{warnings:?}"
    );
}

#[test]
fn probe_whose_path_is_too_long_stays_unchanged_with_a_warning() {
    let container =
        json!({"name": "a", "livenessProbe": {"httpGet": {"port": 80, "path": "/".repeat(5_000)}}});
    let (after, warnings) = injected(
        &mk_pod(json!({}), json!({"containers": [container]})),
        SidecarMode::Native,
    );
    assert_eq!(after["spec"]["containers"][0], container);
    assert!(warnings[0].contains("longer than 4096 bytes"), "{warnings:?}");
}
