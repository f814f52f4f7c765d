//! Resources for the clients of a Service without selector (docs/reference/envoy.md#services-without-selector).
//!
//! Its endpoints come from EndpointSlices and may have different identities, or be outside of the mesh. The metadata of
//! an endpoint selects the TLS context of connections to it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use kermode_model::view::{Balancing, Service, SliceEndpoint};
use kermode_model::{Mesh, Protocol, ServiceName};

use super::tls::MeshTls;
use super::{cluster, outbound};
use crate::Resource;

/// Namespace of the endpoint metadata that Envoy compares with `transport_socket_matches`.
/// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/cluster.proto#envoy-v3-api-field-config-cluster-v3-cluster-transport-socket-matches>
const MATCH_METADATA: &str = "envoy.transport_socket_match";
/// Key in this metadata: the service whose identity the endpoint has.
const SERVICE_KEY: &str = "service";

/// Connections are proxied as TCP, because the endpoints need not have a protocol in common.
const PROTOCOL: Protocol = Protocol::Tcp;

pub(crate) fn generate(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    let mesh_tls = MeshTls::of(mesh);
    let addresses = &service.addresses;
    let mut resources = Vec::new();
    if addresses.headless {
        // Connections to endpoints outside of the mesh use outbound passthrough.
        let endpoints = service.slice_endpoints.iter();
        let targets = endpoints.filter_map(|(address, endpoint)| {
            let service = endpoint.identity.as_ref()?;
            let transport_socket = mesh_tls.as_ref().map(|tls| tls.to_service(service));
            Some((*address, PROTOCOL, transport_socket))
        });
        resources.extend(outbound::single_address_resources(name, targets, None));
    }
    // With `LeftToNode`, the client's node chooses the endpoint. The endpoint's identity is therefore unknown, and
    // connections use outbound passthrough.
    if !outbound::has_common_cluster(service) || addresses.balancing == Balancing::LeftToNode {
        return resources;
    }
    let cluster = Cluster {
        transport_socket_matches: mesh_tls.iter().flat_map(|tls| matches(tls, service)).collect(),
        ..cluster::eds(name.as_str())
    };
    // As for kube-proxy, only endpoints count whose IP family is also that of a ClusterIP. Every endpoint of a headless
    // service counts.
    let has_family = |address: &SocketAddr| {
        let mut cluster_addresses = addresses.cluster_addresses.iter();
        addresses.headless
            || cluster_addresses.any(|cluster_address| cluster_address.is_ipv6() == address.is_ipv6())
    };
    let endpoints = service.slice_endpoints.iter();
    let ready = endpoints.filter(|(address, endpoint)| endpoint.ready && has_family(address));
    let endpoints = cluster::endpoints_with_metadata(
        name.as_str(),
        ready.map(|(address, endpoint)| (*address, metadata(endpoint))),
    );
    resources.extend(outbound::common_cluster_resources(
        name, service, PROTOCOL, &cluster, &endpoints,
    ));
    resources
}

/// Returns the TLS contexts of a service's endpoints, one for each identity. Unready endpoints are included, so that a
/// change of readiness does not change the cluster.
fn matches(mesh_tls: &MeshTls, service: &Service) -> Vec<TransportSocketMatch> {
    let endpoints = service.slice_endpoints.values();
    let services: BTreeSet<_> = endpoints
        .filter_map(|endpoint| endpoint.identity.as_ref())
        .collect();
    services
        .into_iter()
        .map(|service| TransportSocketMatch {
            name: service.to_string(),
            r#match: Some(identity(service)),
            transport_socket: Some(mesh_tls.to_service(service)),
        })
        .collect()
}

fn metadata(endpoint: &SliceEndpoint) -> Option<Metadata> {
    let service = endpoint.identity.as_ref()?;
    Some(Metadata {
        filter_metadata: HashMap::from([(MATCH_METADATA.into(), identity(service))]),
        ..Default::default()
    })
}

fn identity(service: &ServiceName) -> Struct {
    let value = Value {
        kind: Some(Kind::StringValue(service.to_string())),
    };
    Struct {
        fields: HashMap::from([(SERVICE_KEY.into(), value)]),
    }
}
