//! Configurations of two bare Envoys: a proxy of the client and a proxy of the server with only what forwarding over
//! mTLS needs. Their TLS settings are those of two sidecars. Other settings have Envoy's defaults, such as the timeouts of
//! requests and of idle streams, which sidecars disable.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use kermode_model::Protocol;
use serde_json::{Value, json};

use super::sidecars::Configs;
use super::{APPLICATION, PROTOCOLS, port_of};

/// IP of the listeners of the client's Envoy.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);
/// IP of the listeners of the server's Envoy.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 2);
/// Port for callers of HTTP/1.1 whose requests are forwarded by HTTP/2.
const HTTP2_BETWEEN_PORT: u16 = 8_090;

/// HTTP version of a connection of an Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Returns configurations with the TLS settings of sidecars.
pub(super) fn configs(sidecars: &Configs) -> Result<Configs> {
    let of_server = tls_of(
        &sidecars.server["static_resources"]["listeners"],
        "/filterChains/0/transportSocket",
    )?;
    // The certificate of the server has the identities of all services, so the TLS settings of any cluster fit.
    let of_client = tls_of(
        &sidecars.client["static_resources"]["clusters"],
        "/transportSocket",
    )?;
    let mut client = (Vec::new(), Vec::new());
    let mut server = (Vec::new(), Vec::new());
    for protocol in PROTOCOLS {
        let version = version_of(protocol);
        let port = port_of(protocol);
        let mut forward = |port: u16, between: Option<Version>| {
            let name = format!("{}-{port}", protocol.as_str());
            client
                .0
                .push(listener(&name, (CLIENT, port).into(), version, None));
            client
                .1
                .push(cluster(&name, (SERVER, port).into(), between, Some(&of_client)));
            server
                .0
                .push(listener(&name, (SERVER, port).into(), version, Some(&of_server)));
            let application = (APPLICATION, port_of(protocol)).into();
            server.1.push(cluster(&name, application, version, None));
        };
        forward(port, version);
        if protocol == Protocol::Http {
            forward(HTTP2_BETWEEN_PORT, Some(Version::Http2));
        }
    }
    let config = |id: &str, (listeners, clusters): (Vec<Value>, Vec<Value>), sidecar: &Value| {
        let secrets = &sidecar["static_resources"]["secrets"];
        json!({
            "node": { "id": id, "cluster": id },
            "static_resources": { "listeners": listeners, "clusters": clusters, "secrets": secrets },
        })
    };
    Ok(Configs {
        client: config("client", client, &sidecars.client),
        server: config("server", server, &sidecars.server),
    })
}

/// Returns a configuration with `count` services: for each an HTTP listener that is not bound to a port, and a cluster with
/// one endpoint and mTLS. Envoy keeps no statistics. No sidecar with a listener and a cluster for each service needs less.
pub(super) fn config_with_services(sidecars: &Configs, count: u32) -> Result<Value> {
    let tls = tls_of(
        &sidecars.client["static_resources"]["clusters"],
        "/transportSocket",
    )?;
    let address_of = |network: u8, number: u32| {
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(network, 0, 0, 1).to_bits() + number);
        SocketAddr::from((ip, 80))
    };
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for number in 0..count {
        let name = format!("service-{number}");
        let mut listener = listener(&name, address_of(10, number), Some(Version::Http1), None);
        listener["bind_to_port"] = false.into();
        listeners.push(listener);
        let endpoint = address_of(11, number);
        clusters.push(cluster(&name, endpoint, Some(Version::Http2), Some(&tls)));
    }
    let secrets = &sidecars.client["static_resources"]["secrets"];
    Ok(json!({
        "node": { "id": "client", "cluster": "client" },
        "static_resources": { "listeners": listeners, "clusters": clusters, "secrets": secrets },
        "stats_config": { "stats_matcher": { "reject_all": true } },
    }))
}

/// Returns the address that clients call. With `http2`, HTTP/1.1 becomes HTTP/2 between the Envoys.
pub(super) fn address(protocol: Protocol, http2: bool) -> SocketAddr {
    let port = if http2 && protocol == Protocol::Http {
        HTTP2_BETWEEN_PORT
    } else {
        port_of(protocol)
    };
    (CLIENT, port).into()
}

/// Returns the HTTP version of a protocol; `None` for TCP.
fn version_of(protocol: Protocol) -> Option<Version> {
    match protocol {
        Protocol::Tcp | Protocol::Kafka => None,
        Protocol::Http => Some(Version::Http1),
        Protocol::Http2 | Protocol::Grpc => Some(Version::Http2),
    }
}

/// Returns the first TLS settings at a JSON pointer of the resources in a list.
fn tls_of(resources: &Value, pointer: &str) -> Result<Value> {
    let mut sockets = resources
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|resource| resource.pointer(pointer));
    sockets
        .next()
        .cloned()
        .context("the generated resources have no TLS")
}

fn listener(name: &str, address: SocketAddr, version: Option<Version>, tls: Option<&Value>) -> Value {
    let filter = if version.is_some() {
        json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "route_config": { "virtual_hosts": [{
                    "name": name,
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": name } }],
                }]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    },
                }],
            },
        })
    } else {
        json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": name,
            },
        })
    };
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({ "name": name, "address": socket_address(address), "filter_chains": [chain] })
}

fn cluster(name: &str, address: SocketAddr, version: Option<Version>, tls: Option<&Value>) -> Value {
    let endpoint = json!({ "endpoint": { "address": socket_address(address) } });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
    });
    if version == Some(Version::Http2) {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls.clone();
    }
    cluster
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}
