//! Tests of repeated injection: Pods that other webhooks change after injection, and Pods with leftovers of an earlier
//! injection (docs/design.md#repeatable-injection).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use kermode_inject::settings::SidecarMode;
use kermode_inject::{Denial, Outcome, Settings, SkipReason, inject};
use serde_json::{Value, json};

use crate::fixture::Fixture;

fn settings(mode: SidecarMode) -> Settings {
    Settings {
        sidecar_mode: mode,
        native_sidecars_supported: true,
        ..Settings::default()
    }
}

/// Returns settings for all combinations: native or classic sidecar, `kuma-init` or CNI plugin.
fn all_settings() -> Vec<Settings> {
    let modes = [SidecarMode::Native, SidecarMode::Classic];
    let with_cni = |cni_enabled| {
        modes.map(|mode| Settings {
            cni_enabled,
            ..settings(mode)
        })
    };
    [with_cni(false), with_cni(true)].concat()
}

/// Returns a Pod with an init container, a container with a probe, and a volume, for which injection is requested.
fn mk_pod() -> Value {
    json!({
        "metadata": {"name": "p", "labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": {"own": "kept"}},
        "spec": {
            "initContainers": [{"name": "prepare", "image": "x"}],
            "containers": [{
                "name": "app",
                "image": "x",
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    })
}

/// Injects a Pod. Returns the injected Pod, or `None` if the Pod is up to date.
fn injected_or_current(pod: &Value, settings: &Settings) -> Result<Option<Value>, Denial> {
    match Fixture::default().with(|context| inject(pod, settings, context))? {
        Outcome::Injected(injection) => {
            let mut after = pod.clone();
            json_patch::patch(&mut after, &injection.patch).unwrap();
            Ok(Some(after))
        }
        Outcome::Skipped(SkipReason::AlreadyInjected) => Ok(None),
        Outcome::Skipped(reason) => panic!("skipped: {reason}"),
    }
}

/// Injects a Pod. Returns the injected Pod, which is the same Pod if it is up to date.
fn injected(pod: &Value, settings: &Settings) -> Value {
    injected_or_current(pod, settings)
        .expect("admitted")
        .unwrap_or_else(|| pod.clone())
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    let items = pod["spec"][list]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .map(|item| item["name"].as_str().expect("a name"))
        .collect()
}

fn item<'a>(pod: &'a mut Value, list: &str, name: &str) -> &'a mut Value {
    let items = pod["spec"][list].as_array_mut().expect(list);
    items.iter_mut().find(|item| item["name"] == name).expect(name)
}

/// Removes the items of a list whose names match.
fn remove(pod: &mut Value, list: &str, is_removed: impl Fn(&str) -> bool) {
    let items = pod["spec"][list].as_array_mut().expect(list);
    items.retain(|item| !is_removed(item["name"].as_str().expect("a name")));
}

fn push(pod: &mut Value, list: &str, item: Value) {
    pod["spec"][list].as_array_mut().expect(list).push(item);
}

#[test]
fn injected_pod_is_up_to_date_also_with_the_defaults_of_the_api_server() {
    for settings in all_settings() {
        let mut pod = injected(&mk_pod(), &settings);
        assert_eq!(injected_or_current(&pod, &settings), Ok(None));
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array_mut().unwrap() {
                container["terminationMessagePath"] = "/dev/termination-log".into();
                container["terminationMessagePolicy"] = "File".into();
                if container["readinessProbe"].is_object() {
                    container["readinessProbe"]["httpGet"]["scheme"] = "HTTP".into();
                }
                // The API server leaves out a delay of 0.
                let probe = container.get_mut("startupProbe").and_then(Value::as_object_mut);
                if let Some(probe) = probe {
                    probe.retain(|member, value| member != "initialDelaySeconds" || *value != 0);
                }
            }
        }
        assert_eq!(injected_or_current(&pod, &settings), Ok(None));
    }
}

