//! Tests of the decision to inject a Pod, its warnings and its denials (docs/reference/injection.md#decision).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

mod fixture;

use std::collections::BTreeMap;

use kermode_inject::{Denial, Injection, InjectionSource, Obstacle, Outcome, Settings, SkipReason, inject};
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// Key of the labels and annotations that request injection.
const KEY: &str = "kuma.io/sidecar-injection";

fn decide(pod: &Value, fixture: &Fixture) -> Result<Outcome, Denial> {
    fixture.with(|context| inject(pod, &Settings::default(), context))
}

fn mk_pod() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "app", "image": "x"}]}})
}

fn expect_injected(outcome: Result<Outcome, Denial>) -> Injection {
    match outcome {
        Ok(Outcome::Injected(injection)) => injection,
        other => panic!("not injected: {other:?}"),
    }
}

/// Decides on a Pod and a Namespace with these values of [`KEY`]: Pod label, Pod annotation, Namespace label, Namespace
/// annotation.
fn decide_with(values: [Option<&str>; 4]) -> Result<Outcome, Denial> {
    let mut pod = mk_pod();
    for (map, value) in ["labels", "annotations"].into_iter().zip(values) {
        if let Some(value) = value {
            pod["metadata"][map] = json!({KEY: value});
        }
    }
    let map = |value: Option<&str>| -> BTreeMap<String, String> {
        value
            .into_iter()
            .map(|value| (KEY.to_owned(), value.to_owned()))
            .collect()
    };
    let fixture = Fixture {
        labels: map(values[2]),
        annotations: map(values[3]),
        ..Fixture::default()
    };
    decide(&pod, &fixture)
}

#[test]
fn first_source_with_the_key_decides() {
    let sources = [
        InjectionSource::PodLabel,
        InjectionSource::PodAnnotation,
        InjectionSource::NamespaceLabel,
        InjectionSource::NamespaceAnnotation,
    ];
    for (first, source) in sources.into_iter().enumerate() {
        for (value, opposite, enabled) in [
            ("enabled", "disabled", true),
            ("true", "false", true),
            ("false", "true", false),
        ] {
            let mut values = [None; 4];
            values[first] = Some(value);
            // Later sources are ignored, even if their value is invalid.
            if let Some(next) = values.get_mut(first + 1) {
                *next = Some(opposite);
            }
            if let Some(after_next) = values.get_mut(first + 2) {
                *after_next = Some("nonsense");
            }
            match decide_with(values).unwrap() {
                Outcome::Injected(injection) => assert!(enabled && injection.source == source, "{values:?}"),
                Outcome::Skipped(reason) => {
                    assert!(!enabled && reason == SkipReason::Disabled(source), "{values:?}");
                }
            }
        }
    }
    assert_eq!(
        decide_with([None; 4]),
        Ok(Outcome::Skipped(SkipReason::NotRequested))
    );
}

