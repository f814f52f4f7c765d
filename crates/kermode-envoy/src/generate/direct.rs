//! Clusters on demand: connections to Pods by their IP addresses (docs/reference/envoy.md#direct-access), and to virtual
//! IPs of services (docs/reference/envoy.md#virtual-ips). [`kermode_model::direct_access`] determines the addresses for
//! direct access of each proxy.
//!
//! A Pod that the application does not call costs its proxy one entry in the matcher of the outbound passthrough
//! listener. All virtual IPs together have one entry, their range. The matcher selects one filter chain for direct
//! access, and another one for virtual IPs. The filter chain names a cluster after the destination of the connection,
//! and Envoy requests the cluster from the control plane when it is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::EdsClusterConfig;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{
    Key, Value,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::OnDemand as ClusterDiscovery;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::{
    DestinationIpInput, DestinationPortInput,
};
use envoy_types::pb::google::protobuf::StringValue;
use envoy_types::pb::xds::core::v3::{CidrRange, TypedExtensionConfig};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::single_predicate::Matcher as ValueMatcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_tree::TreeType;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Outcome;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherTree, MatcherType, OnMatch};
use envoy_types::pb::xds::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::xds::r#type::matcher::v3::{Matcher, StringMatcher};
use kermode_model::{Mesh, ServiceName, VIRTUAL_IP_PORT, VirtualIpRange};
use prost::{Message, Name};

use super::outbound::CONNECT_ATTEMPTS;
use super::tls::MeshTls;
use super::{cluster, listener};
use crate::proto::{any, duration, network_filter, number};
use crate::{OnDemand, Resource, ResourceKind, names};

/// Maximum time for which a connection waits for its cluster. After this time, Envoy closes the connection.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// `xds.type.matcher.v3.IPMatcher`, which envoy-types does not contain: selects by a trie of IP ranges.
#[derive(Clone, PartialEq, Message)]
struct IpMatcher {
    #[prost(message, repeated, tag = "1")]
    range_matchers: Vec<IpRangeMatcher>,
}

/// `xds.type.matcher.v3.IPMatcher.IPRangeMatcher`.
#[derive(Clone, PartialEq, Message)]
struct IpRangeMatcher {
    #[prost(message, repeated, tag = "1")]
    ranges: Vec<CidrRange>,
    #[prost(message, optional, tag = "2")]
    on_match: Option<OnMatch>,
    /// Whether the matchers of enclosing ranges are skipped if `on_match` does not match.
    #[prost(bool, tag = "3")]
    exclusive: bool,
}

/// The cluster for the connections to one address of a Pod. The certificate of the Pod must have the identity of one of
/// `services`, the services of the Pod at this address.
pub(crate) fn cluster<'a>(
    mesh: &Mesh,
    address: SocketAddr,
    services: impl IntoIterator<Item = &'a ServiceName>,
) -> Resource {
    let name = names::direct_access(address);
    let cluster = Cluster {
        alt_stat_name: names::DIRECT_ACCESS.into(),
        transport_socket: MeshTls::of(mesh).map(|mesh_tls| mesh_tls.to_any_of(services)),
        ..cluster::with_keepalive(cluster::single_address(&name, address))
    };
    Resource {
        on_demand: Some(Box::new(OnDemand::default())),
        ..Resource::encode(ResourceKind::Cluster, &name, &cluster)
    }
}

