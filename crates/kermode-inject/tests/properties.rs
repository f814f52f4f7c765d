//! Property tests: no input panics, and injection preserves the Pod.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use kermode_corpus::lost_by_injection;
use kermode_crds::{ContainerPatchSpec, JsonPatchBlock, JsonPatchOp};
use kermode_inject::container_patch::{ContainerRole, Operation, apply};
use kermode_inject::{Outcome, Settings, SkipReason, inject, validate_container_patch};
use kermode_model::ApplicationProbe;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fixture::Fixture;

/// Strings that injection interprets, so that random objects contain the fields that injection reads.
const WORDS: &[&str] = &[
    "metadata",
    "spec",
    "labels",
    "annotations",
    "containers",
    "initContainers",
    "volumes",
    "name",
    "env",
    "value",
    "volumeMounts",
    "mountPath",
    "securityContext",
    "runAsUser",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "preStop",
    "postStart",
    "httpGet",
    "tcpSocket",
    "grpc",
    "service",
    "scheme",
    "HTTPS",
    "host",
    "exec",
    "restartPolicy",
    "Always",
    "imagePullSecrets",
    "port",
    "path",
    "ports",
    "kuma.io/sidecar-injection",
    "kuma.io/container-patches",
    "kuma.io/sidecar-drain-time",
    "kuma.io/gateway",
    "kuma.io/sidecar-env-vars",
    "kuma.io/builtin-dns",
    "kuma.io/mesh",
    "enabled",
    "disabled",
    "true",
    "kuma-sidecar",
    "terminationGracePeriodSeconds",
    "resources",
    "requests",
    "limits",
    "cpu",
    "-",
    "0",
    "p",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(WORDS).prop_map(str::to_owned),
        1 => ".{0,8}",
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(word(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Generates a Pod that requests injection, with otherwise random content.
fn any_pod() -> impl Strategy<Value = Value> {
    let annotations = prop::collection::btree_map(word(), word(), 0..4);
    (any_json(), any_json(), any_json(), annotations, 0..4_usize).prop_map(
        |(root, spec, container, annotations, container_count)| {
            let mut pod = json!({"metadata": {}, "spec": {}});
            merge(&mut pod, &root);
            merge(&mut pod["spec"], &spec);
            let mut app = json!({"name": "app"});
            merge(&mut app, &container);
            app["name"] = "app".into();
            pod["metadata"] =
                json!({"labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": annotations});
            if !pod["spec"].is_object() {
                pod["spec"] = json!({});
            }
            pod["spec"]["containers"] = Value::Array(vec![app; container_count]);
            pod
        },
    )
}

/// Adds the members of `added` to `base`, if both are objects.
fn merge(base: &mut Value, added: &Value) {
    if let (Value::Object(base), Value::Object(added)) = (base, added) {
        base.extend(added.clone());
    }
}

/// Generates a probe or hook with a request, also with values that an API server rejects.
fn any_probe_or_hook() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        4 => (0..=65_536_i64).prop_map(Value::from),
        1 => Just(json!("web")),
        1 => word().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
    ];
    let text = || prop_oneof!["/[ -~]{0,12}", ".{0,12}", "[/%?#a-f0-9]{0,12}"];
    let handler = prop::sample::select(vec!["httpGet", "tcpSocket", "grpc"]);
    let scheme = prop::sample::select(vec!["HTTP", "HTTPS"]);
    (handler, port, text(), scheme).prop_map(|(handler, port, path_or_service, scheme)| {
        let fields = match handler {
            "httpGet" => json!({"port": port, "path": path_or_service, "scheme": scheme}),
            "grpc" => json!({"port": port, "service": path_or_service}),
            _ => json!({"port": port}),
        };
        json!({handler: fields, "periodSeconds": 3})
    })
}

/// Generates a probe that an API server accepts, with any handler. Half of the HTTP and TCP probes name their port.
fn any_valid_probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![(1..=65_535_u16).prop_map(Value::from), Just(Value::from("web"))];
    let path = prop::option::of("[/a-z0-9?=%. -]{0,12}");
    let scheme = prop::option::of(prop::sample::select(vec!["HTTP", "HTTPS"]));
    let host = prop::option::weighted(0.1, Just("192.0.2.1"));
    let http = (port.clone(), path, scheme, host).prop_map(|(port, path, scheme, host)| {
        let mut http = json!({"port": port});
        for (key, value) in [
            ("path", path.map(Value::from)),
            ("scheme", scheme.map(Value::from)),
            ("host", host.map(Value::from)),
        ] {
            if let Some(value) = value {
                http[key] = value;
            }
        }
        json!({"httpGet": http, "periodSeconds": 5})
    });
    prop_oneof![
        2 => http,
        1 => port.prop_map(|port| json!({"tcpSocket": {"port": port}})),
        1 => (1..=65_535_u16).prop_map(|port| json!({"grpc": {"port": port, "service": "s"}, "failureThreshold": 9})),
        1 => Just(json!({"exec": {"command": ["true"]}})),
    ]
}

