//! Facts of EndpointSlices that belong to Services without selector.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kermode_model::ObjectKey;

use super::{is_tcp, port_number};

/// Label with the name of the Service of an EndpointSlice.
/// <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#ownership>
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Label selector of the EndpointSlices that Kubernetes does not derive from the selector of a Service.
/// <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#management>
pub const NOT_DERIVED_FROM_SELECTOR: &str =
    "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

/// Facts of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSliceFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Name of the Service, which is in the same namespace.
    pub service: Arc<str>,
    /// TCP ports with the names of the Service's ports; the name of a single port may be empty.
    pub ports: Box<[(Arc<str>, u16)]>,
    /// Addresses of the endpoints, and whether each endpoint is ready.
    pub endpoints: Box<[(IpAddr, bool)]>,
}

impl EndpointSliceFacts {
    /// Returns the facts of an EndpointSlice; `None` if it belongs to no Service.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter(|port| is_tcp(port.protocol.as_ref()));
        let endpoints = slice.endpoints.iter().flat_map(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            // Clients take an unknown condition for ready.
            let is_ready = conditions.and_then(|conditions| conditions.ready) != Some(false);
            // Addresses of the type FQDN cannot be parsed.
            let addresses = endpoint.addresses.iter();
            addresses.filter_map(move |address| Some((address.parse().ok()?, is_ready)))
        });
        Some(Self {
            key: super::pod::key_of(&slice.metadata),
            service: labels.get(SERVICE_LABEL)?.as_str().into(),
            ports: ports
                .filter_map(|port| {
                    Some((
                        port.name.as_deref().unwrap_or_default().into(),
                        port_number(port.port?)?,
                    ))
                })
                .collect(),
            endpoints: endpoints.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts_of(slice: Value) -> Option<EndpointSliceFacts> {
        EndpointSliceFacts::of(&serde_json::from_value(slice).expect("an EndpointSlice"))
    }

    #[test]
    fn tcp_ports_and_ip_addresses_are_read() {
        let facts = facts_of(json!({
            "metadata": {"name": "db-1", "namespace": "demo", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"port": 5432}, {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "any"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["db.example.com"], "conditions": {"ready": true}},
            ],
        }));
        let facts = facts.expect("a slice with a Service");
        assert_eq!(facts.key, ObjectKey::new("demo", "db-1"));
        assert_eq!(&*facts.service, "db");
        assert_eq!(*facts.ports, [("".into(), 5432)]);
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        assert_eq!(*facts.endpoints, [(ip(1), true), (ip(2), false)]);
    }

    #[test]
    fn slice_without_a_service_has_no_facts() {
        let metadata = json!({"name": "db-1", "namespace": "demo"});
        assert_eq!(
            facts_of(json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []})),
            None
        );
    }
}
