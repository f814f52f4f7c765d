//! What a suite's runner is, and the list of all of them.

use anyhow::Result;
use serde_json::Value;

use crate::corpus::Case;

/// Runs cases of one suite through the product's code.
///
/// Several may serve one suite, each its own kinds of cases.
pub trait Suite {
    /// The suite it runs cases of, as in the `suite` field of `cases.json`.
    fn name(&self) -> &'static str;

    /// The kinds of cases it runs; empty for all.
    fn kinds(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs one case.
    ///
    /// # Errors
    /// When the case itself cannot be read: that fails the case. A refusal by the product is an answer, not an
    /// error; see [`Outcome`].
    fn run(&self, case: &Case<'_>) -> Result<Outcome>;
}

/// What running a case gave.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Both sides in one shape of the runner's choice, free of what the corpus calls incidental. They are compared
    /// by [`crate::compare::difference`]: null, empty and absent are equal.
    Compared {
        /// What the corpus asks for; a known deviation changes this side.
        expected: Value,
        /// What the product does.
        actual: Value,
    },
    /// Not run, and why.
    Skipped(String),
}

/// All runners. One line each.
pub fn registered() -> Vec<Box<dyn Suite>> {
    vec![
        Box::new(crate::container_patch::ContainerPatches),
        Box::new(crate::crds::Crds),
        Box::new(crate::direct_access::DirectAccess),
        Box::new(crate::init_arguments::InitArguments),
        Box::new(crate::injector::Injector),
        Box::new(crate::install::Install),
        Box::new(crate::page_examples::Decision),
        Box::new(crate::pod_lifecycle::PodLifecycle),
        Box::new(crate::pod_to_dataplane::Examples),
        Box::new(crate::pod_to_dataplane::PodToDataplane),
        Box::new(crate::traffic::Traffic),
        Box::new(crate::webhook_match::WebhookMatch),
    ]
}

/// The runner of a case, if there is one.
pub fn runner_of<'s>(suites: &'s [Box<dyn Suite>], case: &Case<'_>) -> Option<&'s dyn Suite> {
    suites
        .iter()
        .map(AsRef::as_ref)
        .filter(|suite| suite.name() == case.document.name)
        .find(|suite| suite.kinds().is_empty() || suite.kinds().contains(&case.kind()))
}
