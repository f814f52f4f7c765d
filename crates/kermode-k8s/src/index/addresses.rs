//! Addresses of the ports of a Service, for the mesh view.

use std::net::SocketAddr;

use kermode_model::ServiceName;
use kermode_model::view::ServiceAddresses;

use crate::convert::facts::ServiceFacts;

/// Returns, for each port of a Service, the service name of the port's inbounds and the addresses of the port. Empty if
/// the Service takes no part in the mesh.
pub fn of_service(service: &ServiceFacts) -> impl Iterator<Item = (ServiceName, ServiceAddresses)> {
    let ports = if service.yields_inbounds() || service.has_own_endpoints() {
        &*service.ports
    } else {
        &[]
    };
    ports.iter().map(|port| {
        let cluster_ips = service.cluster_ips.iter();
        let addresses = ServiceAddresses {
            cluster_ips: cluster_ips.map(|ip| SocketAddr::new(*ip, port.number)).collect(),
            headless: service.is_headless,
            balancing: service.balancing,
        };
        (port.service_name().clone(), addresses)
    })
}
