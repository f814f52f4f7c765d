//! Suite `transparent-proxy`, kind `init-args`: the arguments of `kuma-init` that the injector derives from the
//! annotations of a Pod.

use anyhow::Result;
use kermode_inject::init_arguments;
use serde_json::json;

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `init-args`.
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
