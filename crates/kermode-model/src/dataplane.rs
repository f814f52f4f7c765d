//! The Dataplane: one proxy and its workload.

use std::net::IpAddr;

use crate::{MeshName, ObjectKey, Probes, Protocol, ServiceName, Tags, tag};

/// One proxy of the mesh, as its Dataplane resource describes it (docs/reference/resources.md#dataplane).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Namespace and name of the Pod.
    pub key: ObjectKey,
    /// Mesh of the proxy.
    pub mesh: MeshName,
    /// IP address of the Pod; the first address if the Pod has several.
    pub address: IpAddr,
    /// Further IP addresses of the Pod. A dual-stack Pod has one, of the other family.
    pub additional_addresses: Vec<IpAddr>,
    /// Ports that the workload serves. Empty for a gateway.
    pub inbounds: Vec<Inbound>,
    /// Present when the workload is a gateway, whose inbound traffic is not redirected.
    pub gateway: Option<Gateway>,
    /// Present when the Pod's traffic is redirected to the proxy.
    pub transparent_proxying: Option<TransparentProxying>,
    /// Port of Envoy's admin interface; `None` for [`Self::DEFAULT_ADMIN_PORT`].
    pub admin_port: Option<u16>,
    /// Virtual probes of the Pod.
    pub probes: Option<Probes>,
    /// Port and path of the metrics endpoint, from annotations of the Pod.
    pub metrics: Option<Metrics>,
}

impl Dataplane {
    /// Port of Envoy's admin interface, on loopback, and of the listener in front of it on the Pod's address
    /// (docs/reference/names-and-ports.md#ports).
    pub const DEFAULT_ADMIN_PORT: u16 = 9901;

    /// The services that the configuration of the proxy includes; `None` if it includes all services.
    pub fn reachable_services(&self) -> Option<&[String]> {
        let settings = self.transparent_proxying.as_ref()?;
        let services = settings.reachable_services.as_slice();
        (!services.is_empty()).then_some(services)
    }

    /// Port of the endpoint for metrics; `None` if the Pod asks for none.
    pub fn metrics_port(&self) -> Option<u16> {
        let metrics = self.metrics.as_ref()?;
        Some(metrics.port.unwrap_or(Metrics::DEFAULT_PORT))
    }

    /// The other use of [`Self::metrics_port`], because of which the proxy has no endpoint for metrics: Envoy would reject
    /// one of two listeners at the same address.
    pub fn metrics_port_conflict(&self) -> Option<&'static str> {
        let port = self.metrics_port()?;
        let redirect = self.transparent_proxying.as_ref();
        let is_redirected_inbound = |settings: &TransparentProxying| {
            settings.redirect_port_inbound == port || settings.redirect_port_inbound_v6 == Some(port)
        };
        let mut probes = self.probes.iter().filter(|probes| !probes.endpoints.is_empty());
        if self.inbounds.iter().any(|inbound| inbound.port == port) {
            Some("the port of an inbound")
        } else if self.admin_port.unwrap_or(Self::DEFAULT_ADMIN_PORT) == port {
            Some("the port of the sidecar's admin interface")
        } else if probes.any(|probes| probes.port == port) {
            Some("the port of the sidecar's virtual probes")
        } else if redirect.is_some_and(is_redirected_inbound) {
            Some("the port of the sidecar's redirected inbound connections")
        } else if redirect.is_some_and(|settings| settings.redirect_port_outbound == port) {
            Some("the port of the sidecar's redirected outbound connections")
        } else {
            None
        }
    }

    /// All IPs of the Pod, [`Self::address`] first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [self.address]
            .into_iter()
            .chain(self.additional_addresses.iter().copied())
    }

    /// All service names of the proxy, sorted, without duplicates: the values of `kuma.io/service`, or, for a gateway
    /// that is named after its workload, the value of [`tag::GATEWAY_SERVICE`].
    pub fn services(&self) -> Vec<ServiceName> {
        let inbounds = self.inbounds.iter().map(|inbound| inbound.tags.get(tag::SERVICE));
        let gateway = self.gateway.iter().map(|gateway| {
            let tags = &gateway.tags;
            tags.get(tag::SERVICE).or_else(|| tags.get(tag::GATEWAY_SERVICE))
        });
        let mut names: Vec<_> = inbounds
            .chain(gateway)
            .flatten()
            .map(|name| ServiceName::new(name.clone()))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// One port of the workload, as an endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The container port; [`Inbound::SERVICELESS_PORT`] for the placeholder inbound of a service-less Pod.
    pub port: u16,
    /// Tags of the inbound. Conversion always sets `kuma.io/service`.
    pub tags: Tags,
    /// Whether the inbound may receive traffic. Unknown health (`None`) counts as ready.
    pub ready: Option<bool>,
}

