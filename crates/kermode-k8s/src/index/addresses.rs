//! Addresses of the ports of a Service, for the mesh view.

use std::net::SocketAddr;

use kermode_model::ServiceName;
use kermode_model::view::ServiceAddresses;

use crate::convert::facts::ServiceFacts;

/// Returns, for each port of a Service, the port's service name (the value of `kuma.io/service`) and addresses. Returns
/// nothing if the Service neither yields inbounds nor takes its endpoints from EndpointSlices.
pub fn of_service(service: &ServiceFacts) -> impl Iterator<Item = (ServiceName, ServiceAddresses)> {
    let ports = if service.yields_inbounds() || service.takes_endpoints_from_slices() {
        &*service.ports
    } else {
        &[]
    };
    ports.iter().map(|port| {
        let cluster_ips = service.cluster_ips.iter();
        let addresses = ServiceAddresses {
            cluster_addresses: cluster_ips.map(|ip| SocketAddr::new(*ip, port.number)).collect(),
            headless: service.is_headless,
            balancing: service.balancing,
        };
        (port.service_name().clone(), addresses)
    })
}
