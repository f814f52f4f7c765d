//! Tests of the delayed stop of the application (docs/design.md#delayed-stop).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use std::time::Duration;

use kermode_inject::{Injection, Outcome, Settings, TraceTopic, explain, inject};
use kermode_model::KubernetesVersion;
use serde_json::{Value, json};

use crate::fixture::Fixture;

const ANNOTATION: &str = "kuma.io/application-stop-delay";

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.set_api_server_version(Some(KubernetesVersion::new(1, 34)));
    settings
}

/// Makes a Pod with a container `app`, a grace period of 30 s, and the members of `spec`. `delay` is the value of the
/// annotation.
fn mk_pod(delay: Option<&str>, spec: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p", "labels": {"kuma.io/sidecar-injection": "enabled"}, "annotations": {}},
        "spec": {"terminationGracePeriodSeconds": 30, "containers": [{"name": "app", "image": "x"}]},
    });
    pod["spec"]
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    if let Some(delay) = delay {
        pod["metadata"]["annotations"][ANNOTATION] = delay.into();
    }
    pod
}

fn inject_with(pod: &Value, settings: &Settings, fixture: &Fixture) -> (Value, Injection) {
    let outcome = fixture.with(|context| inject(pod, settings, context));
    let Ok(Outcome::Injected(injection)) = outcome else {
        panic!("{outcome:?}");
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).unwrap();
    (after, injection)
}

/// Returns the lifecycle of the container `app` after injection, and the warnings about the delay.
fn lifecycle_of(pod: &Value, settings: &Settings) -> (Value, Vec<String>) {
    let (after, injection) = inject_with(pod, settings, &Fixture::default());
    let containers = after["spec"]["containers"].as_array().unwrap();
    let app = containers.iter().find(|container| container["name"] == "app");
    let warnings = injection.warnings.into_iter();
    let warnings = warnings.filter(|warning| warning.contains(ANNOTATION)).collect();
    (app.expect("app")["lifecycle"].clone(), warnings)
}

fn sleep(seconds: u64) -> Value {
    json!({"preStop": {"sleep": {"seconds": seconds}}})
}

#[test]
fn container_without_a_pre_stop_hook_sleeps_for_five_seconds() {
    assert_eq!(
        lifecycle_of(&mk_pod(None, json!({})), &settings()),
        (sleep(5), vec![])
    );
    let with_post_start = json!({"containers": [
        {"name": "app", "image": "x", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}},
    ]});
    let (lifecycle, _) = lifecycle_of(&mk_pod(None, with_post_start), &settings());
    assert_eq!(lifecycle["preStop"], sleep(5)["preStop"]);
    assert!(lifecycle["postStart"].is_object());
}

#[test]
fn pre_stop_hook_of_the_application_is_kept() {
    let hook = json!({"exec": {"command": ["/bin/sleep", "15"]}});
    let containers = json!({"containers": [
        {"name": "app", "image": "x", "lifecycle": {"preStop": hook}},
        {"name": "other", "image": "x", "lifecycle": {"preStop": null}},
    ]});
    let (after, _) = inject_with(&mk_pod(Some("3s"), containers), &settings(), &Fixture::default());
    let lifecycle = |name: &str| {
        let containers = after["spec"]["containers"].as_array().unwrap();
        containers
            .iter()
            .find(|container| container["name"] == name)
            .unwrap()["lifecycle"]
            .clone()
    };
    assert_eq!(lifecycle("app"), json!({"preStop": hook}));
    assert_eq!(lifecycle("other"), sleep(3));
}

#[test]
fn annotation_overrides_the_setting_and_zero_adds_no_hook() {
    for (delay, expected) in [
        ("8s", sleep(8)),
        ("1500ms", sleep(2)),
        ("0s", Value::Null),
        ("10s", sleep(10)),
    ] {
        let pod = mk_pod(Some(delay), json!({}));
        assert_eq!(lifecycle_of(&pod, &settings()), (expected, vec![]), "{delay}");
    }
    let off = Settings {
        application_stop_delay: Duration::ZERO,
        ..settings()
    };
    assert_eq!(lifecycle_of(&mk_pod(None, json!({})), &off).0, Value::Null);
}