#[test]
fn removed_parts_of_an_earlier_injection_are_restored() {
    for settings in all_settings() {
        let complete = injected(&mk_pod(), &settings);
        let lists = ["containers", "initContainers", "volumes"];
        let kuma_items: Vec<(&str, String)> = lists
            .into_iter()
            .flat_map(|list| {
                names(&complete, list)
                    .into_iter()
                    .map(move |name| (list, name.to_owned()))
            })
            .filter(|(_, name)| name.starts_with("kuma-"))
            .collect();
        assert!(kuma_items.len() >= 3, "{kuma_items:?}");
        // Removes each subset of the items. Bit `i` of the mask is set if the item `i` is removed.
        for removed_mask in 0..1_u32 << kuma_items.len() {
            let mut pod = complete.clone();
            for (index, (list, name)) in kuma_items.iter().enumerate() {
                if removed_mask & (1 << index) != 0 {
                    remove(&mut pod, list, |other| other == name);
                }
            }
            let again = injected(&pod, &settings);
            for list in ["containers", "initContainers"] {
                assert_eq!(again["spec"][list], complete["spec"][list], "{removed_mask:b}");
            }
            let sorted_volumes = |pod: &Value| {
                let mut volumes = pod["spec"]["volumes"].as_array().unwrap().clone();
                volumes.sort_by_key(ToString::to_string);
                volumes
            };
            assert_eq!(
                sorted_volumes(&again),
                sorted_volumes(&complete),
                "{removed_mask:b}"
            );
            assert_eq!(again["metadata"], complete["metadata"], "{removed_mask:b}");
        }
    }
}

#[test]
fn injection_with_new_settings_replaces_an_earlier_injection() {
    for before in all_settings() {
        for mut after in all_settings() {
            after.sidecar_container.image = "registry/kuma-dp:next".to_owned();
            after.init_container.image = "registry/kuma-init:next".to_owned();
            let again = injected(&injected(&mk_pod(), &before), &after);
            let once = injected(&mk_pod(), &after);
            assert_eq!(again["spec"], once["spec"]);
            let networks = |pod: &Value| {
                pod["metadata"]["annotations"]
                    .get("k8s.v1.cni.cncf.io/networks")
                    .cloned()
            };
            assert_eq!(networks(&again), networks(&once));
        }
    }
}

#[test]
fn containers_of_an_earlier_injection_are_not_trusted() {
    for settings in all_settings() {
        let once = injected(&mk_pod(), &settings);
        // The list of the sidecar, and the index of `kuma-init` or `kuma-validation` among the init containers.
        let (sidecar_list, init_index) = match settings.sidecar_mode {
            SidecarMode::Native => ("initContainers", 0),
            _ => (
                "containers",
                names(&once, "initContainers")
                    .iter()
                    .position(|name| *name != "prepare")
                    .unwrap(),
            ),
        };
        for (member, value) in [
            ("image", json!("old-registry/kuma:0")),
            ("command", json!(["sleep"])),
            ("args", json!([])),
            ("securityContext", json!({"runAsUser": 0})),
        ] {
            let mut pod = once.clone();
            item(&mut pod, sidecar_list, "kuma-sidecar")[member] = value.clone();
            pod["spec"]["initContainers"][init_index][member] = value;
            let again = injected(&pod, &settings);
            assert_eq!(again["spec"], once["spec"], "{member}");
        }
        let mut duplicated = once.clone();
        for list in ["containers", "initContainers"] {
            push(
                &mut duplicated,
                list,
                json!({"name": "kuma-sidecar", "image": "old"}),
            );
        }
        push(
            &mut duplicated,
            "initContainers",
            json!({"name": "kuma-init", "image": "old"}),
        );
        assert_eq!(injected(&duplicated, &settings)["spec"], once["spec"]);
    }
}

#[test]
fn leftover_init_container_is_replaced() {
    let mut pod = mk_pod();
    pod["metadata"]["annotations"] = json!({"kuma.io/sidecar-injected": "true", "kuma.io/mesh": "default"});
    push(
        &mut pod,
        "initContainers",
        json!({"name": "kuma-init", "image": "old-registry/kuma-init"}),
    );
    let pod = injected(&pod, &settings(SidecarMode::Classic));
    assert_eq!(names(&pod, "initContainers"), ["prepare", "kuma-init"]);
    assert_eq!(pod["spec"]["initContainers"][1]["image"], "kuma/kuma-init:latest");
}

#[test]
fn pod_is_denied_if_its_own_volume_has_a_name_that_the_sidecar_needs() {
    for (name, source) in [
        (
            "kuma-sidecar-tmp",
            json!({"configMap": {"name": "something-else"}}),
        ),
        ("kuma-sidecar-token", json!({"emptyDir": {}})),
    ] {
        let mut pod = mk_pod();
        let mut volume = source;
        volume["name"] = name.into();
        push(&mut pod, "volumes", volume);
        let denial = injected_or_current(&pod, &settings(SidecarMode::Native)).expect_err("denied");
        assert_eq!(denial.reason(), "VolumeNameTaken");
        let text = denial.to_string();
        assert!(text.contains(name) && text.contains("Pod shop/p"), "{text}");
    }
}

