//! Resources of a proxy that may call Pods by IP: those that Kermode generates, and for comparison those of Kuma's form.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    Address, ConfigSource, PathConfigSource, SocketAddress, address,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::MatcherType;
use kermode_envoy::generate::{self, OnDemandAddresses};
use kermode_envoy::{Resource, names};
use kermode_model::{Dataplane, Mesh, ServiceName, TransparentProxying};
use prost::Message as _;

use super::servers::SERVICE;
use crate::mesh::{self, IDENTITY_FILE, TRUST_FILE};

/// Name of the only cluster in Kuma's form.
const SHARED_CLUSTER: &str = "direct_access";
/// Number of Pods in each network of 256 addresses.
const PODS_PER_NETWORK: usize = 250;

/// How a proxy intercepts calls to the IPs of Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Not at all.
    None,
    /// As Kermode does: an entry in the matcher of one listener, and a cluster on demand.
    OnDemand,
    /// As Kuma does: a listener for each Pod, and one cluster.
    Listeners,
}

/// Pods of a measurement.
pub(super) struct Pods {
    count: usize,
    listener_port: u16,
    server_port: u16,
    folder: PathBuf,
    mesh: Mesh,
}

impl Pods {
    pub(super) fn new(count: usize, listener_port: u16, server_port: u16, folder: &Path) -> Result<Self> {
        ensure!(
            count <= 255 * PODS_PER_NETWORK,
            "at most {} Pods are possible",
            255 * PODS_PER_NETWORK
        );
        Ok(Self {
            count,
            listener_port,
            server_port,
            folder: folder.to_owned(),
            mesh: mesh::strict(),
        })
    }

