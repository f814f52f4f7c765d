//! State of one sidecar for `kumactl inspect dataplane`: reports from the responses of Envoy's admin interface, and from
//! the Dataplane and the MeshTrafficPermissions of the cluster.
//!
//! ```text
//! responses of Envoy, objects ──▶ Clusters, Certificates, Configuration, Permissions, Statistics ──▶ table, JSON, YAML
//! ```
//!
//! The admin interface is not part of Envoy's stable API, so a field that is missing in a response is left out of the
//! report. <https://www.envoyproxy.io/docs/envoy/latest/operations/admin>

mod certificates;
mod clusters;
mod configuration;
mod permissions;
mod statistics;
mod summary;

use serde_json::Value;

pub use certificates::{Certificate, CertificateKind, Certificates};
pub use clusters::{Cluster, Clusters, Endpoint};
pub use configuration::{Configuration, ConfiguredResource};
pub use permissions::{AppliedPermission, InboundPermissions, PermissionRuleReport, Permissions};
pub use statistics::{Direction, Statistic, Statistics, Traffic};
pub use summary::{NoSidecar, Summary, admin_port, summary};

/// Reason why a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Envoy's response is not JSON.
    #[error("the response of Envoy to GET {path} is not JSON; check the version of Envoy")]
    Json {
        /// The requested path.
        path: &'static str,
        /// The problem.
        source: serde_json::Error,
    },
    /// An object cannot be decoded.
    #[error("{kind} {name} cannot be decoded; check that kumactl has the version of the control plane")]
    Object {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object.
        name: String,
        /// The problem.
        source: serde_json::Error,
    },
}

fn json(path: &'static str, response: &[u8]) -> Result<Value, InspectError> {
    serde_json::from_slice(response).map_err(|source| InspectError::Json { path, source })
}

/// Returns the elements of a list in a response; none if the list is missing.
fn elements<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    object[key].as_array().into_iter().flatten()
}

fn text(object: &Value, key: &str) -> String {
    object[key].as_str().unwrap_or_default().to_owned()
}

/// Formats the address of a socket as `IP:port`, with IPv6 addresses in brackets.
fn address(object: &Value) -> String {
    let socket = &object["address"]["socket_address"];
    let (host, port) = (text(socket, "address"), &socket["port_value"]);
    if host.is_empty() {
        return text(&object["address"]["pipe"], "path");
    }
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