#[test]
fn delay_is_at_most_a_third_of_the_grace_period() {
    for (grace_period, delay, expected, warns) in [
        (30, Some("11s"), sleep(10), true),
        (9, None, sleep(3), false),
        (2, None, Value::Null, false),
        (0, Some("1s"), Value::Null, true),
    ] {
        let pod = mk_pod(delay, json!({"terminationGracePeriodSeconds": grace_period}));
        let (lifecycle, warnings) = lifecycle_of(&pod, &settings());
        assert_eq!(
            (lifecycle, !warnings.is_empty()),
            (expected, warns),
            "{grace_period}"
        );
    }
}

#[test]
fn pod_that_is_not_always_restarted_gets_the_hook_only_by_annotation() {
    for policy in ["Never", "OnFailure"] {
        let spec = json!({"restartPolicy": policy});
        assert_eq!(
            lifecycle_of(&mk_pod(None, spec.clone()), &settings()).0,
            Value::Null
        );
        assert_eq!(lifecycle_of(&mk_pod(Some("4s"), spec), &settings()).0, sleep(4));
    }
}

#[test]
fn restart_policy_of_a_container_takes_the_place_of_that_of_its_pod() {
    for (pod_policy, container_policy, expected) in [
        ("Never", json!("Always"), sleep(5)),
        ("Always", json!("Never"), Value::Null),
        ("Always", json!("OnFailure"), Value::Null),
        ("Always", json!(null), sleep(5)),
    ] {
        let container = json!({"name": "app", "image": "x", "restartPolicy": container_policy});
        let spec = json!({"restartPolicy": pod_policy, "containers": [container]});
        let (lifecycle, _) = lifecycle_of(&mk_pod(None, spec), &settings());
        assert_eq!(lifecycle, expected, "{pod_policy} {container_policy}");
    }
}

#[test]
fn delay_is_at_most_a_third_of_the_grace_period_of_a_probe() {
    for (delay, probe, grace_period, expected, warns) in [
        (None, "livenessProbe", 9, sleep(3), false),
        (Some("5s"), "startupProbe", 9, sleep(3), true),
        (Some("5s"), "livenessProbe", 15, sleep(5), false),
        (None, "livenessProbe", 2, Value::Null, false),
        // The API server rejects this field of a readiness probe. The failure of such a probe runs no hook.
        (None, "readinessProbe", 9, sleep(5), false),
    ] {
        let container = json!({
            "name": "app", "image": "x",
            probe: {"exec": {"command": ["true"]}, "terminationGracePeriodSeconds": grace_period},
        });
        let pod = mk_pod(delay, json!({"containers": [container]}));
        let (lifecycle, warnings) = lifecycle_of(&pod, &settings());
        assert_eq!(
            (lifecycle, !warnings.is_empty()),
            (expected, warns),
            "{probe} {grace_period}"
        );
    }
}

#[test]
fn cluster_without_sleep_hooks_gets_none_and_an_annotation_gives_a_warning() {
    let old_node = Fixture {
        oldest_node: Some(KubernetesVersion::new(1, 29)),
        ..Fixture::default()
    };
    let mut old_api_server = Settings::default();
    old_api_server.set_api_server_version(Some(KubernetesVersion::new(1, 29)));
    for (settings, fixture) in [(&settings(), &old_node), (&old_api_server, &Fixture::default())] {
        for (delay, warns) in [(None, false), (Some("5s"), true)] {
            let (after, injection) = inject_with(&mk_pod(delay, json!({})), settings, fixture);
            assert!(!after["spec"]["containers"].to_string().contains("sleep"));
            let warned = injection.warnings.iter().any(|warning| warning.contains("1.30"));
            assert_eq!(warned, warns, "{:?}", injection.warnings);
        }
    }
}

#[test]
fn hook_longer_than_the_grace_period_or_the_drain_of_a_classic_sidecar_gives_a_warning() {
    let classic = Settings::default();
    for (command, annotation, settings, warning) in [
        (["/bin/sleep", "15"], "25s", &classic, None),
        (
            ["/bin/sleep", "15"],
            "10s",
            &classic,
            Some("after its drain time of 10s"),
        ),
        (["/bin/sleep", "15"], "10s", &settings(), None),
        (
            ["sleep", "30s"],
            "10s",
            &settings(),
            Some("after the grace period of 30s"),
        ),
        (["sleep", "long"], "10s", &classic, None),
    ] {
        let hook = json!({"exec": {"command": command}});
        let containers =
            json!({"containers": [{"name": "app", "image": "x", "lifecycle": {"preStop": hook}}]});
        let mut pod = mk_pod(None, containers);
        pod["metadata"]["annotations"]["kuma.io/sidecar-drain-time"] = annotation.into();
        let (_, injection) = inject_with(&pod, settings, &Fixture::default());
        let found: Vec<_> = injection
            .warnings
            .iter()
            .filter(|warning| warning.starts_with("container app: its preStop hook"))
            .collect();
        match warning {
            Some(text) => assert!(found.len() == 1 && found[0].contains(text), "{found:?}"),
            None => assert!(found.is_empty(), "{command:?} {annotation}: {found:?}"),
        }
    }
}

