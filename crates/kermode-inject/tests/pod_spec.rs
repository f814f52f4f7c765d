//! Tests of injection and fields of the Pod: it respects the Pod-level resources (`spec.resources`), keeps the Pod
//! evictable, and appends image pull Secrets. Also tests the placement of the sidecar.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use kermode_inject::settings::SidecarMode;
use kermode_inject::{Outcome, Settings, SkipReason, inject, parse_quantity};
use kermode_model::KubernetesVersion;
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// Annotation with the names of local volumes that do not keep the cluster autoscaler from evicting the Pod.
const EVICTABLE_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// Makes a Pod that requests injection, with one container unless `spec` has containers.
fn mk_pod(spec: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p", "labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": {}},
        "spec": spec,
    });
    if pod["spec"]["containers"].is_null() {
        pod["spec"]["containers"] = json!([{"name": "app", "image": "x"}]);
    }
    pod
}

fn settings(mode: SidecarMode) -> Settings {
    Settings {
        sidecar_mode: mode,
        native_sidecars_supported: true,
        ..Settings::default()
    }
}

fn injected(pod: &Value, settings: &Settings) -> Value {
    let outcome = Fixture::default().with(|context| inject(pod, settings, context));
    let Ok(Outcome::Injected(injection)) = outcome else {
        panic!("{outcome:?}");
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).unwrap();
    after
}

/// Returns all containers and init containers.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    containers(pod)
        .find(|container| container["name"] == name)
        .expect(name)
}

// Pod-level resources

/// Asserts that no container has a higher limit or request of a resource than the Pod-level resources. The API server
/// rejects such containers. A container without a request requests its limit.
fn assert_within_pod_resources(pod: &Value, resource: &str) {
    let pod_resources = &pod["spec"]["resources"];
    let amount = |value: &Value| parse_quantity(value.as_str().expect("a string")).expect("a quantity");
    for container in containers(pod) {
        let (resources, name) = (&container["resources"], &container["name"]);
        let limits = (
            resources["limits"].get(resource),
            pod_resources["limits"].get(resource),
        );
        if let (Some(limit), Some(pod_limit)) = limits {
            assert!(
                amount(limit) <= amount(pod_limit),
                "{name} has a higher limit of {resource}: {limit}"
            );
        }
        let request = resources["requests"]
            .get(resource)
            .or_else(|| resources["limits"].get(resource));
        // The API server adds up the requests of containers that run at the same time. Here, at most one of these
        // containers has a request.
        if let (Some(request), Some(pod_request)) = (request, pod_resources["requests"].get(resource)) {
            assert!(
                amount(request) <= amount(pod_request),
                "{name} requests more {resource}: {request}"
            );
        }
    }
}

#[test]
fn injected_containers_stay_within_the_pod_level_resources() {
    for resources in [
        json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}}),
        json!({"requests": {"cpu": "1m"}}),
        json!({"limits": {"memory": "1Mi"}}),
        json!({"requests": {"memory": "1Mi"}, "limits": {"cpu": "10m"}}),
    ] {
        for mode in [SidecarMode::Native, SidecarMode::Classic] {
            for cni_enabled in [false, true] {
                let settings = Settings {
                    cni_enabled,
                    ..settings(mode)
                };
                let pod = injected(&mk_pod(json!({"resources": resources})), &settings);
                for resource in ["cpu", "memory"] {
                    assert_within_pod_resources(&pod, resource);
                }
            }
        }
    }
}

#[test]
fn configured_resources_apply_unless_the_pod_level_resources_include_them() {
    for resources in [
        json!({"limits": {"memory": "128Mi"}}),
        json!({"requests": {"memory": "32Mi", "cpu": null}}),
    ] {
        let pod = injected(
            &mk_pod(json!({"resources": resources})),
            &settings(SidecarMode::Native),
        );
        let sidecar = &container(&pod, "kuma-sidecar")["resources"];
        assert_eq!(
            *sidecar,
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "1000m"}})
        );
    }
    for resources in [Value::Null, json!({})] {
        let pod = injected(
            &mk_pod(json!({"resources": resources})),
            &settings(SidecarMode::Native),
        );
        assert_eq!(
            container(&pod, "kuma-sidecar")["resources"]["limits"]["memory"],
            "512Mi"
        );
    }
}

#[test]
fn worker_threads_follow_the_lower_cpu_limit_of_sidecar_and_pod() {
    let mut settings = settings(SidecarMode::Native);
    settings.sidecar_container.resources = serde_json::from_value(json!({"limits": {"cpu": "8"}})).unwrap();
    for (limit, threads) in [
        (json!("4500m"), 4),
        (json!(3), 3),
        (json!("200m"), 2),
        (json!("16"), 8),
    ] {
        let pod = injected(
            &mk_pod(json!({"resources": {"limits": {"cpu": limit}}})),
            &settings,
        );
        let args = container(&pod, "kuma-sidecar")["args"].to_string();
        assert!(
            args.contains(&format!("--concurrency={threads}\"")),
            "{limit}: {args}"
        );
    }
}