    /// Addresses that a client connects to.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.at_port(self.listener_port)
    }

    fn at_port(&self, port: u16) -> impl Iterator<Item = SocketAddr> {
        let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        (0..self.count).map(move |pod| {
            let ip = Ipv4Addr::new(
                127,
                1,
                byte(pod / PODS_PER_NETWORK),
                byte(pod % PODS_PER_NETWORK + 1),
            );
            (ip, port).into()
        })
    }

    /// Returns the resources of a proxy that may call these Pods.
    pub(super) fn resources(&self, form: Form) -> Result<Vec<Resource>> {
        let mut resources = Vec::new();
        match form {
            Form::None => {}
            Form::OnDemand => {
                resources.push(self.matching_listener()?);
                for (called, server) in self.addresses().zip(self.at_port(self.server_port)) {
                    resources.push(self.cluster_of(called, server)?);
                }
            }
            Form::Listeners => {
                resources.push(self.shared_cluster()?);
                for address in self.addresses() {
                    resources.push(self.listener_at(address)?);
                }
            }
        }
        Ok(resources)
    }

    /// Returns the generated listener, which no longer closes connections to its own port.
    fn matching_listener(&self) -> Result<Resource> {
        let addresses: BTreeSet<_> = self.addresses().collect();
        let generated = self.on_demand_listeners(&addresses);
        let generated = generated.into_iter().next().context("no listener")?;
        let mut listener = Listener::decode(generated.body.clone())?;
        let matcher = listener.filter_chain_matcher.as_mut();
        if let Some(MatcherType::MatcherList(list)) =
            matcher.and_then(|matcher| matcher.matcher_type.as_mut())
        {
            let own_port = format!("{:?}", self.listener_port.to_string());
            list.matchers
                .retain(|matcher| !format!("{matcher:?}").contains(&own_port));
        }
        Ok(with_body(generated, listener.encode_to_vec()))
    }

    /// Returns the generated cluster for the server's address, under the name for the called address.
    fn cluster_of(&self, called: SocketAddr, server: SocketAddr) -> Result<Resource> {
        let service = ServiceName::from(SERVICE);
        let generated = generate::direct_access_cluster(&self.mesh, server, [&service]);
        let mut cluster = Cluster::decode(generated.body.clone())?;
        cluster.name = names::direct_access(called);
        self.read_secrets_from_files(&mut cluster)?;
        let resource = with_body(generated, cluster.encode_to_vec());
        Ok(Resource {
            name: cluster.name.into(),
            ..resource
        })
    }

    /// Returns the cluster of Kuma's form. It connects to the original destination of a redirected connection.
    fn shared_cluster(&self) -> Result<Resource> {
        let address = (Ipv4Addr::LOCALHOST, self.server_port).into();
        let service = ServiceName::from(SERVICE);
        let generated = generate::direct_access_cluster(&self.mesh, address, [&service]);
        let mut cluster = Cluster::decode(generated.body.clone())?;
        cluster.name = SHARED_CLUSTER.into();
        cluster.load_assignment = None;
        cluster.lb_policy = LbPolicy::ClusterProvided.into();
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
        self.read_secrets_from_files(&mut cluster)?;
        let resource = with_body(generated, cluster.encode_to_vec());
        Ok(Resource {
            name: SHARED_CLUSTER.into(),
            on_demand: None,
            ..resource
        })
    }

    fn on_demand_listeners(&self, addresses: &BTreeSet<SocketAddr>) -> Vec<Resource> {
        let on_demand = OnDemandAddresses {
            direct_access: Some(addresses),
            virtual_ips: None,
        };
        generate::on_demand_listeners(&self.dataplane(), on_demand)
    }

    /// Returns the listener of Kuma's form for one address. In a Pod it would not be bound.
    fn listener_at(&self, address: SocketAddr) -> Result<Resource> {
        let generated = self.on_demand_listeners(&BTreeSet::new());
        let generated = generated.into_iter().next().context("no listener")?;
        let mut listener = Listener::decode(generated.body.clone())?;
        let passthrough = listener
            .filter_chains
            .iter()
            .find(|chain| chain.name == "passthrough");
        let mut filters = passthrough.context("no filter chain")?.filters.clone();
        for filter in &mut filters {
            if let Some(FilterConfig::TypedConfig(config)) = &mut filter.config_type {
                let mut proxy = TcpProxy::decode(&*config.value)?;
                proxy.cluster_specifier = Some(ClusterSpecifier::Cluster(SHARED_CLUSTER.into()));
                proxy.stat_prefix = names::direct_access(address).replace(['.', ':'], "_");
                config.value = proxy.encode_to_vec();
            }
        }
        listener.name = names::direct_access(address);
        listener.address = Some(address_of(address));
        listener.use_original_dst = None;
        listener.filter_chain_matcher = None;
        listener.filter_chains = vec![FilterChain {
            filters,
            ..FilterChain::default()
        }];
        let resource = with_body(generated, listener.encode_to_vec());
        Ok(Resource {
            name: listener.name.into(),
            ..resource
        })
    }

    /// Makes a cluster read its secrets from files instead of requesting them from `kuma-dp`.
    fn read_secrets_from_files(&self, cluster: &mut Cluster) -> Result<()> {
        let socket = cluster.transport_socket.as_mut();
        let config = socket.and_then(|socket| socket.config_type.as_mut());
        let Some(ConfigType::TypedConfig(config)) = config else {
            bail!("the generated cluster has no TLS");
        };
        let mut context = UpstreamTlsContext::decode(&*config.value)?;
        let common = context.common_tls_context.as_mut().context("no TLS context")?;
        for secret in &mut common.tls_certificate_sds_secret_configs {
            secret.sds_config = Some(self.file(IDENTITY_FILE));
        }
        if let Some(ValidationContextType::CombinedValidationContext(validation)) =
            &mut common.validation_context_type
            && let Some(secret) = &mut validation.validation_context_sds_secret_config
        {
            secret.sds_config = Some(self.file(TRUST_FILE));
        }
        config.value = context.encode_to_vec();
        Ok(())
    }

    fn file(&self, name: &str) -> ConfigSource {
        ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
                path: self.folder.join(name).display().to_string(),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    fn dataplane(&self) -> Dataplane {
        Dataplane {
            transparent_proxying: Some(TransparentProxying {
                redirect_port_inbound: 1,
                redirect_port_inbound_v6: None,
                redirect_port_outbound: self.listener_port,
                direct_access_services: vec!["*".into()],
                reachable_services: Vec::new(),
            }),
            ..mesh::dataplane("client", Ipv4Addr::LOCALHOST.into(), Vec::new())
        }
    }
}

/// Returns a resource with another content. Each resource is published once, so its version may stay.
fn with_body(resource: Resource, body: Vec<u8>) -> Resource {
    Resource {
        body: body.into(),
        ..resource
    }
}

fn address_of(socket: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: socket.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(socket.port().into())),
            ..Default::default()
        })),
    }
}
