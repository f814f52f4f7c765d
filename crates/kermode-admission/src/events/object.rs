//! Objects of Events: the controller of a Pod or its Namespace, and the check that the controller exists. The webhooks
//! cannot tell the API server from another caller, so an owner reference of a review proves nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;

use crate::review::Request;

/// Maximum length of a name in Kubernetes, in bytes. An owner with a longer name cannot exist.
const MAX_NAME_BYTES: usize = 253;
/// Time limit of a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Built-in kinds that create Pods: API group, version, kind and plural. The control plane may read them. An Event about
/// a Pod of another controller is written about the Namespace.
const CONTROLLER_KINDS: [(&str, &str, &str, &str); 5] = [
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("", "v1", "ReplicationController", "replicationcontrollers"),
];

/// Object that an Event would be about.
#[derive(Debug, PartialEq)]
pub(super) enum EventObject {
    /// The controller that the Pod claims. It has to be looked up.
    Controller(ObjectReference),
    /// The Namespace, which the review was decided with, so it exists.
    Namespace(ObjectReference),
}

impl EventObject {
    /// Returns the object of Events about a Pod. `None` for a Pod whose controller is of a built-in kind and cannot
    /// exist.
    pub(super) fn of(request: &Request, namespace: &str) -> Option<Self> {
        let Some(owner) = controller(request) else {
            return Some(Self::Namespace(namespace_reference(namespace)));
        };
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let is_built_in = CONTROLLER_KINDS
            .iter()
            .any(|kind| (api_version(kind).as_str(), kind.2) == (text("apiVersion"), text("kind")));
        if !is_built_in {
            return Some(Self::Namespace(namespace_reference(namespace)));
        }
        let (name, uid) = (text("name"), text("uid"));
        (is_name(name) && !uid.is_empty() && uid.len() <= MAX_NAME_BYTES).then(|| {
            Self::Controller(ObjectReference {
                api_version: Some(text("apiVersion").to_owned()),
                kind: Some(text("kind").to_owned()),
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            })
        })
    }

    /// Returns the reference of the object, whether or not it exists.
    pub(super) fn reference(&self) -> &ObjectReference {
        let (Self::Controller(reference) | Self::Namespace(reference)) = self;
        reference
    }

    /// Returns whether the object exists with the UID of the reference.
    pub(super) async fn exists(&self, client: &Client) -> bool {
        let Self::Controller(reference) = self else {
            return true;
        };
        let field = |field: &Option<String>| field.clone().unwrap_or_default();
        let (api_version, kind) = (field(&reference.api_version), field(&reference.kind));
        let Some(resource) = api_resource(&api_version, &kind) else {
            return false;
        };
        let (namespace, name) = (field(&reference.namespace), field(&reference.name));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        match tokio::time::timeout(LOOKUP_TIMEOUT, api.get_metadata_opt(&name)).await {
            Ok(Ok(found)) => found.is_some_and(|found| found.metadata.uid == reference.uid),
            Ok(Err(error)) => {
                tracing::debug!(namespace, kind, name, %error, "controller of a Pod cannot be read: no Event");
                false
            }
            Err(_) => {
                tracing::debug!(
                    namespace,
                    kind,
                    name,
                    "controller of a Pod was not read in time: no Event"
                );
                false
            }
        }
    }
}

/// Returns the Pod's owner reference that is marked as controller. The API server has not validated it yet.
fn controller(request: &Request) -> Option<&Value> {
    let owners = request.object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners
        .iter()
        .find(|owner| owner["controller"] == Value::Bool(true))
}

fn api_version((group, version, ..): &(&str, &str, &str, &str)) -> String {
    if group.is_empty() {
        (*version).to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn api_resource(wanted_api_version: &str, wanted_kind: &str) -> Option<ApiResource> {
    let mut kinds = CONTROLLER_KINDS.iter();
    let found =
        kinds.find(|kind| (api_version(kind).as_str(), kind.2) == (wanted_api_version, wanted_kind))?;
    let (group, version, kind, plural) = *found;
    Some(ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: wanted_api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    })
}

/// Whether a text can be the name of an object, or the prefix of a generated name.
pub(super) fn is_name(text: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Returns a reference to a Namespace. The reference has the namespace set, so that its Events are listed with those of
/// the objects in it.
fn namespace_reference(namespace: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        name: Some(namespace.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object_of(owners: Value) -> Option<EventObject> {
        let request = Request {
            object: json!({"metadata": {"ownerReferences": owners}}),
            ..Request::default()
        };
        EventObject::of(&request, "shop")
    }

    fn owner(name: &str, controller: bool) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "u", "controller": controller})
    }

    #[test]
    fn event_is_about_the_controller_and_no_other_owner() {
        let object = object_of(json!([owner("a", false), owner("b", true)])).expect("an object");
        assert!(matches!(object, EventObject::Controller(_)), "{object:?}");
        let found = object.reference();
        assert_eq!(found.name.as_deref(), Some("b"));
        assert_eq!(found.api_version.as_deref(), Some("apps/v1"));
        assert_eq!(found.uid.as_deref(), Some("u"));
        let namespace = Some(EventObject::Namespace(namespace_reference("shop")));
        assert_eq!(object_of(json!([owner("a", false)])), namespace);
    }

    #[test]
    fn controller_of_a_kind_that_cannot_be_looked_up_is_replaced_by_the_namespace() {
        let namespace = Some(EventObject::Namespace(namespace_reference("shop")));
        for owners in [
            json!([{"controller": true}]),
            json!([{"controller": true, "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "a", "uid": "u"}]),
            json!([{"controller": true, "apiVersion": "v1", "kind": "ReplicaSet", "name": "a", "uid": "u"}]),
            json!([1]),
            json!("x"),
            Value::Null,
        ] {
            assert_eq!(object_of(owners.clone()), namespace, "{owners}");
        }
    }

    #[test]
    fn controller_that_cannot_exist_has_no_events() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for name in ["", long.as_str(), "Web", "web\nPod admitted", "../secrets"] {
            assert_eq!(object_of(json!([owner(name, true)])), None, "{name:?}");
        }
        let mut without_uid = owner("a", true);
        without_uid["uid"] = Value::Null;
        assert_eq!(object_of(json!([without_uid])), None);
    }
}
