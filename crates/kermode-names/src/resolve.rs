//! Resolution of a name against the mesh view. Pure.
//!
//! | name | addresses |
//! |---|---|
//! | `<kuma.io/service>.mesh` | virtual IP of the service |
//! | `<kuma.io/service>.<Pod>.mesh` | IPs of a Pod of a headless service |
//!
//! In both, the service may also be written with `.` in place of each `_`. The forms cannot be confused, although the name
//! of a Pod may contain dots: the names of Services, namespaces and Pods contain no `_`, so a first label with `_` is the
//! whole service, and otherwise the service is the first four labels (`<Service>.<namespace>.svc.<port>`).

use std::net::IpAddr;

use kermode_model::direct_access::DirectAccess;
use kermode_model::view::{MeshView, Service};
use kermode_model::{Dataplane, MESH_DOMAIN, ObjectKey, ServiceName};

/// Number of labels of a service that is written with dots.
const DOTTED_SERVICE_LABELS: usize = 4;

/// Result of a resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Virtual IP of a service.
    Service(IpAddr),
    /// IPs of a Pod of a headless service; at least one.
    Pod(Vec<IpAddr>),
    /// The mesh does not have the name, or the proxy cannot reach the service.
    Unknown,
    /// The service has no virtual IP yet, or no virtual IP was free.
    WithoutAddress,
}

/// Parts of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts<'n> {
    service: ServiceName,
    /// Name of the Pod.
    pod: Option<&'n str>,
}

/// Resolves a name for the proxy that `dataplane` describes.
pub fn resolve(view: &MeshView, dataplane: &Dataplane, name: &str) -> Resolution {
    let Some(Parts { service: name, pod }) = parse(name) else {
        return Resolution::Unknown;
    };
    let Some(service) = view.service(&dataplane.mesh, &name) else {
        return Resolution::Unknown;
    };
    match pod {
        None if reaches_service(dataplane, &name) => virtual_ip(service),
        Some(pod) if reaches_pods(dataplane, &name) => {
            let ips = ips_of_pod(view, dataplane, &name, service, pod);
            if ips.is_empty() {
                Resolution::Unknown
            } else {
                Resolution::Pod(ips)
            }
        }
        _ => Resolution::Unknown,
    }
}

/// Returns the parts of a name; `None` if no service can have the name.
fn parse(name: &str) -> Option<Parts<'_>> {
    let name = name.strip_suffix(MESH_DOMAIN)?.strip_suffix('.')?;
    let (first, rest) = match name.split_once('.') {
        None => (name, None),
        Some((first, rest)) => (first, Some(rest)),
    };
    if first.contains('_') {
        let service = ServiceName::from(first);
        return Some(Parts { service, pod: rest });
    }
    let mut labels = name.splitn(DOTTED_SERVICE_LABELS + 1, '.');
    let of_service: Vec<_> = labels.by_ref().take(DOTTED_SERVICE_LABELS).collect();
    let service = ServiceName::new(of_service.join("_"));
    let is_service = of_service.len() == DOTTED_SERVICE_LABELS && service.service_port().is_some();
    is_service.then(|| Parts {
        service,
        pod: labels.next(),
    })
}

/// Whether the configuration of the proxy includes the service.
fn reaches_service(dataplane: &Dataplane, service: &ServiceName) -> bool {
    let reachable = dataplane.reachable_services();
    reachable.is_none_or(|names| names.iter().any(|name| name == service.as_str()))
}

/// Whether the proxy has the listeners of the Pods of a headless service. Every proxy that reaches the service has them,
/// with and without direct access (docs/reference/envoy.md#outbound-listeners).
fn reaches_pods(dataplane: &Dataplane, service: &ServiceName) -> bool {
    reaches_service(dataplane, service)
        || DirectAccess::of(dataplane).is_some_and(|access| access.selects(service))
}

fn virtual_ip(service: &Service) -> Resolution {
    if !service.is_callable_by_virtual_ip() {
        return Resolution::Unknown;
    }
    let address = service.virtual_address();
    address.map_or(Resolution::WithoutAddress, |address| {
        Resolution::Service(address.ip())
    })
}

/// Returns the IPs at which a Pod is an endpoint of a headless service, unready Pods included: the Pods of a StatefulSet
/// look each other up before they are ready. The Pod is in the namespace of the Service.
fn ips_of_pod(
    view: &MeshView,
    caller: &Dataplane,
    name: &ServiceName,
    service: &Service,
    pod: &str,
) -> Vec<IpAddr> {
    let namespace = name.service_port().map(|(key, _)| key.namespace);
    let key = namespace.map(|namespace| ObjectKey::new(namespace, pod));
    let dataplane = key.as_ref().and_then(|key| view.dataplane(key));
    let Some(dataplane) = dataplane.filter(|pod| service.addresses.headless && pod.mesh == caller.mesh)
    else {
        return Vec::new();
    };
    let is_endpoint = |ip: &IpAddr| {
        let inbounds = dataplane.inbounds.iter();
        let mut ports = inbounds.filter(|inbound| inbound.service().as_ref() == Some(name));
        // The IP may belong to another Pod now.
        ports.any(|inbound| {
            let endpoint = service.endpoints.get(&(*ip, inbound.port).into());
            endpoint.is_some_and(|endpoint| endpoint.dataplane == dataplane.key)
        })
    };
    dataplane.addresses().filter(is_endpoint).collect()
}

#[cfg(test)]
mod tests;