/// Generates a container with ports, probes, a hook, resources and a user. The hook may have fields that the API server
/// accepts only in probes.
fn any_container(name: String, is_init: bool) -> impl Strategy<Value = Value> {
    let probes = prop::collection::btree_map(
        prop::sample::select(&kermode_corpus::PROBES[..]),
        any_valid_probe(),
        0..4,
    );
    let user = prop::option::weighted(0.2, prop::sample::select(vec![0, 1000, 5678]));
    let hook = prop::option::weighted(0.2, any_valid_probe());
    let cpu = prop::option::weighted(0.2, prop::sample::select(vec!["1m", "0.5", "3"]));
    (probes, user, hook, cpu, any::<bool>()).prop_map(move |(probes, user, hook, cpu, is_restartable)| {
        let mut container = json!({
            "name": name, "image": "a", "ports": [{"name": "web", "containerPort": 8080}, {"containerPort": 9000}],
        });
        if is_init && is_restartable {
            container["restartPolicy"] = "Always".into();
        }
        if !is_init || is_restartable {
            container.as_object_mut().unwrap().extend(probes.into_iter().map(|(key, probe)| (key.to_owned(), probe)));
            if let Some(handler) = hook {
                container["lifecycle"] = json!({"preStop": handler});
            }
        }
        if let Some(user) = user {
            container["securityContext"] = json!({"runAsUser": user});
        }
        if let Some(cpu) = cpu {
            container["resources"] = json!({"limits": {"cpu": cpu}});
        }
        container
    })
}

fn any_containers(prefix: &'static str, is_init: bool, max: usize) -> impl Strategy<Value = Vec<Value>> {
    (0..=max).prop_flat_map(move |count| {
        let containers: Vec<_> = (0..count)
            .map(|index| any_container(format!("{prefix}-{index}"), is_init))
            .collect();
        containers
    })
}

/// Generates a Pod that an API server accepts, except for fields of hooks.
fn any_valid_pod() -> impl Strategy<Value = Value> {
    let secrets = prop::option::of(prop::collection::vec("[a-c]", 0..3));
    let resources = prop::option::of((prop::sample::select(vec!["cpu", "memory"]), 1..4_000_u32));
    let grace = prop::option::of(prop::sample::select(vec![0, 1, 5, 30, 3_600]));
    let annotations = prop::option::of(prop::sample::select(vec![
        json!({}),
        json!({"k8s.v1.cni.cncf.io/networks": "a, b"}),
        json!({"k8s.v1.cni.cncf.io/networks": "[{\"name\": \"a\"}]"}),
        json!({"kuma.io/virtual-probes-port": "19000", "kuma.io/sidecar-mode": "classic"}),
    ]));
    let containers = any_containers("app", false, 3);
    let init_containers = prop::option::of(any_containers("init", true, 3));
    (
        containers,
        init_containers,
        secrets,
        resources,
        grace,
        annotations,
    )
        .prop_map(
            |(containers, init_containers, secrets, resources, grace, annotations)| {
                let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
                if let Some(annotations) = annotations {
                    pod["metadata"]["annotations"] = annotations;
                }
                let spec = &mut pod["spec"];
                if let Some(containers) = init_containers {
                    spec["initContainers"] = containers.into();
                }
                if let Some(names) = secrets {
                    spec["imagePullSecrets"] = names.iter().map(|name| json!({"name": name})).collect();
                }
                if let Some((resource, amount)) = resources {
                    spec["resources"] = json!({"limits": {resource: format!("{amount}m")}});
                }
                if let Some(grace) = grace {
                    spec["terminationGracePeriodSeconds"] = grace.into();
                }
                pod
            },
        )
}

/// Generates the labels and annotations of a Namespace. Most Namespaces request injection.
fn any_namespace() -> impl Strategy<Value = Fixture> {
    let request = prop_oneof![4 => Just("enabled"), 1 => Just("true"), 1 => Just("disabled"), 1 => Just("")];
    let profile = prop::option::of(prop::sample::select(vec!["privileged", "baseline", "restricted"]));
    (request, any::<bool>(), profile, word(), word()).prop_map(|(request, is_label, profile, key, value)| {
        let mut fixture = Fixture::default();
        let map = if is_label {
            &mut fixture.labels
        } else {
            &mut fixture.annotations
        };
        map.insert("kuma.io/sidecar-injection".to_owned(), request.to_owned());
        let profile = profile.map(|profile| {
            (
                "pod-security.kubernetes.io/enforce".to_owned(),
                profile.to_owned(),
            )
        });
        fixture.labels.extend(profile);
        fixture.annotations.entry(key).or_insert(value);
        fixture
    })
}

