//! Virtual probes: derives the probes of the application from the probes that injection has rewritten
//! (docs/reference/injection.md#virtual-probes).

use kermode_crds::annotation;
use kermode_model::{ApplicationProbe, Probes};

use super::annotations;
use super::error::ConvertError;
use super::facts::{PodFacts, ProbeFacts};

/// Returns the probes that the proxy serves, without duplicates.
pub(super) fn probes(pod: &PodFacts) -> Result<Option<Probes>, ConvertError> {
    if annotations::boolean(pod, annotation::VIRTUAL_PROBES)? != Some(true) {
        return Ok(None);
    }
    let port =
        annotations::port(pod, annotation::VIRTUAL_PROBES_PORT)?.ok_or(ConvertError::MissingProbesPort)?;
    let mut endpoints = Vec::new();
    for probe in pod.probes.iter().filter(|probe| probe.port == port) {
        let endpoint = application_probe(&probe.path).ok_or_else(|| invalid_path(probe))?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(Some(Probes { port, endpoints }))
}

/// Parses a path of the form `/<application port><path>`.
fn application_probe(path: &str) -> Option<ApplicationProbe> {
    let rest = path.strip_prefix('/')?;
    let (port, original) = rest.split_at(rest.find('/')?);
    Some(ApplicationProbe {
        inbound_port: port.parse().ok().filter(|port| *port != 0)?,
        inbound_path: original.to_owned(),
        path: path.to_owned(),
    })
}

fn invalid_path(probe: &ProbeFacts) -> ConvertError {
    ConvertError::InvalidProbePath {
        container: probe.container,
        kind: probe.kind,
        port: probe.port,
        path: probe.path.to_string(),
    }
}
