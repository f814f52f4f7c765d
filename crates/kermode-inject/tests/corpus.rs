//! Injection of the Pods of the corpus (`tests/corpus`): each Pod has the outcome that its annotations name, an
//! injected Pod loses nothing and is not injected a second time, and the corpus contains every field of PodSpec.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic fails the test"
)]

mod fixture;

use std::collections::BTreeSet;

use kermode_corpus::{
    CONTAINER_LISTS, Corpus, MESSAGE, MESSAGE_IN_CLASSIC_MODE, OUTCOME, PROBES, annotation, lost,
    lost_by_injection, name,
};
use kermode_inject::settings::SidecarMode;
use kermode_inject::{Denial, Injection, Outcome, Settings, SkipReason, inject};
use serde_json::{Map, Value};

use crate::fixture::Fixture;

/// Types of a Pod whose fields the corpus need not contain.
const EXCLUDED_TYPES: [&str; 2] = [
    // The API server rejects a new Pod that has ephemeral containers.
    "EphemeralContainer",
    // Metadata of the claim of an ephemeral volume: the API server accepts labels and annotations.
    "ObjectMeta",
];
/// Fields that the API server accepts in no new Pod.
const EXCLUDED_FIELDS: [&str; 1] = ["PodSpec.ephemeralContainers"];

/// Settings of all placements: native or classic, with `kuma-init` or with the CNI plugin.
fn all_settings() -> Vec<Settings> {
    let mut all = Vec::new();
    for sidecar_mode in [SidecarMode::Native, SidecarMode::Classic] {
        for cni_enabled in [false, true] {
            all.push(Settings {
                sidecar_mode,
                cni_enabled,
                native_sidecars_supported: true,
                ..Settings::default()
            });
        }
    }
    all
}

/// Calls `check` with each Pod of the corpus, each of [`all_settings`], and the Namespace of the Pod.
fn for_each_pod(mut check: impl FnMut(&Value, &Settings, &Fixture)) {
    let corpus = Corpus::read().unwrap();
    for pod in &corpus.pods {
        let namespace = corpus.namespace_of(pod).expect("the Namespace of the Pod");
        let map =
            |name: &str| serde_json::from_value(namespace["metadata"][name].clone()).unwrap_or_default();
        let fixture = Fixture {
            namespace: namespace["metadata"]["name"].as_str().expect("a name").to_owned(),
            labels: map("labels"),
            annotations: map("annotations"),
            ..Fixture::default()
        };
        for settings in all_settings() {
            check(pod, &settings, &fixture);
        }
    }
}

fn run(pod: &Value, settings: &Settings, fixture: &Fixture) -> Result<Outcome, Denial> {
    fixture.with(|context| inject(pod, settings, context))
}

/// Calls `check` with each Pod that is injected: the Pod before injection, the Pod after injection, the settings and
/// the Namespace.
fn for_each_injected_pod(mut check: impl FnMut(&Value, &Value, &Settings, &Fixture)) {
    let mut count = 0;
    for_each_pod(|pod, settings, fixture| {
        if let Ok(Outcome::Injected(injection)) = run(pod, settings, fixture) {
            check(pod, &patched(pod, &injection), settings, fixture);
            count += 1;
        }
    });
    assert!(count >= 300, "only {count} injections");
}

fn patched(pod: &Value, injection: &Injection) -> Value {
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
    after
}

/// Returns the reason and the messages of an outcome; the reason of an injection is empty.
fn describe(outcome: Result<Outcome, Denial>) -> (&'static str, Vec<String>) {
    match outcome {
        Ok(Outcome::Injected(injection)) => ("", injection.warnings),
        Ok(Outcome::Skipped(reason)) => (reason.as_str(), reason.warning().into_iter().collect()),
        Err(denial) => (denial.reason(), vec![denial.to_string()]),
    }
}

/// Returns the warning about each injected Pod of a Namespace that enforces a profile of Pod Security. Each profile
/// that the corpus contains forbids `kuma-init`.
fn pod_security_warning(settings: &Settings, namespace: &Fixture) -> Option<String> {
    let profile = namespace.labels.get("pod-security.kubernetes.io/enforce")?;
    (!settings.cni_enabled).then(|| {
        format!(
            "kuma-init needs NET_ADMIN and NET_RAW, which Pod Security {profile} forbids: use the CNI plugin"
        )
    })
}

