//! Requests and responses of the AdmissionReview API. The reviewed object stays raw JSON, because Rust types would
//! lose unknown fields.

use axum::response::{IntoResponse, Response as HttpResponse};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Request of a review.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    /// UID of the request, repeated in the response.
    pub(super) uid: String,
    /// Namespace of the request; the object itself may have no namespace yet.
    #[serde(default)]
    pub(super) namespace: String,
    /// Name of the object; empty before the API server generates it.
    #[serde(default)]
    pub(super) name: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub(super) operation: String,
    /// Subresource, such as `eviction`; empty for the object itself.
    #[serde(default)]
    pub(super) sub_resource: String,
    /// Whether the request is a dry run: the object is not stored, and the review must have no side effects.
    #[serde(default)]
    pub(super) dry_run: bool,
    /// Kind of the object.
    #[serde(default)]
    pub(super) kind: Kind,
    /// The object; `null` for deletions.
    #[serde(default)]
    pub(super) object: Value,
    /// Object before an update; `null` for creations.
    #[serde(default)]
    pub(super) old_object: Value,
}

/// Kind of an object.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Kind {
    /// Name of the kind, such as `Pod`.
    #[serde(default)]
    pub(super) kind: String,
}

/// AdmissionReview with a request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// Error of a body that is not a valid review.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidReview {
    /// The body is not JSON, or not in the form of an AdmissionReview.
    #[error("the body is not an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// The body is an object of another kind or API version.
    #[error("the body is a {kind} of {api_version}, not an AdmissionReview of admission.k8s.io/v1")]
    Kind {
        /// Kind of the body.
        kind: String,
        /// API version of the body.
        api_version: String,
    },
    /// The review has no request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// Parses a review.
///
/// # Errors
/// If the body is not an AdmissionReview with a request, or if it is nested more deeply than the JSON parser allows.
pub(super) fn parse(body: &[u8]) -> Result<Request, InvalidReview> {
    let review: Review = serde_json::from_slice(body)?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return Err(InvalidReview::Kind {
            kind: review.kind,
            api_version: review.api_version,
        });
    }
    review.request.ok_or(InvalidReview::NoRequest)
}

/// Response of a review.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "base64")]
    patch: Option<json_patch::Patch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
}

/// AdmissionReview with a response.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewResponse<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: &'a Response,
}

/// Serializes a JSON patch as base64 text.
#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn base64<S: Serializer>(patch: &Option<json_patch::Patch>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = serde_json::to_vec(patch).map_err(S::Error::custom)?;
    k8s_openapi::ByteString(text).serialize(serializer)
}

// === impl Request ===

impl Request {
    /// Returns the name of the Pod, or the prefix of its generated name.
    pub(super) fn pod_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        let metadata = self.object.get("metadata");
        let generated = metadata.and_then(|metadata| metadata.get("generateName"));
        generated.and_then(Value::as_str).unwrap_or_default()
    }
}

// === impl Response ===

impl Response {
    /// Allows the object unchanged.
    pub(super) fn allow(uid: String) -> Self {
        Self {
            uid,
            allowed: true,
            status: None,
            patch_type: None,
            patch: None,
            warnings: Vec::new(),
        }
    }

    /// Denies the object. `code` is an HTTP status; the message is shown to the user.
    pub(super) fn deny(uid: String, code: u16, message: String) -> Self {
        Self {
            allowed: false,
            status: Some(Status { code, message }),
            ..Self::allow(uid)
        }
    }

    /// Adds a JSON patch.
    pub(super) fn with_patch(mut self, patch: json_patch::Patch) -> Self {
        self.patch_type = Some("JSONPatch");
        self.patch = Some(patch);
        self
    }

    /// Adds warnings, which `kubectl` shows. The API server truncates long warnings.
    pub(super) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// Converts the response to an HTTP response.
    pub(super) fn into_http(self) -> HttpResponse {
        axum::Json(ReviewResponse {
            api_version: API_VERSION,
            kind: KIND,
            response: &self,
        })
        .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(body: &str) -> Result<Request, InvalidReview> {
        parse(body.as_bytes())
    }

    #[test]
    fn invalid_bodies_are_errors() {
        assert!(matches!(parse_text("{"), Err(InvalidReview::Json(_))));
        assert!(matches!(parse_text("[]"), Err(InvalidReview::Json(_))));
        let deep = "[".repeat(100_000);
        assert!(matches!(parse_text(&deep), Err(InvalidReview::Json(_))));
        let pod = r#"{"apiVersion": "v1", "kind": "Pod"}"#;
        assert!(matches!(parse_text(pod), Err(InvalidReview::Kind { .. })));
        let empty = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#;
        assert!(matches!(parse_text(empty), Err(InvalidReview::NoRequest)));
    }
}