/// Returns the environment variable of the sidecar.
fn variable<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let lists = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array());
    let mut containers = lists.into_iter().flatten().flatten();
    let sidecar = containers.find(|container| container["name"] == "kuma-sidecar");
    let variables = sidecar.expect("a sidecar")["env"].as_array().unwrap();
    let variable = variables.iter().find(|variable| variable["name"] == name);
    variable.and_then(|variable| variable["value"].as_str())
}

#[test]
fn application_stops_before_its_classic_sidecar() {
    for (drain_time, grace_period, expected) in [
        (None, 30, sleep(5)),
        (Some("9s"), 30, sleep(3)),
        (Some("2s"), 30, Value::Null),
        (None, 10, sleep(1)),
        (None, 7, Value::Null),
    ] {
        let mut pod = mk_pod(None, json!({"terminationGracePeriodSeconds": grace_period}));
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["kuma.io/sidecar-mode"] = "classic".into();
        if let Some(drain_time) = drain_time {
            annotations["kuma.io/sidecar-drain-time"] = drain_time.into();
        }
        let (lifecycle, _) = lifecycle_of(&pod, &settings());
        assert_eq!(lifecycle, expected, "{drain_time:?} {grace_period}");
        let (_, injection) = inject_with(&pod, &settings(), &Fixture::default());
        let hook_warning = |warning: &&String| warning.starts_with("container app: its preStop hook");
        assert_eq!(injection.warnings.iter().find(hook_warning), None);
    }
}

#[test]
fn classic_sidecar_with_drain_mode_acknowledged_outlasts_the_known_hooks() {
    for (hook, expected) in [
        (json!(null), "7s"),
        (json!({"sleep": {"seconds": 12}}), "14s"),
        (json!({"exec": {"command": ["sh", "-c", "sleep 13"]}}), "15s"),
        // The duration of this hook is not known, so the drain lasts its whole time.
        (json!({"exec": {"command": ["/drain"]}}), "25s"),
    ] {
        let containers =
            json!({"containers": [{"name": "app", "image": "x", "lifecycle": {"preStop": hook}}]});
        let mut pod = mk_pod(None, containers);
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["kuma.io/sidecar-mode"] = "classic".into();
        annotations["kuma.io/drain-mode"] = "acknowledged".into();
        let (after, _) = inject_with(&pod, &settings(), &Fixture::default());
        assert_eq!(
            variable(&after, "KUMA_DATAPLANE_MIN_DRAIN_TIME"),
            Some(expected),
            "{hook}"
        );
        let again = Fixture::default().with(|context| inject(&after, &settings(), context));
        assert!(matches!(again, Ok(Outcome::Skipped(_))), "{again:?}");
    }
}

#[test]
fn native_sidecar_knows_the_grace_period_of_its_pod() {
    for (mode, grace_period, expected) in [
        ("native", json!(90), Some("1m30s")),
        ("native", json!(0), Some("0s")),
        ("native", json!(null), Some("30s")),
        ("native", json!(i64::MAX), None),
        ("classic", json!(90), None),
    ] {
        let mut pod = mk_pod(None, json!({"terminationGracePeriodSeconds": grace_period}));
        pod["metadata"]["annotations"]["kuma.io/sidecar-mode"] = mode.into();
        let (after, _) = inject_with(&pod, &settings(), &Fixture::default());
        let value = variable(&after, "KUMA_DATAPLANE_TERMINATION_GRACE_PERIOD");
        assert_eq!(value, expected, "{mode} {grace_period}");
    }
}