/// The resources for connections to the virtual IP of a service, on demand. `cluster` is the cluster of the service, or
/// an equal one, for TCP. `endpoints` are the endpoints of `cluster` if they are not part of it.
pub(crate) fn virtual_ip_resources(
    address: SocketAddr,
    service: &ServiceName,
    cluster: Cluster,
    endpoints: Option<&ClusterLoadAssignment>,
) -> Vec<Resource> {
    let name = names::virtual_ip(address);
    // Two clusters must not have the same endpoints resource: Envoy gives the endpoints to only one of them.
    let eds_cluster_config = cluster.eds_cluster_config.map(|config| EdsClusterConfig {
        service_name: name.clone(),
        ..config
    });
    let cluster = Cluster {
        name: name.clone(),
        alt_stat_name: format!("{}_{service}", names::VIRTUAL_IP),
        eds_cluster_config,
        ..cluster
    };
    let cluster = Resource {
        on_demand: Some(Box::new(OnDemand::default())),
        ..Resource::encode(ResourceKind::Cluster, &name, &cluster)
    };
    let endpoints = endpoints.map(|endpoints| {
        let endpoints = ClusterLoadAssignment {
            cluster_name: name.clone(),
            ..endpoints.clone()
        };
        Resource {
            on_demand: Some(Box::new(OnDemand::default())),
            ..Resource::encode(ResourceKind::Endpoints, &name, &endpoints).with_cluster_version(&cluster)
        }
    });
    std::iter::once(cluster).chain(endpoints).collect()
}

/// The filter chain of all connections for direct access.
pub(crate) fn filter_chain() -> FilterChain {
    let proxy = listener::tcp_proxy_on_demand(names::DIRECT_ACCESS, discovery());
    on_demand_chain(names::DIRECT_ACCESS, proxy)
}

/// The filter chain of all connections to virtual IPs.
pub(crate) fn virtual_ip_chain() -> FilterChain {
    let proxy = listener::tcp_proxy_on_demand_by_client(names::VIRTUAL_IP, CONNECT_ATTEMPTS, discovery());
    on_demand_chain(names::VIRTUAL_IP, proxy)
}

fn on_demand_chain(name: &str, proxy: Filter) -> FilterChain {
    FilterChain {
        name: name.into(),
        ..listener::filter_chain(vec![select_cluster_by_destination(name), proxy])
    }
}

fn discovery() -> ClusterDiscovery {
    ClusterDiscovery {
        odcds_config: Some(cluster::ads()),
        timeout: duration(DISCOVERY_TIMEOUT),
        ..Default::default()
    }
}

/// A filter that sets the name of the connection's cluster, which replaces the cluster of the TCP proxy.
fn select_cluster_by_destination(prefix: &str) -> Filter {
    let name = format!("{prefix}_%DOWNSTREAM_LOCAL_ADDRESS%");
    let source = DataSource {
        specifier: Some(Specifier::InlineString(name)),
        ..Default::default()
    };
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(source)),
        ..Default::default()
    };
    let cluster_name = FilterStateValue {
        key: Some(Key::ObjectKey("envoy.tcp_proxy.cluster".into())),
        value: Some(Value::FormatString(format)),
        ..Default::default()
    };
    let config = SetFilterState {
        on_new_connection: vec![cluster_name],
        ..Default::default()
    };
    network_filter("envoy.filters.network.set_filter_state", &config)
}

/// A matcher that selects the filter chain of a connection by its destination: one of `closing_chains` for a redirect
/// port, the chain for direct access for an address in `addresses`, the chain for virtual IPs for their port in
/// `virtual_ips`, and `default_chain` otherwise.
///
/// A listener with such a matcher ignores the conditions of its filter chains. If only the matcher changes, Envoy keeps
/// the connections of the listener
/// (<https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/advanced/matching/matching_listener>).
pub(crate) fn matcher(
    closing_chains: impl IntoIterator<Item = (u16, String)>,
    addresses: impl IntoIterator<Item = SocketAddr>,
    virtual_ips: Option<VirtualIpRange>,
    default_chain: &str,
) -> Matcher {
    let closing = closing_chains
        .into_iter()
        .map(|(port, chain)| port_matcher(&BTreeSet::from([port]), &chain));
    let by_address = address_matcher(addresses, virtual_ips).map(|tree| Matcher {
        on_no_match: Some(Box::new(to_chain(default_chain))),
        matcher_type: Some(MatcherType::MatcherTree(tree)),
    });
    let otherwise = by_address.map_or_else(
        || to_chain(default_chain),
        |matcher| OnMatch {
            on_match: Some(Outcome::Matcher(Box::new(matcher))),
            ..Default::default()
        },
    );
    Matcher {
        on_no_match: Some(Box::new(otherwise)),
        matcher_type: Some(MatcherType::MatcherList(MatcherList {
            matchers: closing.collect(),
        })),
    }
}