/// Settings of either placement, with `kuma-init` or the CNI plugin, with pull secrets.
fn any_settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), any::<bool>()).prop_map(|(native, cni_enabled)| Settings {
        cni_enabled,
        image_pull_secrets: vec!["a".to_owned(), "mirror".to_owned()],
        ..settings(native)
    })
}

/// Generates an operation of a ContainerPatch, with random paths and values.
fn any_block() -> impl Strategy<Value = JsonPatchBlock> {
    let op = prop::sample::select(vec![
        JsonPatchOp::Add,
        JsonPatchOp::Remove,
        JsonPatchOp::Replace,
        JsonPatchOp::Move,
        JsonPatchOp::Copy,
    ]);
    let path = prop_oneof![
        9 => prop::collection::vec(word(), 0..5).prop_map(|words| {
            let escaped: Vec<String> = words.iter().map(|word| word.replace('~', "~0").replace('/', "~1")).collect();
            if escaped.is_empty() { String::new() } else { format!("/{}", escaped.join("/")) }
        }),
        1 => ".{0,10}",
    ];
    let value = prop_oneof![4 => any_json().prop_map(|value| value.to_string()), 1 => ".{0,10}"];
    (op, path.clone(), prop::option::of(path), prop::option::of(value)).prop_map(|(op, path, from, value)| {
        JsonPatchBlock {
            op,
            path,
            from,
            value,
        }
    })
}

fn settings(native: bool) -> Settings {
    Settings {
        native_sidecars_supported: native,
        sleep_hooks_supported: native,
        ..Settings::default()
    }
}

/// Asserts that `after` contains all of `before`: members may be added, and lists of the spec may grow at both ends.
fn assert_contains(before: &Value, after: &Value, path: &str) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, member) in before {
                // Injection may replace a null member.
                if !member.is_null() {
                    assert_contains(member, &after[key], &format!("{path}/{key}"));
                }
            }
        }
        // Injection inserts only into the lists of the spec itself, such as `/spec/containers`.
        (Value::Array(before), Value::Array(after)) if path.matches('/').count() == 2 => {
            let start = (0..=after.len() - before.len()).find(|start| {
                before
                    .iter()
                    .zip(&after[*start..])
                    .all(|(before, after)| before["name"] == after["name"])
            });
            let start = start.unwrap_or_else(|| panic!("{path} lost items"));
            for (before, after) in before.iter().zip(&after[start..]) {
                assert_contains(before, after, &format!("{path}/item"));
            }
        }
        _ => assert_eq!(before, after, "{path}"),
    }
}

