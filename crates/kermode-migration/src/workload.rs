//! Pods, and workloads with a Pod template.

use kermode_inject::workload::pod_pointer;
use kermode_inject::{Outcome, SkipReason};
use kermode_manifests::Injector;
use serde_json::Value;

use crate::report::Finding;
use crate::rule;
use crate::{Context, keys};

/// Kinds of controllers whose template is reported in place of the objects that they create.
const TEMPLATE_OWNERS: [&str; 7] = [
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
];

impl Context<'_> {
    /// Returns the findings about a Pod or a workload; `None` for another object, for an object that another workload
    /// controls, and for a Pod that has nothing to do with the mesh.
    pub(crate) fn workload(&self, object: &Value) -> Option<Vec<Finding>> {
        let pointer = pod_pointer(object)?;
        if is_created_from_template(object) {
            return None;
        }
        let mut findings = if pointer.is_empty() {
            Vec::new()
        } else {
            keys::misplaced(object)
        };
        findings.extend(keys::findings(object.pointer(pointer)?, "Pod"));
        findings.extend(crate::configuration::variables(object, object.pointer(pointer)?));
        let injector = Injector {
            config: &self.settings.config,
            cluster: &self.cluster,
            ca_pem: "",
            namespace: &self.settings.default_namespace,
        };
        // The patch of the injector applies to the template that it was made for, so there is no error to report.
        let outcome = injector.inject_pod_at(&mut object.clone(), pointer).ok()?;
        let result = &outcome.explanation.result;
        match result {
            Err(denial) => findings.push(Finding::new(&rule::POD_DENIED, denial.to_string()).with_remedy(
                "correct the manifest; kumactl inject --explain shows each step of the decision",
            )),
            Ok(Outcome::Skipped(SkipReason::CannotCarrySidecar(_))) => findings.extend(
                outcome
                    .warnings()
                    .map(|warning| Finding::new(&rule::CANNOT_CARRY_SIDECAR, warning)),
            ),
            Ok(Outcome::Injected(injection)) => findings.extend(
                injection
                    .warnings
                    .iter()
                    .map(|warning| Finding::new(&rule::INJECTION_WARNING, warning.as_str())),
            ),
            Ok(Outcome::Skipped(_)) => {}
        }
        let is_injected = matches!(result, Ok(Outcome::Injected(_)));
        if findings.is_empty() && is_injected {
            findings.push(Finding::new(
                &rule::KEYS_UNCHANGED,
                "the Namespace requests the sidecar, and the Pods get one",
            ));
        }
        Some(findings)
    }
}

/// Whether a controller of a known kind creates the object from its template.
fn is_created_from_template(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| {
        let kind = owner["kind"].as_str().unwrap_or_default();
        owner["controller"] == true && TEMPLATE_OWNERS.contains(&kind)
    })
}
