//! Reviews in the format that the API server sends, and responses in the format that it reads.

use base64::Engine;
use serde::Deserialize;
use serde_json::{Value, json};

use super::caller::CallResponse;

/// Makes a Pod of a ReplicaSet. The Pod has no name yet, as in the reviews of the API server.
pub(super) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "web-5d9c7b8f6d-",
            "labels": {"app": "web"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9c7b8f6d", "uid": "rs-1",
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "spec": {"containers": [{"name": "app", "image": "app:1"}], "unknownField": {"kept": true}},
    })
}

/// Makes a Pod with one more label or annotation. `field` is `labels` or `annotations`.
pub(super) fn pod_with(field: &str, key: &str, value: &str) -> Value {
    let mut pod = pod();
    pod["metadata"][field][key] = value.into();
    pod
}

/// Removes the owners of a Pod.
pub(super) fn without_owners(mut pod: Value) -> Value {
    pod["metadata"]["ownerReferences"] = Value::Null;
    pod
}

/// Makes a review of the creation of an object. The webhooks do not read the group, version and resource, so these are
/// always those of a Pod.
pub(super) fn review(uid: &str, namespace: &str, kind: &str, object: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": kind},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": kind},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "u",
                "groups": ["system:serviceaccounts"]},
            "object": object,
            "oldObject": null,
            "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

/// AdmissionReview of `admission.k8s.io/v1`. An unknown field is an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AdmissionReview {
    api_version: String,
    kind: String,
    response: AdmissionResponse,
}

/// Response to a review.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AdmissionResponse {
    pub(super) uid: String,
    pub(super) allowed: bool,
    pub(super) status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

/// The fields of a `metav1.Status` that the webhooks set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
}

impl AdmissionResponse {
    /// Reads a response, and asserts that it has a format that the API server accepts.
    pub(super) fn read(response: &CallResponse) -> Self {
        let review: AdmissionReview = serde_json::from_value(response.json()).expect("an AdmissionReview");
        assert_eq!(review.api_version, "admission.k8s.io/v1");
        assert_eq!(review.kind, "AdmissionReview");
        let response = review.response;
        assert_eq!(response.patch.is_some(), response.patch_type.is_some());
        if !response.allowed {
            assert!(response.patch.is_none(), "a denial has no patch");
            let status = response.status.as_ref().expect("a denial has a status");
            assert!(
                (400..600).contains(&status.code) && !status.message.is_empty(),
                "{status:?}"
            );
        }
        response
    }

    /// Applies the patch, if there is one, to the object.
    pub(super) fn applied_to(&self, mut object: Value) -> Value {
        if let Some(patch) = &self.patch {
            assert_eq!(self.patch_type.as_deref(), Some("JSONPatch"));
            let patch = base64::prelude::BASE64_STANDARD.decode(patch).expect("base64");
            let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a JSON patch");
            json_patch::patch(&mut object, &patch).expect("a patch that applies");
        }
        object
    }

    /// Returns the message of a denial.
    pub(super) fn denial_message(&self) -> &str {
        assert!(!self.allowed, "{self:?}");
        self.status
            .as_ref()
            .map(|status| status.message.as_str())
            .unwrap_or_default()
    }
}
