//! Observed state of Dataplanes: hashes that show whether a Dataplane differs from its desired state.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kermode_crds::{Dataplane, InboundsStatus, condition};
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use crate::convert::MANAGED_LABELS;

/// State of a Dataplane in the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedDataplane {
    pub(super) content: ContentHash,
    /// The leader's part of the status; `None` if it has not been written.
    pub(super) status: Option<StatusHash>,
    /// Whether a Pod owns the Dataplane. The writer does not delete Dataplanes that users create themselves.
    pub(super) is_owned_by_pod: bool,
    /// Resource version, which orders the states from the watch and from responses to writes.
    pub(super) resource_version: u64,
}

/// Hashes of the fields that the leader writes, without the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentHash {
    /// Hash of the managed labels, the mesh, the spec and the owner.
    pub(super) full: u64,
    /// Hash of the same fields without the health of inbounds.
    pub(super) without_health: u64,
}

/// The leader's part of the status: its hash, and its condition `Ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusHash {
    /// Hash of the inbounds and the condition, without the transition time of the condition.
    pub(super) hash: u64,
    /// Whether the condition is true, and its last transition time.
    pub(super) ready_condition: Option<(bool, Time)>,
}

impl ObservedDataplane {
    /// Computes the state of an object that the API server has sent.
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
            content: ContentHash::new(labels, mesh, spec, owner.map_or("", |owner| &owner.uid)),
            status: object.data.get("status").and_then(StatusHash::read),
            is_owned_by_pod: owner.is_some(),
            resource_version: version.parse().unwrap_or_default(),
        }
    }

    /// Whether anything other than the resource version differs.
    pub(super) fn differs_from(&self, other: &Self) -> bool {
        self.content != other.content
            || self.status != other.status
            || self.is_owned_by_pod != other.is_owned_by_pod
    }
}

impl ContentHash {
    /// Computes the hashes of a desired Dataplane. `spec` is its spec as JSON.
    pub(super) fn of(object: &Dataplane, spec: &Value, pod_uid: &str) -> Self {
        Self::new(object.metadata.labels.as_ref(), &object.mesh, spec, pod_uid)
    }

    /// Computes the hashes, without the labels that the control plane does not manage.
    fn new(labels: Option<&BTreeMap<String, String>>, mesh: &str, spec: &Value, pod_uid: &str) -> Self {
        let hash = |skip_health: bool| {
            let mut hasher = DefaultHasher::new();
            for key in MANAGED_LABELS {
                labels.and_then(|labels| labels.get(key)).hash(&mut hasher);
            }
            mesh.hash(&mut hasher);
            pod_uid.hash(&mut hasher);
            hash_value(spec, 0, skip_health, &mut hasher);
            hasher.finish()
        };
        Self {
            full: hash(false),
            without_health: hash(true),
        }
    }
}

impl StatusHash {
    pub(super) fn new(inbounds: &InboundsStatus, ready_condition: Option<&Condition>) -> Self {
        let mut hasher = DefaultHasher::new();
        let InboundsStatus {
            ready,
            total,
            summary,
            services,
        } = inbounds;
        (ready, total, summary, services).hash(&mut hasher);
        if let Some(condition) = ready_condition {
            (&condition.status, &condition.reason, &condition.message).hash(&mut hasher);
        }
        Self {
            hash: hasher.finish(),
            ready_condition: ready_condition
                .map(|condition| (condition.status == "True", condition.last_transition_time.clone())),
        }
    }

    /// Reads the status of an observed Dataplane; `None` if it has no readable inbounds.
    fn read(status: &Value) -> Option<Self> {
        let inbounds = InboundsStatus::deserialize(status.get("inbounds")?).ok()?;
        let conditions = status.get("conditions").and_then(Value::as_array);
        let ready_condition = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == condition::READY)
            .and_then(|condition| Condition::deserialize(condition).ok());
        Some(Self::new(&inbounds, ready_condition.as_ref()))
    }
}

/// Depth of the elements of `networking.inbound` in a spec, which has depth 0. The member `health` of an element is the
/// health of the inbound.
const INBOUND_DEPTH: usize = 3;

/// Hashes a value. The order of an object's members has no effect. If `skip_health` is set, the health of inbounds
/// is skipped.
fn hash_value(value: &Value, depth: usize, skip_health: bool, hasher: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(value) => value.hash(hasher),
        Value::Number(number) => number.hash(hasher),
        Value::String(text) => text.hash(hasher),
        Value::Array(items) => {
            items.len().hash(hasher);
            for item in items {
                hash_value(item, depth + 1, skip_health, hasher);
            }
        }
        Value::Object(members) => {
            let included = members
                .iter()
                .filter(|(name, _)| !(skip_health && depth == INBOUND_DEPTH && *name == "health"));
            let sum = included
                .map(|(name, member)| {
                    let mut hasher = DefaultHasher::new();
                    name.hash(&mut hasher);
                    hash_value(member, depth + 1, skip_health, &mut hasher);
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

    fn hash_of(spec: Value) -> ContentHash {
        ContentHash::new(None, "default", &spec, "uid")
    }

    fn spec(health: Value, tags: Value) -> Value {
        json!({"networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "health": health, "tags": tags}]}})
    }

    #[test]
    fn health_changes_only_the_full_hash() {
        let tags = json!({"a": "b"});
        let (ready, unready) = (
            hash_of(spec(json!({"ready": true}), tags.clone())),
            hash_of(spec(json!({}), tags)),
        );
        assert_ne!(ready.full, unready.full);
        assert_eq!(ready.without_health, unready.without_health);
    }

    #[test]
    fn tag_named_health_changes_the_hash_without_health() {
        let health = json!({"ready": true});
        let (good, bad) = (
            hash_of(spec(health.clone(), json!({"health": "good"}))),
            hash_of(spec(health, json!({"health": "bad"}))),
        );
        assert_ne!(good.without_health, bad.without_health);
    }

    #[test]
    fn only_managed_labels_change_the_hash() {
        let with_label = |key: &str| {
            let labels = BTreeMap::from([(key.to_owned(), "x".to_owned())]);
            ContentHash::new(Some(&labels), "default", &json!({}), "uid")
        };
        let without_labels = ContentHash::new(None, "default", &json!({}), "uid");
        assert_ne!(with_label("kuma.io/mesh"), without_labels);
        assert_eq!(with_label("team"), without_labels);
    }

    #[test]
    fn hash_depends_on_keys_and_on_the_order_of_arrays_but_not_on_the_order_of_members() {
        assert_ne!(
            hash_of(json!({"a": 1, "b": 2})).full,
            hash_of(json!({"a": 2, "b": 1})).full
        );
        assert_ne!(
            hash_of(json!({"a": [1, 2]})).full,
            hash_of(json!({"a": [2, 1]})).full
        );
        assert_eq!(
            hash_of(json!({"a": 1, "b": 2})).full,
            hash_of(json!({"b": 2, "a": 1})).full
        );
    }
}
