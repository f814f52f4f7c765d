//! Suite `transparent-proxy`, cases on injection: the arguments that the injector gives to `kuma-init`, from a Pod's
//! annotations.

use anyhow::Result;
use kermode_inject::init_arguments;
use serde_json::json;

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the argument cases.
pub(crate) struct InitArguments;

impl Runner for InitArguments {
    fn suite(&self) -> &'static str {
        "transparent-proxy"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["init-args"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let annotations = case.decode("/inputs/podAnnotations")?;
        let actual = match init_arguments(&annotations) {
            Ok(arguments) => json!({"args": arguments}),
            Err(denial) => json!({"denied": denial.to_string()}),
        };
        Ok(Outcome::Compared {
            expected: case.at("/expected").clone(),
            actual,
        })
    }
}