#[test]
fn volumes_of_an_earlier_injection_are_replaced_in_place() {
    let mut pod = mk_pod();
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    volumes.insert(
        0,
        json!({"name": "kuma-sidecar-tmp", "emptyDir": {"sizeLimit": "1"}}),
    );
    volumes.insert(
        1,
        json!({"name": "kuma-sidecar-token", "projected": {"sources": [{"secret": {"name": "s"}}]}}),
    );
    let pod = injected(&pod, &settings(SidecarMode::Native));
    assert_eq!(
        names(&pod, "volumes"),
        ["kuma-sidecar-tmp", "kuma-sidecar-token", "scratch"]
    );
    let once = injected(&mk_pod(), &settings(SidecarMode::Native));
    for volume in once["spec"]["volumes"].as_array().unwrap() {
        assert!(
            pod["spec"]["volumes"].as_array().unwrap().contains(volume),
            "{volume}"
        );
    }
}

// === changes of another webhook after injection ===

/// Returns an injected Pod to which another webhook has added a container with probes, a first init container and a
/// volume.
fn changed_by_another_webhook(settings: &Settings) -> Value {
    let mut pod = injected(&mk_pod(), settings);
    let probe = json!({"httpGet": {"path": "/health", "port": 8282}});
    push(
        &mut pod,
        "containers",
        json!({"name": "agent", "image": "agent", "livenessProbe": probe, "readinessProbe": probe}),
    );
    let init_containers = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init_containers.insert(0, json!({"name": "agent-init", "image": "agent"}));
    push(&mut pod, "volumes", json!({"name": "agent", "emptyDir": {}}));
    pod
}

#[test]
fn container_of_another_webhook_gets_virtual_probes_and_the_order_of_the_init_containers_is_restored() {
    for settings in all_settings() {
        let mut pod = injected(&changed_by_another_webhook(&settings), &settings);
        for probe in ["livenessProbe", "readinessProbe"] {
            let http = &item(&mut pod, "containers", "agent")[probe]["httpGet"];
            assert_eq!(*http, json!({"path": "/8282/health", "port": 9000}));
        }
        let http = &item(&mut pod, "containers", "app")["readinessProbe"]["httpGet"];
        assert_eq!(
            *http,
            json!({"path": "/8080/healthz", "port": 9000}),
            "the probe must be rewritten only once"
        );
        let kuma_init = if settings.cni_enabled {
            "kuma-validation"
        } else {
            "kuma-init"
        };
        let expected = match (settings.sidecar_mode, settings.cni_enabled) {
            (SidecarMode::Native, _) => vec![kuma_init, "kuma-sidecar", "agent-init", "prepare"],
            (_, true) => vec![kuma_init, "agent-init", "prepare"],
            (_, false) => vec!["agent-init", "prepare", kuma_init],
        };
        assert_eq!(names(&pod, "initContainers"), expected);
        assert_eq!(
            injected_or_current(&pod, &settings),
            Ok(None),
            "a further injection changes nothing"
        );
    }
}

#[test]
fn pod_is_denied_if_a_container_of_another_webhook_has_the_uid_of_the_sidecar() {
    for settings in all_settings() {
        let mut pod = changed_by_another_webhook(&settings);
        item(&mut pod, "containers", "agent")["securityContext"] = json!({"runAsUser": 5678});
        let denial = injected_or_current(&pod, &settings).expect_err("denied");
        assert_eq!(denial.to_string().matches("\"agent\"").count(), 1, "{denial}");
        assert!(!denial.to_string().contains("kuma-sidecar"), "{denial}");
    }
}

#[test]
fn changes_of_another_webhook_to_the_sidecar_are_kept() {
    for settings in all_settings() {
        let list = match settings.sidecar_mode {
            SidecarMode::Native => "initContainers",
            _ => "containers",
        };
        let mut pod = changed_by_another_webhook(&settings);
        let sidecar = item(&mut pod, list, "kuma-sidecar");
        // Only the registry differs from the configured image. Another name or tag would be replaced.
        sidecar["image"] = "mirror.local/kuma/kuma-dp:latest".into();
        sidecar["resources"] = json!({"requests": {"cpu": "3"}});
        sidecar["env"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "HTTP_PROXY", "value": "p"}));
        let changed = sidecar.clone();
        let mut pod = injected(&pod, &settings);
        assert_eq!(*item(&mut pod, list, "kuma-sidecar"), changed);
    }
}

