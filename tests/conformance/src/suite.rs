//! The interface of a suite's runner, and the list of all runners.

use anyhow::Result;
use serde_json::Value;

use crate::corpus::Case;

/// Runs cases of one suite through the product's code.
///
/// A suite may have several runners, each for its own kinds of cases.
pub trait Runner {
    /// Name of the runner's suite, as in the `suite` field of `cases.json`.
    fn suite(&self) -> &'static str;

    /// Kinds of cases that the runner runs; empty for all.
    fn kinds(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs one case.
    ///
    /// # Errors
    /// The case itself cannot be read, which fails the case. A denial by the product is a result, not an error; see
    /// [`Outcome`].
    fn run(&self, case: &Case<'_>) -> Result<Outcome>;
}

/// Result of running a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Expectation and result in a common shape that the runner chooses, without incidental differences. They are
    /// compared by [`crate::compare::difference`]: null, empty and absent are equal.
    Compared {
        /// Expected value from the corpus; a known deviation replaces it before the comparison.
        expected: Value,
        /// Result of the product.
        actual: Value,
    },
    /// Not run, with the reason.
    Skipped(String),
}

/// Returns all runners.
pub fn registered() -> Vec<Box<dyn Runner>> {
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

/// Returns the runner of a case.
pub fn runner_of<'r>(runners: &'r [Box<dyn Runner>], case: &Case<'_>) -> Option<&'r dyn Runner> {
    runners
        .iter()
        .map(AsRef::as_ref)
        .filter(|runner| runner.suite() == case.document.name)
        .find(|runner| runner.kinds().is_empty() || runner.kinds().contains(&case.kind()))
}
