//! The object that an Event is about: the controller of the Pod, or the Namespace. Any caller can send a review, so the
//! owner reference in a review may be forged. Therefore, the controller is looked up before an Event is written.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};
use serde_json::Value;

use crate::review::Request;

/// Maximum length of a name in Kubernetes, in bytes. An owner with a longer name cannot exist. The limit also applies
/// to the UID of an owner.
const MAX_NAME_BYTES: usize = 253;
/// Time limit for the lookup of a controller.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Built-in kinds that create Pods and that the control plane may read: API group, version, kind and plural.
/// If the controller of a Pod has another kind, the Event is about the Namespace.
const CONTROLLER_KINDS: [(&str, &str, &str, &str); 5] = [
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("", "v1", "ReplicationController", "replicationcontrollers"),
];

/// Object of an Event.
#[derive(Debug, PartialEq)]
pub(super) enum EventObject {
    /// The controller in the owner references of the Pod. The review does not prove that the controller exists.
    Controller(ObjectReference),
    /// The Namespace of the Pod. The Namespace exists, because the webhook has read it for its decision.
    Namespace(ObjectReference),
}

impl EventObject {
    /// Returns the object of an Event about a Pod. Returns `None` if the controller has a built-in kind, but its name
    /// or UID is invalid.
    pub(super) fn of(request: &Request, namespace: &str) -> Option<Self> {
        let Some(owner) = controller(request) else {
            return Some(Self::Namespace(namespace_reference(namespace)));
        };
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        if api_resource(text("apiVersion"), text("kind")).is_none() {
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

    /// Returns the reference to the object.
    pub(super) fn reference(&self) -> &ObjectReference {
        let (Self::Controller(reference) | Self::Namespace(reference)) = self;
        reference
    }

    /// Returns whether the object exists and has the UID of the reference. Returns false if the lookup fails. A
    /// Namespace exists and is not looked up.
    pub(super) async fn exists(&self, client: &Client) -> bool {
        let Self::Controller(reference) = self else {
            return true;
        };
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (api_version, kind) = (text(&reference.api_version), text(&reference.kind));
        let Some(resource) = api_resource(&api_version, &kind) else {
            return false;
        };
        let (namespace, name) = (text(&reference.namespace), text(&reference.name));
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

/// Returns the owner reference to the controller of the Pod. The reference may be malformed, because the API server
/// validates owner references only after admission.
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

fn api_resource(controller_api_version: &str, controller_kind: &str) -> Option<ApiResource> {
    let mut kinds = CONTROLLER_KINDS.iter();
    let found = kinds
        .find(|kind| (api_version(kind).as_str(), kind.2) == (controller_api_version, controller_kind))?;
    let (group, version, kind, plural) = *found;
    Some(ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: controller_api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    })
}

/// Returns whether a text can be the name of an object, or the prefix of a generated name.
pub(super) fn is_name(text: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Returns a reference to a Namespace. The field `namespace` is set too, so that the Events are listed with the other
/// Events of the Namespace.
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

    fn owner(name: &str, is_controller: bool) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "u", "controller": is_controller})
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
    fn event_is_about_the_namespace_if_the_kind_of_the_controller_is_not_built_in() {
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
    fn controller_with_an_invalid_name_or_without_a_uid_gets_no_events() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for name in ["", long.as_str(), "Web", "web\nPod admitted", "../secrets"] {
            assert_eq!(object_of(json!([owner(name, true)])), None, "{name:?}");
        }
        let mut without_uid = owner("a", true);
        without_uid["uid"] = Value::Null;
        assert_eq!(object_of(json!([without_uid])), None);
    }
}
