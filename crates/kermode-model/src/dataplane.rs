//! The Dataplane: one proxy and the workload beside it.

use std::net::IpAddr;

use crate::{MeshName, ObjectKey, Protocol, ServiceName, Tags, tag};

/// One proxy of the mesh, as its Dataplane resource describes it (BEHAVIOUR sections 3 and 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Namespace and name, those of the Pod.
    pub key: ObjectKey,
    /// The mesh it belongs to.
    pub mesh: MeshName,
    /// The Pod's (first) IP.
    pub address: IpAddr,
    /// What the workload serves. Empty for gateways.
    pub inbounds: Vec<Inbound>,
    /// Set when the workload is a gateway: its own traffic is not intercepted on the way in.
    pub gateway: Option<Gateway>,
    /// Set when traffic is redirected to the proxy.
    pub transparent_proxying: Option<TransparentProxying>,
    /// Port of Envoy's admin interface, when the Pod overrides the default.
    pub admin_port: Option<u16>,
    /// HTTP probes that the proxy answers on behalf of the application.
    pub probes: Option<Probes>,
    /// Metrics overrides of the Pod.
    pub metrics: Option<Metrics>,
}

impl Dataplane {
    /// Every value of `kuma.io/service` that this proxy may call itself, in order and without repeats. A gateway that
    /// is known by its Deployment has that name, under another key, and no other.
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

/// One service port of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The container port. [`Inbound::SERVICELESS_PORT`] for workloads without a Service.
    pub port: u16,
    /// Tags, `kuma.io/service` always among them.
    pub tags: Tags,
    /// Whether it may receive traffic. Absent means that nothing is known, which counts as ready.
    pub ready: Option<bool>,
}

impl Inbound {
    /// The port that stands for "no Service selects this workload"; nothing listens on it.
    pub const SERVICELESS_PORT: u16 = 49151;
    /// How many a Dataplane may have. Every proxy that calls the workload bears them, and no Pod is behind as many ports
    /// of Services by intent: a selector that matches everything is.
    pub const MOST: usize = 256;

    /// The service this inbound belongs to.
    pub fn service(&self) -> Option<ServiceName> {
        self.tags
            .get(tag::SERVICE)
            .map(|name| ServiceName::new(name.clone()))
    }

    /// The declared protocol, TCP when there is none or an unknown one.
    pub fn protocol(&self) -> Protocol {
        self.tags
            .get(tag::PROTOCOL)
            .and_then(|text| Protocol::from_tag(text))
            .unwrap_or_default()
    }

    /// Whether endpoints may be made of it.
    pub fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }

    /// Whether it only stands for a workload without a Service.
    pub fn is_serviceless(&self) -> bool {
        self.port == Self::SERVICELESS_PORT
    }
}

/// A gateway that Kermode does not run itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// How it is run.
    pub kind: GatewayKind,
    /// Its tags, `kuma.io/service` among them.
    pub tags: Tags,
}

/// How a gateway is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayKind {
    /// By the user (Kong, Traefik …), with our sidecar beside it.
    Delegated,
}

/// Redirection of the Pod's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransparentProxying {
    /// Where inbound connections are redirected to.
    pub redirect_port_inbound: u16,
    /// The same for IPv6; absent when IPv6 is not intercepted.
    pub redirect_port_inbound_v6: Option<u16>,
    /// Where outbound connections are redirected to.
    pub redirect_port_outbound: u16,
    /// Services that are reached by pod IP; `*` for all.
    pub direct_access_services: Vec<String>,
    /// The only services that are reached at all; empty for no limit.
    pub reachable_services: Vec<String>,
}

/// Virtual probes: the kubelet asks the proxy, which asks the application (BEHAVIOUR section 2.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Port the kubelet asks on.
    pub port: u16,
    /// One entry a probe.
    pub endpoints: Vec<ApplicationProbe>,
}

/// One HTTP probe of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationProbe {
    /// The application's port.
    pub inbound_port: u16,
    /// The path asked of the application.
    pub inbound_path: String,
    /// The path the kubelet asks of the proxy.
    pub path: String,
}

/// Metrics overrides of a Pod (annotations `prometheus.metrics.kuma.io/*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Port to scrape.
    pub port: Option<u16>,
    /// Path to scrape.
    pub path: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_gateway(tags: &[(&str, &str)]) -> Dataplane {
        Dataplane {
            key: ObjectKey::new("demo", "kong-1"),
            mesh: MeshName::new(crate::DEFAULT_MESH),
            address: [10, 0, 0, 1].into(),
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
    fn a_gateway_is_called_by_its_service_or_by_its_deployment() {
        let by_deployment = (tag::GATEWAY_SERVICE, "kong_demo_svc");
        let by_service = (tag::SERVICE, "kong_demo_svc_80");
        assert_eq!(mk_gateway(&[by_deployment]).services(), ["kong_demo_svc".into()]);
        assert_eq!(
            mk_gateway(&[by_deployment, by_service]).services(),
            ["kong_demo_svc_80".into()]
        );
    }

    #[test]
    fn the_key_of_gateways_means_nothing_on_an_inbound() {
        let mut dataplane = mk_gateway(&[]);
        dataplane.inbounds.push(Inbound {
            port: 80,
            tags: [(tag::GATEWAY_SERVICE.into(), "web".into())].into(),
            ready: None,
        });
        assert_eq!(dataplane.services(), []);
    }
}
