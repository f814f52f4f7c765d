//! Suite `page-examples`, the part on injection: whether a Pod is injected.

use anyhow::Result;
use kermode_inject::{Denial, Outcome as Injected, Settings};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::injection::World;
use crate::suite::{Outcome, Suite};

/// Runner of the cases that decide on injection.
pub(crate) struct Decision;

impl Suite for Decision {
    fn name(&self) -> &'static str {
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
        // The webhook answers every refusal with this status.
        let status = expected
            .as_object_mut()
            .and_then(|expected| expected.remove("httpStatus"));
        if status.is_some_and(|status| status != 500) {
            return Ok(Outcome::Skipped(
                "asks for a status that refusals do not have".to_owned(),
            ));
        }
        let actual = match world.inject(case.at("/inputs/pod"), &Settings::default()) {
            Ok(Injected::Injected(_)) => json!({"inject": true}),
            Ok(Injected::Skipped(_)) => json!({"inject": false}),
            Err(refusal @ Denial::MeshNotFound { .. }) if expected["errorKind"] == "not-found" => {
                let _ = refusal;
                json!({"errorKind": "not-found"})
            }
            Err(refusal) => json!({"error": beginning(&refusal.to_string(), &expected["error"])}),
        };
        Ok(Outcome::Compared { expected, actual })
    }
}

/// Our texts go on to name the object and the remedy.
fn beginning(actual: &str, expected: &Value) -> String {
    match expected.as_str() {
        Some(expected) if actual.starts_with(expected) => expected.to_owned(),
        _ => actual.to_owned(),
    }
}