impl Inbound {
    /// Port of the placeholder inbound of a service-less Pod (docs/reference/dataplane.md#service-less-pods). No
    /// process listens on the port.
    pub const SERVICELESS_PORT: u16 = 49151;
    /// Maximum number of inbounds of a Dataplane. Each inbound is an endpoint in every proxy that calls the workload.
    /// In practice, only Services that select Pods by mistake exceed the limit.
    pub const MAX_PER_DATAPLANE: usize = 256;

    /// The service that the inbound belongs to: the value of `kuma.io/service`.
    pub fn service(&self) -> Option<ServiceName> {
        self.tags
            .get(tag::SERVICE)
            .map(|name| ServiceName::new(name.clone()))
    }

    /// The protocol that the tags declare; TCP if they declare no protocol or an unknown protocol.
    pub fn protocol(&self) -> Protocol {
        self.tags
            .get(tag::PROTOCOL)
            .and_then(|text| Protocol::from_tag(text))
            .unwrap_or_default()
    }

    /// Whether the inbound may receive traffic as an endpoint.
    pub fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }

    /// Whether the inbound is the placeholder inbound of a service-less Pod.
    pub fn is_placeholder(&self) -> bool {
        self.port == Self::SERVICELESS_PORT
    }
}

/// A gateway: a Pod that receives traffic from outside of the mesh (docs/reference/dataplane.md#gateways).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Kind of the gateway.
    pub kind: GatewayKind,
    /// Tags of the gateway; they contain `kuma.io/service` or [`tag::GATEWAY_SERVICE`].
    pub tags: Tags,
}

/// Kind of a gateway: who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayKind {
    /// The user runs the gateway (Kong, Traefik …), with a sidecar of Kermode.
    Delegated,
}

/// Redirection of the Pod's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransparentProxying {
    /// Port that inbound IPv4 connections are redirected to.
    pub redirect_port_inbound: u16,
    /// Port that inbound IPv6 connections are redirected to; `None` when IPv6 is not redirected.
    pub redirect_port_inbound_v6: Option<u16>,
    /// Port that outbound connections are redirected to.
    pub redirect_port_outbound: u16,
    /// Services that the workload calls by Pod IP; `*` stands for all services.
    pub direct_access_services: Vec<String>,
    /// Services that the proxy has outbound listeners for; an empty list stands for all services.
    pub reachable_services: Vec<String>,
}

/// Metrics endpoint from the annotations `prometheus.metrics.kuma.io/*` of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Port to scrape; `None` without the annotation.
    pub port: Option<u16>,
    /// Path to scrape; `None` without the annotation.
    pub path: Option<String>,
}

impl Metrics {
    /// Port to scrape if only the path is set, as in Kuma.
    pub const DEFAULT_PORT: u16 = 5670;
    /// Path to scrape if only the port is set, as in Kuma.
    pub const DEFAULT_PATH: &str = "/metrics";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_gateway(tags: &[(&str, &str)]) -> Dataplane {
        Dataplane {
            key: ObjectKey::new("demo", "kong-1"),
            mesh: MeshName::new(crate::DEFAULT_MESH),
            address: [10, 0, 0, 1].into(),
            additional_addresses: Vec::new(),
            inbounds: Vec::new(),
            gateway: Some(Gateway {
                kind: GatewayKind::Delegated,
                tags: tags
                    .iter()
                    .map(|(key, value)| ((*key).into(), (*value).into()))
                    .collect(),
            }),
            transparent_proxying: None,
            admin_port: None,
            probes: None,
            metrics: None,
        }
    }

    #[test]
    fn gateway_is_named_after_its_service_or_else_after_its_workload() {
        let workload_tag = (tag::GATEWAY_SERVICE, "kong_demo_svc");
        let service_tag = (tag::SERVICE, "kong_demo_svc_80");
        assert_eq!(mk_gateway(&[workload_tag]).services(), ["kong_demo_svc".into()]);
        assert_eq!(
            mk_gateway(&[workload_tag, service_tag]).services(),
            ["kong_demo_svc_80".into()]
        );
    }

    #[test]
    fn gateway_service_tag_is_ignored_on_an_inbound() {
        let mut dataplane = mk_gateway(&[]);
        dataplane.inbounds.push(Inbound {
            port: 80,
            tags: [(tag::GATEWAY_SERVICE.into(), "web".into())].into(),
            ready: None,
        });
        assert_eq!(dataplane.services(), []);
    }
}
