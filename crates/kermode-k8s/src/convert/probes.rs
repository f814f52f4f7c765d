//! Virtual probes: undoing the injector's rewriting (BEHAVIOUR sections 2.8 and 3.5).

use kermode_crds::annotation;
use kermode_model::{ApplicationProbe, Probes};

use super::annotations;
use super::error::ConvertError;
use super::facts::{PodFacts, ProbeFacts};

/// The probes that the proxy answers, each once however many containers and kinds of probes share it.
pub(super) fn probes(pod: &PodFacts) -> Result<Option<Probes>, ConvertError> {
    if annotations::boolean(pod, annotation::VIRTUAL_PROBES)? != Some(true) {
        return Ok(None);
    }
    let port = annotations::port(pod, annotation::VIRTUAL_PROBES_PORT)?.ok_or(ConvertError::ProbesPort)?;
    let mut endpoints = Vec::new();
    for probe in pod.probes.iter().filter(|probe| probe.port == port) {
        let endpoint = real(&probe.path).ok_or_else(|| refused(probe))?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(Some(Probes { port, endpoints }))
}

/// What a path of the form `/<application port><path>` stands for.
fn real(path: &str) -> Option<ApplicationProbe> {
    let rest = path.strip_prefix('/')?;
    let (port, real) = rest.split_at(rest.find('/')?);
    Some(ApplicationProbe {
        inbound_port: port.parse().ok().filter(|port| *port != 0)?,
        inbound_path: real.to_owned(),
        path: path.to_owned(),
    })
}

fn refused(probe: &ProbeFacts) -> ConvertError {
    ConvertError::ProbePath {
        container: probe.container,
        kind: probe.kind,
        port: probe.port,
        path: probe.path.to_string(),
    }
}