/// Returns the expected part of the message about a Pod; `None` if no message is expected.
fn expected_message<'p>(pod: &'p Value, settings: &Settings) -> Option<&'p str> {
    let in_classic_mode = (settings.sidecar_mode == SidecarMode::Classic)
        .then(|| annotation(pod, MESSAGE_IN_CLASSIC_MODE))
        .flatten();
    in_classic_mode.or_else(|| annotation(pod, MESSAGE))
}

#[test]
fn each_pod_has_the_outcome_and_the_message_of_its_annotations() {
    let mut failures = BTreeSet::new();
    for_each_pod(|pod, settings, fixture| {
        let (reason, mut messages) = describe(run(pod, settings, fixture));
        let expected = annotation(pod, OUTCOME).unwrap_or_default();
        let mut has_expected_messages = true;
        if let Some(warning) = pod_security_warning(settings, fixture) {
            has_expected_messages &= !reason.is_empty() || messages.contains(&warning);
            messages.retain(|message| *message != warning);
        }
        has_expected_messages &= match expected_message(pod, settings) {
            Some(part) => messages.iter().any(|message| message.contains(part)),
            None => messages.is_empty(),
        };
        if reason != expected || !has_expected_messages {
            failures.insert(format!("{}: {reason:?} {messages:?}", name(pod)));
        }
    });
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn injected_pod_loses_nothing_but_the_targets_of_its_probes() {
    let mut failures = BTreeSet::new();
    for_each_injected_pod(|pod, after, _, _| {
        let lost = lost_by_injection(pod, after);
        failures.extend(lost.iter().map(|path| format!("{}: {path}", name(pod))));
    });
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn injected_pod_is_not_injected_again() {
    for_each_injected_pod(|pod, after, settings, fixture| {
        let again = run(after, settings, fixture);
        assert_eq!(
            again,
            Ok(Outcome::Skipped(SkipReason::AlreadyInjected)),
            "{}",
            name(pod)
        );
    });
}

#[test]
fn pod_that_is_injected_again_with_other_settings_gets_the_sidecar_of_these_settings() {
    for_each_injected_pod(|pod, after, _, fixture| {
        for settings in all_settings() {
            let once = patched(pod, &injection(pod, &settings, fixture));
            let twice = match run(after, &settings, fixture) {
                Ok(Outcome::Injected(injection)) => patched(after, &injection),
                Ok(Outcome::Skipped(_)) => after.clone(),
                Err(denial) => panic!("{}: {denial}", name(pod)),
            };
            let mut lost = lost(&once["spec"], &twice["spec"]);
            lost.retain(|path| !is_port_name(&once["spec"], path));
            assert_eq!(lost, Vec::<String>::new(), "{}", name(pod));
        }
    });
}

/// Whether a value is the name of a probe's port. Injection restores a rewritten probe with the number of the port.
fn is_port_name(spec: &Value, path: &str) -> bool {
    let value = spec.pointer(path);
    path.contains("/startupProbe/") && path.ends_with("/port") && value.is_some_and(Value::is_string)
}

fn injection(pod: &Value, settings: &Settings, fixture: &Fixture) -> Injection {
    match run(pod, settings, fixture) {
        Ok(Outcome::Injected(injection)) => injection,
        other => panic!("{}: {other:?}", name(pod)),
    }
}

// Completeness of the corpus

/// The schema of a Pod, and the fields that the visited Pods have.
struct Schema {
    /// Types by name. An object type is a map from the names of its fields to their types: `[]T` is a list of `T`, and
    /// `{}T` a map with values of type `T`.
    types: Map<String, Value>,
    /// Visited fields of the schema, as `Type.field`.
    found: BTreeSet<String>,
    /// Visited fields that the schema lacks, as `Type.field`.
    unknown: BTreeSet<String>,
}

impl Schema {
    fn read() -> Self {
        let mut schema: Value = serde_json::from_str(include_str!("pod/schema.json")).unwrap();
        Self {
            types: schema["types"].take().as_object().expect("types").clone(),
            found: BTreeSet::new(),
            unknown: BTreeSet::new(),
        }
    }

    /// Returns the fields of a type; `None` if it is not an object with fields.
    fn fields(&self, type_name: &str) -> Option<Map<String, Value>> {
        self.types.get(type_name)?.as_object().cloned()
    }

    /// Records the fields of a value and of its members.
    fn visit(&mut self, type_name: &str, value: &Value) {
        if let Some(item) = type_name.strip_prefix("[]") {
            value
                .as_array()
                .into_iter()
                .flatten()
                .for_each(|value| self.visit(item, value));
        } else if let Some(member) = type_name.strip_prefix("{}") {
            value
                .as_object()
                .into_iter()
                .flat_map(Map::values)
                .for_each(|value| self.visit(member, value));
        } else if let (Some(fields), Some(members)) = (self.fields(type_name), value.as_object()) {
            for (name, member) in members {
                let field = format!("{type_name}.{name}");
                if let Some(field_type) = fields.get(name) {
                    self.found.insert(field);
                    self.visit(field_type.as_str().expect("a type"), member);
                } else {
                    self.unknown.insert(field);
                }
            }
        }
    }

    /// Returns all fields of a type and of the types of its fields.
    fn all_fields(&self, type_name: &str, visited: &mut BTreeSet<String>) -> BTreeSet<String> {
        let type_name = type_name.trim_start_matches("[]").trim_start_matches("{}");
        let mut all = BTreeSet::new();
        if EXCLUDED_TYPES.contains(&type_name) || !visited.insert(type_name.to_owned()) {
            return all;
        }
        for (name, field_type) in self.fields(type_name).into_iter().flatten() {
            all.insert(format!("{type_name}.{name}"));
            all.extend(self.all_fields(field_type.as_str().expect("a type"), visited));
        }
        all
    }
}

#[test]
fn corpus_has_every_field_of_pod_spec_and_no_unknown_field() {
    let mut schema = Schema::read();
    for pod in Corpus::read().unwrap().pods {
        schema.visit("PodSpec", &pod["spec"]);
    }
    let all = schema.all_fields("PodSpec", &mut BTreeSet::new());
    assert!(all.len() > 400, "only {} fields", all.len());
    let missing: Vec<&String> = all
        .difference(&schema.found)
        .filter(|field| !EXCLUDED_FIELDS.contains(&field.as_str()))
        .collect();
    assert!(missing.is_empty(), "missing in the corpus: {missing:#?}");
    assert!(
        schema.unknown.is_empty(),
        "not in the schema: {:#?}",
        schema.unknown
    );
}

/// Returns two texts for each field of each probe of a container: `<list> <probe> <field>` and `<list> <field>`. The
/// field `httpGet` with scheme HTTPS is `httpGets`.
fn forms_of_probes(list: &str, container: &Value) -> Vec<String> {
    let mut forms = Vec::new();
    for probe in PROBES {
        for (field, value) in container[probe].as_object().into_iter().flatten() {
            let suffix = if value["scheme"] == "HTTPS" { "s" } else { "" };
            forms.push(format!("{list} {probe} {field}{suffix}"));
            forms.push(format!("{list} {field}{suffix}"));
        }
    }
    forms
}

#[test]
fn corpus_has_every_form_of_probe_and_every_kind_of_owner() {
    let corpus = Corpus::read().unwrap();
    let (mut probes, mut owners) = (BTreeSet::new(), BTreeSet::new());
    for pod in &corpus.pods {
        for list in CONTAINER_LISTS {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                probes.extend(forms_of_probes(list, container));
            }
        }
        let owner_references = pod["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten();
        owners.extend(owner_references.filter_map(|owner| owner["kind"].as_str()));
    }
    for handler in ["exec", "httpGet", "httpGets", "tcpSocket", "grpc"] {
        for probe in PROBES {
            assert!(
                probes.contains(&format!("containers {probe} {handler}")),
                "{probe} {handler}"
            );
        }
        assert!(probes.contains(&format!("initContainers {handler}")), "{handler}");
    }
    for owner in [
        "CronJob",
        "DaemonSet",
        "Deployment",
        "Job",
        "Node",
        "Pod",
        "ReplicaSet",
        "ReplicationController",
        "Rollout",
        "StatefulSet",
    ] {
        assert!(owners.contains(owner), "{owner}");
    }
}
