//! Input of tests: a mesh described in YAML, which is converted to a mesh view.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, generate};
use kermode_model::direct_access::{DirectAccess, EndpointAddresses};
use kermode_model::view::{Balancing, MeshView, ServiceAddresses, SliceEndpoint};
use kermode_model::{
    Action, ApplicationProbe, CertificateAuthority, Dataplane, Inbound, Mesh, MeshName, Metrics, Mtls,
    MtlsMode, ObjectKey, PermissionRule, Principal, ProbeProtocol, Probes, ServiceName, Tags,
    TrafficPermission, TransparentProxying,
};
use serde::Deserialize;

/// A mesh, and the proxy whose resources are tested.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Input {
    /// `STRICT` or `PERMISSIVE`; no mTLS when absent.
    mtls: Option<String>,
    /// Passthrough of outbound connections.
    #[serde(default = "default_true")]
    passthrough: bool,
    inbound_passthrough: Option<bool>,
    /// All callers are allowed when absent.
    permissions: Option<Vec<PermissionInput>>,
    #[serde(default)]
    services: BTreeMap<String, ServiceInput>,
    dataplanes: BTreeMap<String, DataplaneInput>,
    /// Range of virtual IPs, in CIDR notation. Services have no virtual IPs when absent.
    virtual_ip_range: Option<String>,
    /// `<name>.<namespace>` of the proxy.
    proxy: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PermissionInput {
    #[serde(default)]
    target: Tags,
    rules: Vec<RuleInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleInput {
    service: Option<String>,
    #[serde(default)]
    tags: Tags,
    action: ActionInput,
}

#[derive(Clone, Copy, Deserialize)]
enum ActionInput {
    Allow,
    Deny,
    AllowWithShadowDeny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceInput {
    /// ClusterIPs with the service port.
    #[serde(default)]
    addresses: Vec<SocketAddr>,
    #[serde(default)]
    headless: bool,
    virtual_ip: Option<Ipv4Addr>,
    /// `ByClient` or `LeftToNode`; round robin when absent.
    balancing: Option<String>,
    /// Endpoints of a Service without selector.
    #[serde(default)]
    slice_endpoints: Vec<SliceEndpointInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SliceEndpointInput {
    address: SocketAddr,
    /// Service of the inbound at the address; outside of the mesh when absent.
    identity: Option<String>,
    #[serde(default = "default_true")]
    ready: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DataplaneInput {
    address: IpAddr,
    #[serde(default)]
    additional_addresses: Vec<IpAddr>,
    #[serde(default)]
    inbound: Vec<InboundInput>,
    #[serde(default = "default_true")]
    redirected: bool,
    redirect_port_inbound_v6: Option<u16>,
    redirect_port_outbound: Option<u16>,
    #[serde(default)]
    direct_access_services: Vec<String>,
    #[serde(default)]
    reachable_services: Vec<String>,
    admin_port: Option<u16>,
    #[serde(default)]
    probes: Vec<ProbeInput>,
    metrics: Option<MetricsInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InboundInput {
    port: u16,
    ready: Option<bool>,
    tags: Tags,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MetricsInput {
    port: Option<u16>,
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProbeInput {
    protocol: Option<String>,
    port: u16,
    #[serde(default)]
    path: String,
}

fn default_true() -> bool {
    true
}

const MESH: &str = "default";

impl Input {
    /// Parses an input in YAML.
    pub(crate) fn parse(yaml: &str) -> Self {
        serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("the input does not parse: {error}"))
    }

    /// Returns the name of the tested proxy.
    pub(crate) fn proxy(&self) -> ObjectKey {
        ObjectKey::from_proxy_name(&self.proxy).expect("proxy is <name>.<namespace>")
    }

    /// Generates all resources that the proxy gets: its own resources, and the resources that it shares with other
    /// proxies.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        let view = self.view();
        let mesh = view.mesh(&MESH.into()).expect("the mesh");
        let dataplane = view.dataplane(&self.proxy()).expect("proxy is one of dataplanes");
        let hidden = generate::hidden_resource_names(dataplane);
        let reachable_services = dataplane
            .transparent_proxying
            .as_ref()
            .map(|transparent_proxying| &transparent_proxying.reachable_services)
            .filter(|names| !names.is_empty());
        let mut resources = Vec::new();
        for (name, service) in view.services(&mesh.name) {
            let is_reachable = reachable_services
                .is_none_or(|names| names.iter().any(|reachable| reachable == name.as_str()));
            if !is_reachable {
                continue;
            }
            let service_resources = generate::service(mesh, name, service);
            assert!(
                service_resources
                    .iter()
                    .all(|resource| resource.service.as_ref() == Some(name))
            );
            resources.extend(
                service_resources
                    .into_iter()
                    .filter(|resource| !hidden.contains(&(resource.kind, resource.name.to_string()))),
            );
        }
        resources.extend(generate::mesh_shared(mesh));
        let endpoints = EndpointAddresses::of(&view, &mesh.name);
        let direct_access = DirectAccess::of(dataplane).map(|access| access.addresses(&endpoints));
        resources.extend(generate::proxy(
            mesh,
            dataplane,
            view.permissions(&mesh.name),
            OnDemandAddresses {
                direct_access: direct_access.as_ref(),
                virtual_ips: self
                    .virtual_ip_range
                    .as_deref()
                    .map(|range| range.parse().expect("a range")),
            },
        ));
        let direct_clusters = direct_access
            .into_iter()
            .flatten()
            .map(|address| generate::direct_access_cluster(mesh, address, endpoints.services_at(address)));
        resources.extend(direct_clusters);
        resources
    }

    fn view(&self) -> MeshView {
        let mut view = MeshView::default();
        let mut mesh = Mesh::new(MESH);
        mesh.outbound_passthrough = self.passthrough;
        mesh.inbound_passthrough = self.inbound_passthrough;
        mesh.mtls = self.mtls.as_deref().map(mk_mtls);
        view.upsert_mesh(mesh);
        for (name, service) in &self.services {
            let addresses = ServiceAddresses {
                cluster_addresses: service.addresses.clone(),
                headless: service.headless,
                balancing: match service.balancing.as_deref() {
                    Some("ByClient") => Balancing::ByClient,
                    Some("LeftToNode") => Balancing::LeftToNode,
                    _ => Balancing::RoundRobin,
                },
            };
            let name = ServiceName::new(name.as_str());
            view.set_addresses(&name, Some(addresses));
            let endpoints = service.slice_endpoints.iter();
            let endpoints = endpoints.map(|endpoint| (endpoint.address, mk_slice_endpoint(endpoint)));
            view.set_slice_endpoints(&MESH.into(), &name, endpoints.collect());
        }
        for (name, dataplane) in &self.dataplanes {
            view.upsert_dataplane(mk_dataplane(name, dataplane));
        }
        let services = self.services.iter();
        let virtual_ips =
            services.filter_map(|(name, service)| Some((name.as_str().into(), service.virtual_ip?)));
        view.set_virtual_ips(&MESH.into(), virtual_ips.collect());
        let permissions: Vec<_> = self.permissions.as_ref().map_or_else(
            || {
                vec![TrafficPermission {
                    target: Tags::new(),
                    rules: vec![allow_all()],
                }]
            },
            |permissions| permissions.iter().map(mk_permission).collect(),
        );
        // Among permissions with equal precedence, the alphabetically first name wins. In the input, the last
        // permission wins, so the names are given in reverse order.
        for (number, permission) in permissions.into_iter().rev().enumerate() {
            let key = ObjectKey::new("kuma-control-plane", format!("permission-{number:02}"));
            view.upsert_permission(&key, &MeshName::new(MESH), permission);
        }
        view
    }
}

fn mk_slice_endpoint(input: &SliceEndpointInput) -> SliceEndpoint {
    SliceEndpoint {
        identity: input.identity.as_deref().map(ServiceName::from),
        ready: input.ready,
    }
}

fn mk_mtls(mode: &str) -> Mtls {
    let mode = match mode {
        "STRICT" => MtlsMode::Strict,
        "PERMISSIVE" => MtlsMode::Permissive,
        other => panic!("mtls is STRICT or PERMISSIVE, not {other}"),
    };
    Mtls {
        backend: "ca-1".into(),
        mode,
        authority: CertificateAuthority::Builtin,
        certificate_lifetime: Duration::from_hours(24),
    }
}

fn allow_all() -> PermissionRule {
    PermissionRule {
        from: Principal::default(),
        action: Action::Allow,
    }
}

fn mk_permission(input: &PermissionInput) -> TrafficPermission {
    let rule = |rule: &RuleInput| PermissionRule {
        from: Principal {
            service: rule.service.as_deref().map(ServiceName::from),
            tags: rule.tags.clone(),
        },
        action: match rule.action {
            ActionInput::Allow => Action::Allow,
            ActionInput::Deny => Action::Deny,
            ActionInput::AllowWithShadowDeny => Action::AllowWithShadowDeny,
        },
    };
    TrafficPermission {
        target: input.target.clone(),
        rules: input.rules.iter().map(rule).collect(),
    }
}

fn mk_protocol(probe: &ProbeInput) -> ProbeProtocol {
    match probe.protocol.as_deref() {
        None => ProbeProtocol::Http,
        Some("HTTPS") => ProbeProtocol::Https,
        Some("TCP") => ProbeProtocol::Tcp,
        Some("GRPC") => ProbeProtocol::Grpc,
        Some(other) => panic!("protocol is HTTPS, TCP or GRPC, not {other}"),
    }
}

fn mk_dataplane(name: &str, input: &DataplaneInput) -> Dataplane {
    let inbound = |inbound: &InboundInput| Inbound {
        port: inbound.port,
        tags: inbound.tags.clone(),
        ready: inbound.ready,
    };
    let probe = |probe: &ProbeInput| ApplicationProbe::new(mk_protocol(probe), probe.port, &probe.path);
    Dataplane {
        key: ObjectKey::from_proxy_name(name).expect("dataplanes are named <name>.<namespace>"),
        mesh: MESH.into(),
        address: input.address,
        additional_addresses: input.additional_addresses.clone(),
        inbounds: input.inbound.iter().map(inbound).collect(),
        gateway: None,
        transparent_proxying: input.redirected.then(|| TransparentProxying {
            redirect_port_inbound: 15006,
            redirect_port_inbound_v6: input.redirect_port_inbound_v6,
            redirect_port_outbound: input.redirect_port_outbound.unwrap_or(15001),
            direct_access_services: input.direct_access_services.clone(),
            reachable_services: input.reachable_services.clone(),
        }),
        admin_port: input.admin_port,
        probes: (!input.probes.is_empty()).then(|| Probes {
            port: 9000,
            endpoints: input.probes.iter().map(probe).collect(),
        }),
        metrics: input.metrics.as_ref().map(|metrics| Metrics {
            port: metrics.port,
            path: metrics.path.clone(),
        }),
    }
}
