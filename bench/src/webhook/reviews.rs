//! Copies of a recorded AdmissionReview, with different UIDs and pod-template-hashes. An API server of Kubernetes 1.34
//! sent the recorded review for a Pod with two containers.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;

/// The recorded review.
const RECORDED: &str = include_str!("../../data/review.json");
/// Namespace of the recorded Pod.
pub const NAMESPACE: &str = "shop";

/// A review with its UID, which the response repeats.
#[derive(Clone, Debug)]
pub struct Review {
    /// Encoded AdmissionReview.
    pub body: Bytes,
    uid: String,
}

/// Expected decision of the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The Pod gets a sidecar.
    Injected,
    /// The Pod is skipped.
    Skipped,
}

/// Returns `count` reviews of Pods in a namespace.
///
/// # Errors
/// When the recorded review cannot be parsed.
pub fn make(namespace: &str, count: usize) -> Result<Vec<Review>> {
    let recorded: Value = serde_json::from_str(RECORDED)?;
    let uid = recorded["request"]["uid"]
        .as_str()
        .context("the review has no uid")?;
    let hash = recorded["request"]["object"]["metadata"]["labels"]["pod-template-hash"].as_str();
    let hash = hash.context("the Pod has no label pod-template-hash")?;
    let copy = |number: usize| {
        let own_uid = format!("{number:08x}{}", uid.get(8..).unwrap_or_default());
        let text = RECORDED
            .replace(uid, &own_uid)
            .replace(hash, &format!("{number:08x}"))
            .replace(&format!("\"{NAMESPACE}\""), &format!("\"{namespace}\""));
        Review {
            body: Bytes::from(text),
            uid: own_uid,
        }
    };
    Ok((0..count).map(copy).collect())
}

impl Review {
    /// Checks the first bytes of a response: the UID, that the Pod is allowed, and whether the response has a patch.
    ///
    /// # Errors
    /// When the response belongs to another review or has another decision.
    pub fn check(&self, response: &[u8], expected: Expected) -> Result<()> {
        let head = &response[..response.len().min(300)];
        let in_head = |text: &str| head.windows(text.len()).any(|window| window == text.as_bytes());
        ensure!(
            in_head(&format!("\"uid\":\"{}\"", self.uid)) && in_head("\"allowed\":true"),
            "review {}: unexpected response {}",
            self.uid,
            String::from_utf8_lossy(head)
        );
        let patched = in_head("\"patch\":\"");
        ensure!(
            patched == (expected == Expected::Injected),
            "review {}: expected the decision {expected:?}, but the response has {} patch",
            self.uid,
            if patched { "a" } else { "no" }
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_differ_in_uid_and_template_hash_and_have_a_realistic_size() {
        let reviews = make("plain", 3).expect("reviews");
        let read = |index: usize| -> Value { serde_json::from_slice(&reviews[index].body).expect("JSON") };
        let (first, second) = (read(1), read(2));
        assert_ne!(first["request"]["uid"], second["request"]["uid"]);
        assert_eq!(first["request"]["namespace"], "plain");
        let template_hash =
            |review: &Value| review["request"]["object"]["metadata"]["labels"]["pod-template-hash"].clone();
        assert_ne!(template_hash(&first), template_hash(&second));
        assert!((6_500..7_500).contains(&reviews[0].body.len()));
    }

    #[test]
    fn response_must_have_the_uid_and_the_expected_decision() {
        let review = make(NAMESPACE, 1).expect("reviews").remove(0);
        let response =
            |uid: &str, rest: &str| format!("{{\"response\":{{\"uid\":\"{uid}\",\"allowed\":true{rest}}}}}");
        let (patch, other_uid) = (",\"patch\":\"W10=\"", "00000001-0000");
        assert!(
            review
                .check(response(&review.uid, patch).as_bytes(), Expected::Injected)
                .is_ok()
        );
        assert!(
            review
                .check(response(&review.uid, "").as_bytes(), Expected::Skipped)
                .is_ok()
        );
        assert!(
            review
                .check(response(other_uid, patch).as_bytes(), Expected::Injected)
                .is_err()
        );
        assert!(
            review
                .check(response(&review.uid, patch).as_bytes(), Expected::Skipped)
                .is_err()
        );
        assert!(
            review
                .check(response(&review.uid, "").as_bytes(), Expected::Injected)
                .is_err()
        );
    }
}