#[test]
fn drain_mode_that_the_sidecar_rejects_gives_a_warning() {
    for (variables, warns) in [
        ("KUMA_DATAPLANE_DRAIN_MODE=Acknowledged", true),
        ("KUMA_DATAPLANE_DRAIN_MODE=acknowledged", false),
        ("A=b", false),
    ] {
        let mut pod = mk_pod(None, json!({}));
        pod["metadata"]["annotations"]["kuma.io/sidecar-env-vars"] = variables.into();
        let (_, injection) = inject_with(&pod, &settings(), &Fixture::default());
        let warned = injection
            .warnings
            .iter()
            .any(|warning| warning.contains("will not start"));
        assert_eq!(warned, warns, "{variables}: {:?}", injection.warnings);
    }
}

#[test]
fn repeated_injection_follows_the_annotation_and_the_grace_period_of_now() {
    let (after, _) = inject_with(&mk_pod(None, json!({})), &settings(), &Fixture::default());
    for (pointer, value, expected) in [
        (
            "/metadata/annotations/kuma.io~1application-stop-delay",
            json!("0s"),
            Value::Null,
        ),
        (
            "/metadata/annotations/kuma.io~1application-stop-delay",
            json!("8s"),
            sleep(8),
        ),
        ("/spec/terminationGracePeriodSeconds", json!(3), sleep(1)),
    ] {
        let mut changed = after.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
        let (again, _) = inject_with(&changed, &settings(), &Fixture::default());
        let containers = again["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers[0]["lifecycle"], expected, "{pointer}");
        let is_recorded = again["metadata"]["annotations"]["kuma.io/application-stop-delayed"].is_string();
        assert_eq!(is_recorded, expected != Value::Null);
    }
}

#[test]
fn timeline_of_a_classic_sidecar_names_the_condition_of_drain_mode_acknowledged() {
    let mut pod = mk_pod(None, json!({}));
    let annotations = &mut pod["metadata"]["annotations"];
    annotations["kuma.io/sidecar-mode"] = "classic".into();
    annotations["kuma.io/drain-mode"] = "acknowledged".into();
    let explanation = Fixture::default().with(|context| explain(&pod, &settings(), context));
    let mut steps = explanation.steps.iter();
    let first = steps.find(|step| step.topic == TraceTopic::Termination);
    let text = &first.expect("a timeline").text;
    assert!(
        text.contains("acknowledged this") && text.ends_with("at most until 25s"),
        "{text}"
    );
}

#[test]
fn container_patch_that_replaces_the_hook_of_a_native_sidecar_gives_a_warning() {
    let patch = json!({"sidecarPatch": [
        {"op": "replace", "path": "/lifecycle", "value": r#"{"preStop": {"sleep": {"seconds": 5}}}"#},
    ]});
    let fixture = Fixture {
        patches: [("hook".to_owned(), serde_json::from_value(patch).unwrap())].into(),
        ..Fixture::default()
    };
    let mut pod = mk_pod(None, json!({}));
    pod["metadata"]["annotations"]["kuma.io/container-patches"] = "hook".into();
    let (_, injection) = inject_with(&pod, &settings(), &fixture);
    let is_warned = injection
        .warnings
        .iter()
        .any(|warning| warning.contains("kuma-dp drain"));
    assert!(is_warned, "{:?}", injection.warnings);
    let explanation = fixture.with(|context| explain(&pod, &settings(), context));
    let drains = |text: &str| text.contains("starts to drain");
    assert!(!explanation.steps.iter().any(|step| drains(&step.text)));
}

#[test]
fn explanation_shows_the_timeline_of_the_termination() {
    let explanation =
        Fixture::default().with(|context| explain(&mk_pod(None, json!({})), &settings(), context));
    let timeline: Vec<_> = explanation
        .steps
        .iter()
        .filter(|step| step.topic == TraceTopic::Termination)
        .map(|step| step.text.as_str())
        .collect();
    assert_eq!(
        timeline,
        [
            "at 0s, the endpoint leaves the clients' configuration, and the sidecar starts to drain",
            "at 5s, after its preStop hook, container app gets SIGTERM",
            "after the last container of the application, the sidecar ends; it waits at most 25s, and at most until 25s, for \
             responses and TCP connections that are in progress",
            "at 30s, Kubernetes kills the remaining containers",
        ]
    );
}

#[test]
fn repeated_injection_keeps_the_hook() {
    let pod = mk_pod(None, json!({}));
    let (after, _) = inject_with(&pod, &settings(), &Fixture::default());
    let again = Fixture::default().with(|context| inject(&after, &settings(), context));
    assert!(matches!(again, Ok(Outcome::Skipped(_))), "{again:?}");
}
