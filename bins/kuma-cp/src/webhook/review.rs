//! AdmissionReview on the wire. The object stays raw JSON: a typed round trip would lose fields that our bindings do
//! not know yet.

use serde::{Deserialize, Serialize};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// A question of the API server.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    /// Names the question in the answer.
    pub(crate) uid: String,
    /// Namespace of the request; the object itself may not name one yet.
    #[serde(default)]
    pub(crate) namespace: String,
    /// Name of the object, if it has one yet.
    #[serde(default)]
    pub(crate) name: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(default)]
    pub(crate) operation: String,
    /// What the object is.
    #[serde(default)]
    pub(crate) kind: Kind,
    /// The object; `null` for deletions.
    #[serde(default)]
    pub(crate) object: Value,
}

/// Kind of an object.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Kind {
    /// Its kind.
    #[serde(default)]
    pub(crate) kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

/// What is wrong with a question.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidReview {
    /// No JSON, or not in the form of an AdmissionReview.
    #[error("the body is not an AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON of another kind.
    #[error("the body is a {kind} of {api_version}, not an AdmissionReview of admission.k8s.io/v1")]
    Kind {
        /// What it says it is.
        kind: String,
        /// Of which version.
        api_version: String,
    },
    /// A review without a question.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// Reads a question.
///
/// # Errors
/// When the body is none. Nesting is bounded by the JSON reader.
pub(crate) fn parse(body: &[u8]) -> Result<Request, InvalidReview> {
    let review: Review = serde_json::from_slice(body)?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return Err(InvalidReview::Kind {
            kind: review.kind,
            api_version: review.api_version,
        });
    }
    review.request.ok_or(InvalidReview::NoRequest)
}

/// An answer to the API server.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<k8s_openapi::ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
}

impl Response {
    /// Lets the object through as it is.
    pub(crate) fn allow(uid: String) -> Self {
        Self {
            uid,
            allowed: true,
            status: None,
            patch_type: None,
            patch: None,
            warnings: Vec::new(),
        }
    }

    /// Refuses the object. `code` is an HTTP status; the message is what the user reads.
    pub(crate) fn deny(uid: String, code: u16, message: String) -> Self {
        Self {
            allowed: false,
            status: Some(Status { code, message }),
            ..Self::allow(uid)
        }
    }

    /// Adds a JSON patch.
    ///
    /// # Errors
    /// When the patch cannot be serialised.
    pub(crate) fn with_patch(mut self, patch: &json_patch::Patch) -> serde_json::Result<Self> {
        self.patch_type = Some("JSONPatch");
        self.patch = Some(k8s_openapi::ByteString(serde_json::to_vec(patch)?));
        Ok(self)
    }

    /// Adds warnings, which `kubectl` shows. The API server cuts long ones.
    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// The whole review around the answer.
    pub(crate) fn into_review(self) -> Value {
        serde_json::json!({"apiVersion": API_VERSION, "kind": KIND, "response": self})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_text(body: &str) -> Result<Request, InvalidReview> {
        parse(body.as_bytes())
    }

    #[test]
    fn hostile_bodies_are_errors() {
        assert!(matches!(parse_text("{"), Err(InvalidReview::Json(_))));
        assert!(matches!(parse_text("[]"), Err(InvalidReview::Json(_))));
        let deep = "[".repeat(100_000);
        assert!(matches!(parse_text(&deep), Err(InvalidReview::Json(_))));
        let pod = r#"{"apiVersion": "v1", "kind": "Pod"}"#;
        assert!(matches!(parse_text(pod), Err(InvalidReview::Kind { .. })));
        let empty = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#;
        assert!(matches!(parse_text(empty), Err(InvalidReview::NoRequest)));
    }

    #[test]
    fn an_answer_carries_the_question_s_uid() {
        let review = Response::deny("u-1".to_owned(), 403, "no".to_owned()).into_review();
        assert_eq!(
            review["response"],
            json!({"uid": "u-1", "allowed": false, "status": {"code": 403, "message": "no"}})
        );
    }

    #[test]
    fn a_patch_is_base64() {
        let patch: json_patch::Patch = serde_json::from_value(json!([])).expect("a patch");
        let response = Response::allow("u".to_owned())
            .with_patch(&patch)
            .expect("serialisable");
        assert_eq!(response.into_review()["response"]["patch"], json!("W10="));
    }
}