#[test]
fn denial_of_a_wrong_value_names_key_value_and_object() {
    for (index, (noun, object)) in [
        ("label", "Pod shop/p"),
        ("annotation", "Pod shop/p"),
        ("label", "Namespace shop"),
        ("annotation", "Namespace shop"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut values = [None; 4];
        values[index] = Some("yes");
        let denial = decide_with(values).unwrap_err();
        let text = denial.to_string();
        assert_eq!(denial.reason(), "WrongValue");
        let expected = format!("{noun} \"kuma.io/sidecar-injection\" has wrong value \"yes\" (on {object})");
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[test]
fn mesh_of_pod_or_namespace_must_exist() {
    let mut pod = mk_pod();
    pod["metadata"]["labels"] = json!({KEY: "enabled"});
    let namespace = |mesh: &str| Fixture {
        annotations: BTreeMap::from([("kuma.io/mesh".to_owned(), mesh.to_owned())]),
        ..Fixture::default()
    };
    let denial = decide(&pod, &namespace("other")).unwrap_err();
    assert_eq!(
        denial.to_string(),
        "Mesh \"other\" not found: create it, or correct annotation kuma.io/mesh of Namespace shop"
    );
    assert_eq!(expect_injected(decide(&pod, &namespace(""))).mesh, "default");
    pod["metadata"]["annotations"] = json!({"kuma.io/mesh": "default"});
    assert_eq!(expect_injected(decide(&pod, &namespace("other"))).mesh, "default");
    pod["metadata"]["labels"]["kuma.io/mesh"] = "third".into();
    let denial = decide(&pod, &namespace("other")).unwrap_err();
    assert!(
        denial
            .to_string()
            .ends_with("or correct label kuma.io/mesh of Pod shop/p"),
        "{denial}"
    );
}

#[test]
fn label_value_other_than_enabled_gives_a_warning() {
    let mut pod = mk_pod();
    // The default drain time of 30 s fits into this grace period, so it gives no other warning.
    pod["spec"]["terminationGracePeriodSeconds"] = 60.into();
    for (value, warnings) in [("enabled", 0), ("true", 1)] {
        pod["metadata"]["labels"] = json!({KEY: value});
        assert_eq!(
            expect_injected(decide(&pod, &Fixture::default())).warnings.len(),
            warnings,
            "{value}"
        );
    }
}

/// Returns Pods that cannot carry a sidecar, each with its obstacle. Also asserts that a node affinity that admits
/// Linux is no obstacle.
fn pods_with_obstacles() -> Vec<(Value, Obstacle)> {
    let with = |spec: Value| {
        let mut pod = mk_pod();
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        pod
    };
    let affinity = |values: Value| {
        let os = json!({"key": "kubernetes.io/os", "operator": "In", "values": values});
        let terms = json!([{"matchExpressions": [os]}]);
        json!({"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    };
    let mut mirror = mk_pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "5f1c"});
    let unobstructed = decide(
        &with(affinity(json!(["windows", "linux"]))),
        &labelled_namespace(),
    );
    expect_injected(unobstructed);
    vec![
        (with(json!({"hostNetwork": true})), Obstacle::HostNetwork),
        (mirror, Obstacle::MirrorPod),
        (with(json!({"os": {"name": "windows"}})), Obstacle::Windows),
        (
            with(json!({"nodeSelector": {"kubernetes.io/os": "windows"}})),
            Obstacle::Windows,
        ),
        (
            with(json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}})),
            Obstacle::Windows,
        ),
        (with(affinity(json!(["windows"]))), Obstacle::Windows),
    ]
}

fn labelled_namespace() -> Fixture {
    Fixture {
        labels: BTreeMap::from([(KEY.to_owned(), "enabled".to_owned())]),
        ..Fixture::default()
    }
}

#[test]
fn pod_that_cannot_carry_a_sidecar_is_skipped_with_a_warning_if_its_namespace_requests_injection() {
    let annotated = Fixture {
        annotations: labelled_namespace().labels,
        ..Fixture::default()
    };
    for (pod, obstacle) in pods_with_obstacles() {
        for fixture in [&labelled_namespace(), &annotated] {
            let outcome = decide(&pod, fixture);
            let reason = SkipReason::CannotCarrySidecar(obstacle);
            assert_eq!(outcome, Ok(Outcome::Skipped(reason)), "{pod}");
            assert_eq!(
                reason.warning(),
                Some(format!("the Pod gets no sidecar: {obstacle}"))
            );
        }
        assert_eq!(
            decide(&pod, &Fixture::default()),
            Ok(Outcome::Skipped(SkipReason::NotRequested))
        );
    }
}

#[test]
fn pod_that_cannot_carry_a_sidecar_is_denied_if_it_requests_injection_itself() {
    for (mut pod, obstacle) in pods_with_obstacles() {
        for map in ["labels", "annotations"] {
            pod["metadata"][map][KEY] = "enabled".into();
            let denial = decide(&pod, &Fixture::default()).expect_err("denied");
            assert_eq!(denial.reason(), obstacle.as_str());
            let text = denial.to_string();
            let noun = map.trim_end_matches('s');
            assert!(
                text.starts_with(&format!("{noun} {KEY} of Pod shop/p"))
                    && text.contains(&obstacle.to_string()),
                "{text}"
            );
            pod["metadata"][map].as_object_mut().unwrap().remove(KEY);
        }
        pod["metadata"]["labels"][KEY] = "disabled".into();
        let skipped = SkipReason::Disabled(InjectionSource::PodLabel);
        assert_eq!(decide(&pod, &labelled_namespace()), Ok(Outcome::Skipped(skipped)));
    }
}

#[test]
fn malformed_pod_is_denied_with_the_path_of_the_field() {
    for (pod, path) in [
        (json!([]), "/: expected an object"),
        (json!({}), "/spec: expected an object"),
        (
            json!({"spec": {"containers": null}}),
            "/spec/containers: expected a list",
        ),
        (
            json!({"spec": {"containers": [1]}}),
            "/spec/containers/0: expected an object",
        ),
        (
            json!({"metadata": {"labels": {"a/b": 1}}, "spec": {"containers": []}}),
            "/metadata/labels/a~1b: expected a string",
        ),
        (
            json!({"spec": {"containers": [], "volumes": {}}}),
            "/spec/volumes: expected a list",
        ),
    ] {
        let text = decide(&pod, &Fixture::default()).unwrap_err().to_string();
        assert!(text.contains(path), "{text}");
    }
}
