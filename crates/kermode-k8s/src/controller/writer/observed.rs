//! What is kept of a Dataplane from the API server: enough to see that it differs from what it should be.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kermode_crds::{Dataplane, InboundsStatus, condition};
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use crate::convert::LABELS;

/// A Dataplane as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDataplane {
    pub(super) content: Content,
    pub(super) status: Option<CountedStatus>,
    /// Whether a Pod owns it. Those that people write themselves are left alone.
    pub(super) generated: bool,
    /// Orders what is told of the object by the watch and by answers to writes.
    pub(super) version: u64,
}

/// Everything that we write, as hashes: equal objects have equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Labels, mesh, spec and owner.
    pub(super) whole: u64,
    /// The same without the health of inbounds.
    pub(super) shape: u64,
}

/// The leader's part of the status, as hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CountedStatus {
    /// Inbounds and the condition, its time aside.
    pub(super) hash: u64,
    /// Whether the condition holds, and since when.
    pub(super) ready: Option<(bool, Time)>,
}

impl ObservedDataplane {
    /// What matters of an object from the watch.
    pub fn new(object: &DynamicObject) -> Self {
        let owner = object
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.kind == "Pod");
        let mesh = object
            .data
            .get("mesh")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        let labels = object.metadata.labels.as_ref();
        let version = object.metadata.resource_version.as_deref().unwrap_or_default();
        Self {
            content: Content::new(labels, mesh, spec, owner.map_or("", |owner| &owner.uid)),
            status: object.data.get("status").and_then(CountedStatus::read),
            generated: owner.is_some(),
            version: version.parse().unwrap_or_default(),
        }
    }
}

impl Content {
    pub(super) fn of(object: &Dataplane, spec: &Value, pod_uid: &str) -> Self {
        Self::new(object.metadata.labels.as_ref(), &object.mesh, spec, pod_uid)
    }

    /// Labels that are not ours are others' business.
    fn new(labels: Option<&BTreeMap<String, String>>, mesh: &str, spec: &Value, pod_uid: &str) -> Self {
        let hash = |blind: bool| {
            let mut hasher = DefaultHasher::new();
            for key in LABELS {
                labels.and_then(|labels| labels.get(key)).hash(&mut hasher);
            }
            mesh.hash(&mut hasher);
            pod_uid.hash(&mut hasher);
            hash_value(spec, 0, blind, &mut hasher);
            hasher.finish()
        };
        Self {
            whole: hash(false),
            shape: hash(true),
        }
    }
}

impl CountedStatus {
    pub(super) fn new(inbounds: &InboundsStatus, ready: Option<&Condition>) -> Self {
        let mut hasher = DefaultHasher::new();
        let InboundsStatus {
            ready: number,
            total,
            summary,
            services,
        } = inbounds;
        (number, total, summary, services).hash(&mut hasher);
        if let Some(ready) = ready {
            (&ready.status, &ready.reason, &ready.message).hash(&mut hasher);
        }
        Self {
            hash: hasher.finish(),
            ready: ready.map(|ready| (ready.status == "True", ready.last_transition_time.clone())),
        }
    }

    fn read(status: &Value) -> Option<Self> {
        let inbounds = InboundsStatus::deserialize(status.get("inbounds")?).ok()?;
        let conditions = status.get("conditions").and_then(Value::as_array);
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == condition::READY)
            .and_then(|condition| Condition::deserialize(condition).ok());
        Some(Self::new(&inbounds, ready.as_ref()))
    }
}

/// How deep `spec.networking.inbound[*]` lies in a spec.
const INBOUND: usize = 3;

/// Hashes a value, the order of members aside; `blind` to the health of inbounds.
fn hash_value(value: &Value, depth: usize, blind: bool, hasher: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(value) => value.hash(hasher),
        Value::Number(number) => number.hash(hasher),
        Value::String(text) => text.hash(hasher),
        Value::Array(items) => {
            items.len().hash(hasher);
            for item in items {
                hash_value(item, depth + 1, blind, hasher);
            }
        }
        Value::Object(members) => {
            let seen = members
                .iter()
                .filter(|(name, _)| !(blind && depth == INBOUND && *name == "health"));
            let sum = seen
                .map(|(name, member)| {
                    let mut hasher = DefaultHasher::new();
                    name.hash(&mut hasher);
                    hash_value(member, depth + 1, blind, &mut hasher);
                    hasher.finish()
                })
                .fold(0_u64, u64::wrapping_add);
            sum.hash(hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn content(spec: Value) -> Content {
        Content::new(None, "default", &spec, "uid")
    }

    fn spec(health: Value, tags: Value) -> Value {
        json!({"networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "health": health, "tags": tags}]}})
    }

    #[test]
    fn health_changes_the_whole_but_not_the_shape() {
        let tags = json!({"a": "b"});
        let (up, down) = (
            content(spec(json!({"ready": true}), tags.clone())),
            content(spec(json!({}), tags)),
        );
        assert_ne!(up.whole, down.whole);
        assert_eq!(up.shape, down.shape);
    }

    #[test]
    fn a_tag_called_health_belongs_to_the_shape() {
        let health = json!({"ready": true});
        let (good, bad) = (
            content(spec(health.clone(), json!({"health": "good"}))),
            content(spec(health, json!({"health": "bad"}))),
        );
        assert_ne!(good.shape, bad.shape);
    }

    #[test]
    fn our_labels_count_and_others_do_not() {
        let with = |key: &str| {
            let labels = BTreeMap::from([(key.to_owned(), "x".to_owned())]);
            Content::new(Some(&labels), "default", &json!({}), "uid")
        };
        let without = Content::new(None, "default", &json!({}), "uid");
        assert_ne!(with("kuma.io/mesh"), without);
        assert_eq!(with("team"), without);
    }

    #[test]
    fn moving_a_value_to_another_member_is_a_change() {
        assert_ne!(
            content(json!({"a": 1, "b": 2})).whole,
            content(json!({"a": 2, "b": 1})).whole
        );
        assert_ne!(
            content(json!({"a": [1, 2]})).whole,
            content(json!({"a": [2, 1]})).whole
        );
        assert_eq!(
            content(json!({"a": 1, "b": 2})).whole,
            content(json!({"b": 2, "a": 1})).whole
        );
    }
}
