//! The interface of runners, which run the cases of a suite, and the list of all runners.

use anyhow::Result;
use serde_json::Value;

use crate::corpus::Case;

/// Runs cases of one suite with the product's code.
///
/// A suite may have several runners, each for its own kinds of cases.
pub trait Runner {
    /// Name of the runner's suite, as in the `suite` field of `cases.json`.
    fn suite(&self) -> &'static str;

    /// Kinds of cases that the runner runs; empty for all kinds.
    fn kinds(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs one case.
    ///
    /// # Errors
    /// If the case cannot be read. An error that the product returns is part of the [`Outcome`] instead.
    fn run(&self, case: &Case<'_>) -> Result<Outcome>;
}

/// Result of running a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Expected and actual result, in a form that the runner chooses. The runner has removed differences that do not
    /// matter. [`crate::compare::differences`] compares the two.
    Compared {
        /// Expected result from the corpus. Known deviations ([`crate::deviation`]) replace parts of this result before
        /// the comparison.
        expected: Value,
        /// Result of the product's code.
        actual: Value,
    },
    /// Expected and actual protobuf messages: objects with one member for each message.
    /// [`crate::compare::message_differences`] compares the two.
    Messages {
        /// Expected messages from the corpus, to which known deviations apply as in [`Self::Compared`].
        expected: Value,
        /// Messages of the product's code.
        actual: Value,
    },
    /// The case was not run, for this reason.
    Skipped(String),
}

// === impl Outcome ===

impl Outcome {
    /// Returns the expected result; `None` if the case was not run.
    pub fn into_expected(self) -> Option<Value> {
        match self {
            Self::Compared { expected, .. } | Self::Messages { expected, .. } => Some(expected),
            Self::Skipped(_) => None,
        }
    }
}

/// Returns all runners.
pub fn all_runners() -> Vec<Box<dyn Runner>> {
    vec![
        Box::new(crate::cni_exclusion::CniExclusion),
        Box::new(crate::container_patch::ContainerPatches),
        Box::new(crate::crds::Crds),
        Box::new(crate::direct_access::DirectAccessListeners),
        Box::new(crate::dns_name::DnsName),
        Box::new(crate::drain_sequence::DrainSequence),
        Box::new(crate::init_arguments::InitArguments),
        Box::new(crate::injector::Injector),
        Box::new(crate::install::Install),
        Box::new(crate::injection_decision::InjectionDecision),
        Box::new(crate::pod_lifecycle::PodLifecycle),
        Box::new(crate::pod_to_dataplane::ManualPageDataplanes),
        Box::new(crate::pod_to_dataplane::PodToDataplane),
        Box::new(crate::traffic::Traffic),
        Box::new(crate::webhook_match::WebhookMatch),
        Box::new(crate::xds::Xds),
    ]
}

/// Returns the runner for the suite and the kind of a case.
pub fn runner_of<'r>(runners: &'r [Box<dyn Runner>], case: &Case<'_>) -> Option<&'r dyn Runner> {
    runners
        .iter()
        .map(AsRef::as_ref)
        .filter(|runner| runner.suite() == case.suite.name)
        .find(|runner| runner.kinds().is_empty() || runner.kinds().contains(&case.kind()))
}
