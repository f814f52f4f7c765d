//! Virtual probes: HTTP probes of the application go to a port of the proxy that takes them without mTLS
//! (BEHAVIOUR section 2.8).

use serde_json::Value;

use crate::denial::Denial;
use crate::names::SIDECAR;
use crate::pod::{Container, Pod};
use crate::trace::{Trace, TraceTopic};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// A probe of the Pod as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The container's place in `spec.containers`.
    pub(crate) container: usize,
    /// The probe's field.
    pub(crate) probe: &'static str,
    /// New path and port.
    pub(crate) target: VirtualTarget,
    /// Whether the probe has a path already.
    pub(crate) has_path: bool,
}

/// Where a virtual probe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualTarget {
    /// `/<port of the application><its path>`.
    pub path: String,
    /// The port of the virtual probes.
    pub port: u16,
}

/// The virtual form of a probe of `port` and `path`.
///
/// # Errors
/// When the probe is on the port of the virtual probes itself.
pub fn to_virtual(port: u16, path: &str, virtual_port: u16) -> Result<VirtualTarget, Denial> {
    if port == virtual_port {
        return Err(Denial::ProbePortReserved { port });
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(VirtualTarget {
        path: format!("/{port}{slash}{path}"),
        port: virtual_port,
    })
}

/// All HTTP probes of all containers but the sidecar, rewritten.
pub(crate) fn rewrite(pod: &Pod<'_>, virtual_port: u16, trace: &mut Trace) -> Result<Vec<Rewritten>, Denial> {
    let mut rewritten = Vec::new();
    for (index, container) in pod.containers.iter().enumerate() {
        if container.name == SIDECAR {
            continue;
        }
        for probe in PROBES {
            let Some(http) = container
                .object(probe)
                .and_then(|probe| probe.get("httpGet"))
                .and_then(Value::as_object)
            else {
                continue;
            };
            let path = http.get("path").and_then(Value::as_str);
            let port = port(container, probe, http.get("port"))?;
            let target = to_virtual(port, path.unwrap_or_default(), virtual_port)?;
            trace.note(TraceTopic::Probes, || {
                format!(
                    "{probe} of container {} goes to port {}, path {}",
                    container.name, target.port, target.path
                )
            });
            rewritten.push(Rewritten {
                container: index,
                probe,
                target,
                has_path: http.contains_key("path"),
            });
        }
    }
    Ok(rewritten)
}

/// The port as a number; a name is looked up among the container's own ports.
fn port(container: &Container<'_>, probe: &'static str, port: Option<&Value>) -> Result<u16, Denial> {
    let denial = |problem: String| Denial::ProbePort {
        container: container.name.to_owned(),
        probe,
        problem,
    };
    let number = match port {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(name)) => match named_port(container, name) {
            Some(number) => Some(number),
            // Kubernetes reads a text of digits as a name too, so this is the last resort.
            None => Some(
                name.parse()
                    .map_err(|_| denial(format!("the container has no port named {name:?}")))?,
            ),
        },
        _ => None,
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| denial("must be a port from 1 to 65535 or the name of one".to_owned()))
}

fn named_port(container: &Container<'_>, name: &str) -> Option<u64> {
    let mut ports = container.list("ports").iter();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    port.get("containerPort")?.as_u64()
}