proptest! {
    #[test]
    fn injection_of_any_json_does_not_panic(json in any_json(), native: bool) {
        let fixture = Fixture::default();
        let _ = fixture.with(|context| inject(&json, &settings(native), context));
    }

    #[test]
    fn injection_preserves_the_pod(pod in any_pod(), native: bool) {
        let fixture = Fixture::default();
        // Changes of probes and annotations are left to the golden tests.
        let settings = Settings { virtual_probes_enabled: false, ..settings(native) };
        if let Ok(Outcome::Injected(injection)) = fixture.with(|context| inject(&pod, &settings, context)) {
            let mut after = pod.clone();
            json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
            let mut before = pod;
            before["metadata"].as_object_mut().unwrap().remove("annotations");
            assert_contains(&before, &after, "");
            prop_assert_eq!(&after["metadata"]["annotations"]["kuma.io/sidecar-injected"], "true");
            // The API server calls the webhook again if a second registration selects the Pod.
            let second = fixture.with(|context| inject(&after, &settings, context)).unwrap();
            prop_assert!(matches!(second, Outcome::Skipped(_)));
        }
    }

    #[test]
    fn probe_is_either_unchanged_or_rewritten_to_a_path_that_conversion_understands(
        probes_and_hooks in prop::collection::vec(any_probe_or_hook(), 5),
        container_port in 1..=u16::MAX,
        is_init: bool,
        native: bool,
    ) {
        let [liveness, readiness, startup, pre_stop, post_start] = &*probes_and_hooks else { unreachable!() };
        let container = json!({
            "name": "app",
            "restartPolicy": "Always",
            "ports": [{"name": "web", "containerPort": container_port}],
            "livenessProbe": liveness, "readinessProbe": readiness, "startupProbe": startup,
            "lifecycle": {"preStop": pre_stop, "postStart": post_start},
        });
        let list = if is_init { "initContainers" } else { "containers" };
        let mut pod = json!({
            "metadata": {"labels": {"kuma.io/sidecar-injection": "enabled"}},
            "spec": {"containers": [], "initContainers": []},
        });
        pod["spec"][list] = json!([container]);
        let fixture = Fixture::default();
        let Ok(Outcome::Injected(injection)) = fixture.with(|context| inject(&pod, &settings(native), context)) else {
            panic!("a probe denies the Pod: {pod}");
        };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
        let port: u16 = after["metadata"]["annotations"]["kuma.io/virtual-probes-port"].as_str().unwrap().parse().unwrap();
        prop_assert_ne!(port, container_port);
        let containers = after["spec"][list].as_array().unwrap();
        let app = containers.iter().find(|container| container["name"] == "app").unwrap();
        for pointer in ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/preStop", "/lifecycle/postStart"] {
            let (before, after) = (container.pointer(pointer).unwrap(), app.pointer(pointer).unwrap());
            if before == after {
                continue;
            }
            let http = &after["httpGet"];
            let path = http["path"].as_str().unwrap();
            let probe = ApplicationProbe::from_path(path);
            prop_assert!(probe.is_some(), "{}: {}", pointer, after);
            let probe = probe.unwrap();
            let handler = ["httpGet", "tcpSocket", "grpc"].into_iter().find(|name| before.get(name).is_some()).unwrap();
            let original_port = &before[handler]["port"];
            let original_port = if original_port == "web" { container_port.into() } else { original_port.clone() };
            let original_port = original_port.as_str().map_or(original_port.clone(), |text| text.parse::<u16>().unwrap().into());
            prop_assert_eq!(&json!(probe.inbound_port), &original_port);
            prop_assert_ne!(port, probe.inbound_port);
            prop_assert_eq!(&http["port"], &json!(port));
            prop_assert_ne!(&http["scheme"], "HTTPS");
            prop_assert_eq!(&after["periodSeconds"], 3);
            prop_assert_eq!(after.as_object().unwrap().len(), 2);
            if handler == "grpc" {
                prop_assert_eq!(&json!(probe.inbound_path), &before["grpc"]["service"]);
            }
        }
    }

    #[test]
    fn valid_pod_loses_nothing_in_any_namespace_and_is_injected_once(
        pod in any_valid_pod(),
        namespace in any_namespace(),
        settings in any_settings(),
    ) {
        match namespace.with(|context| inject(&pod, &settings, context)) {
            Ok(Outcome::Injected(injection)) => {
                let mut after = pod.clone();
                json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
                prop_assert_eq!(lost_by_injection(&pod, &after), Vec::<String>::new());
                let second = namespace.with(|context| inject(&after, &settings, context));
                prop_assert_eq!(second, Ok(Outcome::Skipped(SkipReason::AlreadyInjected)));
            }
            Ok(Outcome::Skipped(reason)) => prop_assert!(reason != SkipReason::AlreadyInjected),
            Err(denial) => prop_assert!(denial.to_string().len() > 20, "{}", denial),
        }
    }

    #[test]
    fn any_operations_do_not_panic(blocks in prop::collection::vec(any_block(), 0..12)) {
        let base = json!({"name": "kuma-sidecar", "env": [{"name": "A"}], "resources": {"limits": {"cpu": "1"}}});
        let operations: Vec<Operation<'_>> = blocks
            .iter()
            .enumerate()
            .map(|(index, block)| Operation { patch: "p", list: "sidecarPatch", index, block })
            .collect();
        if let Ok(container) = apply(&base, &operations, ContainerRole::KeepsRunning) {
            prop_assert!(container.is_object());
        }
        let mut fixture = Fixture::default();
        let spec = ContainerPatchSpec { sidecar_patch: blocks.clone(), init_patch: blocks };
        let object = json!({
            "metadata": {"name": "p", "namespace": "mesh"},
            "spec": serde_json::to_value(&spec).unwrap(),
        });
        let _ = validate_container_patch(&object, "mesh");
        fixture.patches.insert("p".to_owned(), spec);
        let pod = json!({
            "metadata": {
                "labels": {"kuma.io/sidecar-injection": "enabled"},
                "annotations": {"kuma.io/container-patches": "p"},
            },
            "spec": {"containers": []},
        });
        let _ = fixture.with(|context| inject(&pod, &settings(true), context));
    }

    #[test]
    fn validation_of_any_object_does_not_panic(object in any_json()) {
        let _ = validate_container_patch(&object, "mesh");
    }
}