#[test]
fn containers_that_a_patch_renamed_are_found_again() {
    let rename = |name: &str| json!({"op": "replace", "path": "/name", "value": format!("{name:?}")});
    let remove = |path: &str| json!({"op": "remove", "path": path});
    let only_renamed = json!({"sidecarPatch": [rename("proxy")], "initPatch": [rename("redirect")]});
    // These containers can be recognized only by their names.
    let disguised = json!({
        "sidecarPatch": [rename("proxy"), remove("/env")],
        "initPatch": [rename("redirect"), remove("/command")],
    });
    for spec in [only_renamed, disguised] {
        let mut fixture = Fixture::default();
        fixture
            .patches
            .insert("rename".to_owned(), serde_json::from_value(spec).unwrap());
        for settings in all_settings() {
            let settings = Settings {
                container_patches: vec!["rename".to_owned()],
                ..settings
            };
            let run = |pod: &Value| fixture.with(|context| inject(pod, &settings, context));
            let mut pod = mk_pod();
            let Ok(Outcome::Injected(injection)) = run(&pod) else {
                panic!("not injected");
            };
            json_patch::patch(&mut pod, &injection.patch).unwrap();
            assert_eq!(run(&pod), Ok(Outcome::Skipped(SkipReason::AlreadyInjected)));
        }
    }
}

#[test]
fn renamed_containers_are_removed_when_the_patch_is_no_longer_used() {
    let rename = |name: &str| json!({"op": "replace", "path": "/name", "value": format!("{name:?}")});
    let spec = json!({"sidecarPatch": [rename("proxy")], "initPatch": [rename("redirect")]});
    let mut fixture = Fixture::default();
    fixture
        .patches
        .insert("rename".to_owned(), serde_json::from_value(spec).unwrap());
    for settings in all_settings() {
        let with_patch = Settings {
            container_patches: vec!["rename".to_owned()],
            ..settings.clone()
        };
        let mut pod = mk_pod();
        let Ok(Outcome::Injected(injection)) = fixture.with(|context| inject(&pod, &with_patch, context))
        else {
            panic!("not injected");
        };
        json_patch::patch(&mut pod, &injection.patch).unwrap();
        let (again, once) = (injected(&pod, &settings), injected(&mk_pod(), &settings));
        for list in ["containers", "initContainers"] {
            assert_eq!(names(&again, list), names(&once, list));
        }
    }
}

#[test]
fn container_of_the_application_with_the_name_of_a_renamed_sidecar_is_not_removed() {
    let mut fixture = Fixture::default();
    let rename = json!({"sidecarPatch": [{"op": "replace", "path": "/name", "value": "\"app\""}]});
    fixture
        .patches
        .insert("rename".to_owned(), serde_json::from_value(rename).unwrap());
    let mut pod = mk_pod();
    pod["metadata"]["annotations"]["kuma.io/sidecar-injected"] = "true".into();
    for settings in all_settings() {
        let settings = Settings {
            container_patches: vec!["rename".to_owned()],
            ..settings
        };
        let Ok(Outcome::Injected(injection)) = fixture.with(|context| inject(&pod, &settings, context))
        else {
            panic!("not injected");
        };
        let mut after = pod.clone();
        json_patch::patch(&mut after, &injection.patch).unwrap();
        let containers = after["spec"]["containers"].as_array().unwrap();
        assert!(containers.iter().any(|container| container["image"] == "x"));
    }
}

#[test]
fn networks_of_the_pod_are_kept_beside_that_of_the_cni_plugin() {
    let networks = "k8s.v1.cni.cncf.io/networks";
    let cni_settings = Settings {
        cni_enabled: true,
        ..settings(SidecarMode::Native)
    };
    let mut pod = mk_pod();
    pod["metadata"]["annotations"][networks] = "storage".into();
    let with_cni = injected(&pod, &cni_settings);
    assert_eq!(with_cni["metadata"]["annotations"][networks], "storage,kuma-cni");
    // A chained plugin is called for every network, so the Pod names none for it.
    let chained = Settings {
        cni_chained: true,
        ..cni_settings
    };
    for settings in [settings(SidecarMode::Native), chained] {
        let without_network = injected(&with_cni, &settings);
        assert_eq!(without_network["metadata"]["annotations"][networks], "storage");
    }
}