/// Matches the addresses by IP, then by port. Returns `None` without addresses, because Envoy rejects an empty range.
fn address_matcher(
    addresses: impl IntoIterator<Item = SocketAddr>,
    virtual_ips: Option<VirtualIpRange>,
) -> Option<MatcherTree> {
    let mut ports_of_ip = BTreeMap::<IpAddr, BTreeSet<u16>>::new();
    for address in addresses {
        ports_of_ip
            .entry(address.ip())
            .or_default()
            .insert(address.port());
    }
    // Most Pods of a mesh have the ports of many others, so there are far fewer sets of ports than Pods.
    let mut ips_with_ports = BTreeMap::<BTreeSet<u16>, Vec<CidrRange>>::new();
    for (ip, ports) in ports_of_ip {
        ips_with_ports.entry(ports).or_default().push(only(ip));
    }
    let direct = ips_with_ports
        .into_iter()
        .map(|(ports, ranges)| range_matcher(ranges, &ports, names::DIRECT_ACCESS));
    let virtual_ips = virtual_ips.map(|range| {
        let ports = BTreeSet::from([VIRTUAL_IP_PORT]);
        range_matcher(vec![cidr(range)], &ports, names::VIRTUAL_IP)
    });
    let range_matchers: Vec<_> = direct.chain(virtual_ips).collect();
    if range_matchers.is_empty() {
        return None;
    }
    let matcher = extension("ip", &IpMatcher { range_matchers });
    Some(MatcherTree {
        input: Some(extension("destination_ip", &DestinationIpInput {})),
        tree_type: Some(TreeType::CustomMatch(matcher)),
    })
}

/// Selects a filter chain for connections to one of these ports of the ranges.
fn range_matcher(ranges: Vec<CidrRange>, ports: &BTreeSet<u16>, chain: &str) -> IpRangeMatcher {
    let by_port = Matcher {
        matcher_type: Some(MatcherType::MatcherList(MatcherList {
            matchers: vec![port_matcher(ports, chain)],
        })),
        ..Default::default()
    };
    IpRangeMatcher {
        ranges,
        on_match: Some(OnMatch {
            on_match: Some(Outcome::Matcher(Box::new(by_port))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Selects a filter chain for connections to one of these ports.
fn port_matcher(ports: &BTreeSet<u16>, chain: &str) -> FieldMatcher {
    let is_port = |port: &u16| Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(extension("destination_port", &DestinationPortInput {})),
            matcher: Some(ValueMatcher::ValueMatch(StringMatcher {
                match_pattern: Some(MatchPattern::Exact(port.to_string())),
                ..Default::default()
            })),
        })),
    };
    let mut predicates: Vec<_> = ports.iter().map(is_port).collect();
    // Envoy rejects a list of alternatives with only one element.
    let predicate = if predicates.len() == 1 {
        predicates.pop()
    } else {
        Some(Predicate {
            match_type: Some(MatchType::OrMatcher(PredicateList {
                predicate: predicates,
            })),
        })
    };
    FieldMatcher {
        predicate,
        on_match: Some(to_chain(chain)),
    }
}

/// The result of a matcher: the name of a filter chain.
fn to_chain(name: &str) -> OnMatch {
    let name = StringValue { value: name.into() };
    OnMatch {
        on_match: Some(Outcome::Action(extension("filter_chain", &name))),
        ..Default::default()
    }
}

impl Name for IpMatcher {
    const NAME: &'static str = "IPMatcher";
    const PACKAGE: &'static str = "xds.type.matcher.v3";

    fn type_url() -> String {
        format!("type.googleapis.com/{}", Self::full_name())
    }
}

fn only(ip: IpAddr) -> CidrRange {
    CidrRange {
        address_prefix: ip.to_string(),
        prefix_len: number(if ip.is_ipv4() { 32 } else { 128 }),
    }
}

fn cidr(range: VirtualIpRange) -> CidrRange {
    CidrRange {
        address_prefix: range.network().to_string(),
        prefix_len: number(range.prefix_length()),
    }
}

fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.into(),
        typed_config: Some(any(config)),
    }
}
