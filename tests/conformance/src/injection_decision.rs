//! Suite `page-examples`, kind `decide-injection`: the decision whether a Pod gets a sidecar.

use anyhow::Result;
use kermode_inject::{Denial, Outcome as InjectionOutcome, Settings};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::InjectionInputs;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `decide-injection`.
pub(crate) struct InjectionDecision;

impl Runner for InjectionDecision {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["decide-injection"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let inputs = InjectionInputs {
            namespace: case.at("/inputs/namespace").clone(),
            meshes: case.decode("/inputs/meshes")?,
            ..InjectionInputs::default()
        };
        let mut expected = case.at("/expected").clone();
        // The webhook denies Pods with status 500.
        let status = expected
            .as_object_mut()
            .and_then(|expected| expected.remove("httpStatus"));
        if status.is_some_and(|status| status != 500) {
            return Ok(Outcome::Skipped(
                "the case expects another HTTP status than 500".to_owned(),
            ));
        }
        let actual = match inputs.inject(case.at("/inputs/pod"), &Settings::default()) {
            Ok(InjectionOutcome::Injected(_)) => json!({"inject": true}),
            Ok(InjectionOutcome::Skipped(_)) => json!({"inject": false}),
            Err(Denial::MeshNotFound { .. }) if expected["errorKind"] == "not-found" => {
                json!({"errorKind": "not-found"})
            }
            Err(denial) => json!({"error": without_remedy(&denial.to_string(), &expected["error"])}),
        };
        Ok(Outcome::Compared { expected, actual })
    }
}

/// Returns the expected text if the actual text starts with it, because Kermode appends the object and the remedy.
/// Otherwise returns the actual text.
fn without_remedy(actual: &str, expected: &Value) -> String {
    match expected.as_str() {
        Some(expected) if actual.starts_with(expected) => expected.to_owned(),
        _ => actual.to_owned(),
    }
}
