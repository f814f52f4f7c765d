//! Virtual probes: derives the probes of the application from the probes that injection has rewritten
//! (docs/reference/injection.md#virtual-probes).

use std::collections::HashSet;

use kermode_crds::annotation;
use kermode_model::{ApplicationProbe, MAX_PROBES, Probes};

use super::annotations;
use super::error::ConvertError;
use super::facts::{PodFacts, ProbeFacts};
use super::warning::ConvertWarning;

/// Returns the probes that the proxy answers, without duplicates; `None` if the Pod has no virtual probes.
pub(super) fn probes(
    pod: &PodFacts,
    warnings: &mut Vec<ConvertWarning>,
) -> Result<Option<Probes>, ConvertError> {
    if annotations::boolean(pod, annotation::VIRTUAL_PROBES)? != Some(true) {
        return Ok(None);
    }
    let port =
        annotations::port(pod, annotation::VIRTUAL_PROBES_PORT)?.ok_or(ConvertError::MissingProbesPort)?;
    let mut endpoints = Vec::new();
    let mut paths = HashSet::new();
    for probe in pod.probes.iter().filter(|probe| probe.port == port) {
        match ApplicationProbe::from_path(&probe.path) {
            Some(endpoint) if paths.insert(&probe.path) => endpoints.push(endpoint),
            // A probe with the same path is a duplicate.
            Some(_) => {}
            None => warnings.push(not_rewritten(probe)),
        }
    }
    let skipped = endpoints.len().saturating_sub(MAX_PROBES);
    if skipped > 0 {
        endpoints.truncate(MAX_PROBES);
        warnings.push(ConvertWarning::TooManyProbes { skipped });
    }
    Ok(Some(Probes { port, endpoints }))
}

fn not_rewritten(probe: &ProbeFacts) -> ConvertWarning {
    let list = if probe.is_init {
        "initContainers"
    } else {
        "containers"
    };
    ConvertWarning::ProbePath {
        field: format!("spec.{list}[{}].{}", probe.container, probe.kind.field()),
        port: probe.port,
        path: probe.path.clone(),
    }
}
