//! Turns the application's HTTP probes into virtual probes, which a plaintext listener of the sidecar answers
//! (docs/reference/injection.md#virtual-probes).

use serde_json::{Map, Value};

use crate::denial::Denial;
use crate::pod::{Container, Pod};
use crate::trace::{Trace, TraceTopic};

/// Fields of a container that hold a probe.
const PROBE_FIELDS: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// An HTTP probe of the application that becomes a virtual probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RewrittenProbe {
    /// Index of the container in `spec.containers`.
    pub(crate) container_index: usize,
    /// Field of the container that holds the probe.
    pub(crate) field: &'static str,
    /// New path and port.
    pub(crate) target: VirtualTarget,
    /// Whether the original probe has the member `path`.
    pub(crate) has_path: bool,
}

/// Target of a virtual probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualTarget {
    /// `/<application port><original path>`.
    pub path: String,
    /// Port of the virtual probes.
    pub port: u16,
}

/// Returns the virtual target of a probe whose original target is `port` and `path`.
///
/// # Errors
/// When `port` is the port of the virtual probes.
pub fn virtual_target(port: u16, path: &str, virtual_port: u16) -> Result<VirtualTarget, Denial> {
    if port == virtual_port {
        return Err(Denial::ProbePortReserved { port });
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(VirtualTarget {
        path: format!("/{port}{slash}{path}"),
        port: virtual_port,
    })
}

/// Rewrites the HTTP probes of all containers. In a Pod that was injected already (`was_injected`), rewritten probes are
/// left as they are.
pub(crate) fn rewrite(
    pod: &Pod<'_>,
    virtual_port: u16,
    was_injected: bool,
    trace: &mut Trace,
) -> Result<Vec<RewrittenProbe>, Denial> {
    let mut rewritten = Vec::new();
    for (index, container) in pod.containers.iter().enumerate() {
        for field in PROBE_FIELDS {
            let Some(http) = container
                .object(field)
                .and_then(|probe| probe.get("httpGet"))
                .and_then(Value::as_object)
            else {
                continue;
            };
            let path = http.get("path").and_then(Value::as_str);
            if was_injected && is_rewritten(http, virtual_port) {
                continue;
            }
            let port = resolve_port(container, field, http.get("port"))?;
            let target = virtual_target(port, path.unwrap_or_default(), virtual_port)?;
            trace.note(TraceTopic::Probes, || {
                format!(
                    "{field} of container {} goes to port {}, path {}",
                    container.name, target.port, target.path
                )
            });
            rewritten.push(RewrittenProbe {
                container_index: index,
                field,
                target,
                has_path: http.contains_key("path"),
            });
        }
    }
    Ok(rewritten)
}

/// Whether a probe goes to the virtual probes port already, with the application's port in its path.
fn is_rewritten(http: &Map<String, Value>, virtual_port: u16) -> bool {
    let path = http.get("path").and_then(Value::as_str).unwrap_or_default();
    let port = path.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    http.get("port").and_then(Value::as_u64) == Some(virtual_port.into())
        && port.is_some_and(|(port, _)| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Resolves the port of a probe. A name is looked up among the container's ports.
fn resolve_port(container: &Container<'_>, field: &'static str, port: Option<&Value>) -> Result<u16, Denial> {
    let denial = |problem: String| Denial::ProbePort {
        container: container.name.to_owned(),
        probe: field,
        problem,
    };
    let number = match port {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(name)) => match named_port(container, name) {
            Some(number) => Some(number),
            // A string that is not the name of a port may be a number.
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
        .ok_or_else(|| denial("must be a port number from 1 to 65535 or the name of a port".to_owned()))
}

fn named_port(container: &Container<'_>, name: &str) -> Option<u64> {
    let mut ports = container.list("ports").iter();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    port.get("containerPort")?.as_u64()
}
