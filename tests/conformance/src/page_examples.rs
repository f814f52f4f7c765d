//! Suite `page-examples`, cases on injection: whether a Pod is injected.

use anyhow::Result;
use kermode_inject::{Denial, Outcome as Injected, Settings};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::World;
use crate::suite::{Outcome, Runner};

/// Runner of the injection decision cases.
pub(crate) struct Decision;

impl Runner for Decision {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["decide-injection"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let world = World {
            namespace: case.at("/inputs/namespace").clone(),
            meshes: case.decode("/inputs/meshes")?,
            ..World::default()
        };
        let mut expected = case.at("/expected").clone();
        // Every denial of the webhook has status 500.
        let status = expected
            .as_object_mut()
            .and_then(|expected| expected.remove("httpStatus"));
        if status.is_some_and(|status| status != 500) {
            return Ok(Outcome::Skipped(
                "expects a status that denials do not have".to_owned(),
            ));
        }
        let actual = match world.inject(case.at("/inputs/pod"), &Settings::default()) {
            Ok(Injected::Injected(_)) => json!({"inject": true}),
            Ok(Injected::Skipped(_)) => json!({"inject": false}),
            Err(Denial::MeshNotFound { .. }) if expected["errorKind"] == "not-found" => {
                json!({"errorKind": "not-found"})
            }
            Err(denial) => json!({"error": without_remedy(&denial.to_string(), &expected["error"])}),
        };
        Ok(Outcome::Compared { expected, actual })
    }
}

/// Returns the expected text when the actual one starts with it: Kermode's texts continue with object and remedy.
fn without_remedy(actual: &str, expected: &Value) -> String {
    match expected.as_str() {
        Some(expected) if actual.starts_with(expected) => expected.to_owned(),
        _ => actual.to_owned(),
    }
}