// Local volumes

#[test]
fn volume_of_the_sidecar_is_appended_to_the_evictable_volumes() {
    for (annotation, expected) in [
        (Value::Null, "kuma-sidecar-tmp"),
        (json!(""), "kuma-sidecar-tmp"),
        (json!("scratch"), "scratch,kuma-sidecar-tmp"),
        (json!("scratch, cache,"), "scratch, cache,kuma-sidecar-tmp"),
        (json!("kuma-sidecar-tmp ,scratch"), "kuma-sidecar-tmp ,scratch"),
    ] {
        let mut pod = mk_pod(json!({}));
        if annotation.is_string() {
            pod["metadata"]["annotations"][EVICTABLE_VOLUMES] = annotation.clone();
        }
        let after = injected(&pod, &settings(SidecarMode::Native));
        assert_eq!(
            after["metadata"]["annotations"][EVICTABLE_VOLUMES], expected,
            "{annotation}"
        );
    }
}

#[test]
fn every_added_local_volume_is_listed_as_evictable() {
    for mode in [SidecarMode::Native, SidecarMode::Classic] {
        let pod = injected(&mk_pod(json!({})), &settings(mode));
        let listed = pod["metadata"]["annotations"][EVICTABLE_VOLUMES]
            .as_str()
            .unwrap_or_default();
        let is_local = |volume: &&Value| {
            ["emptyDir", "hostPath"]
                .iter()
                .any(|kind| volume.get(kind).is_some())
        };
        let volumes = pod["spec"]["volumes"].as_array().expect("volumes").iter();
        let local: Vec<_> = volumes
            .filter(is_local)
            .map(|volume| volume["name"].as_str().unwrap())
            .collect();
        assert_eq!(local.join(","), listed, "{mode:?}");
    }
}

// Placement

#[test]
fn placement_follows_the_sidecar_mode_the_oldest_kubelet_and_the_api_server() {
    let is_native = |mode: SidecarMode, api_server_supports: bool, oldest_node: Option<(u32, u32)>| {
        let settings = Settings {
            native_sidecars_supported: api_server_supports,
            ..settings(mode)
        };
        let fixture = Fixture {
            oldest_node: oldest_node.map(|(major, minor)| KubernetesVersion::new(major, minor)),
            ..Fixture::default()
        };
        let pod = mk_pod(json!({}));
        let outcome = fixture.with(|context| inject(&pod, &settings, context));
        let Ok(Outcome::Injected(injection)) = outcome else {
            panic!("{outcome:?}");
        };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &injection.patch).unwrap();
        let mut init = after["spec"]["initContainers"].as_array().expect("a list").iter();
        init.any(|container| container["restartPolicy"] == "Always")
    };
    for (mode, api_server_supports, oldest_node, expected) in [
        (SidecarMode::Auto, true, None, true),
        (SidecarMode::Auto, true, Some((1, 34)), true),
        (SidecarMode::Auto, true, Some((1, 29)), true),
        (SidecarMode::Auto, true, Some((1, 28)), false),
        // The API server was upgraded after the start of the control plane.
        (SidecarMode::Auto, false, Some((1, 29)), true),
        (SidecarMode::Auto, false, None, false),
        (SidecarMode::Native, true, Some((1, 27)), true),
        (SidecarMode::Native, false, Some((1, 29)), true),
        (SidecarMode::Classic, true, Some((1, 34)), false),
    ] {
        let case =
            format!("{mode:?}, API server supports: {api_server_supports}, oldest node {oldest_node:?}");
        assert_eq!(
            is_native(mode, api_server_supports, oldest_node),
            expected,
            "{case}"
        );
    }
}

// Image pull Secrets

#[test]
fn configured_image_pull_secrets_are_appended_to_those_of_the_pod() {
    let settings = Settings {
        image_pull_secrets: vec!["mirror".to_owned(), "backup".to_owned(), "mirror".to_owned()],
        ..settings(SidecarMode::Native)
    };
    for (secrets_of_pod, expected) in [
        (Value::Null, json!(["mirror", "backup"])),
        (json!([]), json!(["mirror", "backup"])),
        (json!([{"name": "team"}]), json!(["team", "mirror", "backup"])),
        (
            json!([{"name": "backup"}, {"name": "team"}]),
            json!(["backup", "team", "mirror"]),
        ),
    ] {
        let after = injected(&mk_pod(json!({"imagePullSecrets": secrets_of_pod})), &settings);
        let secrets = after["spec"]["imagePullSecrets"]
            .as_array()
            .expect("a list")
            .iter();
        let names: Value = secrets.map(|secret| secret["name"].clone()).collect();
        assert_eq!(names, expected);
        let again = Fixture::default().with(|context| inject(&after, &settings, context));
        assert_eq!(again, Ok(Outcome::Skipped(SkipReason::AlreadyInjected)));
    }
    let without_setting = injected(&mk_pod(json!({})), &self::settings(SidecarMode::Native));
    assert!(without_setting["spec"]["imagePullSecrets"].is_null());
}
