//! Bootstrap of a sidecar's Envoy. Contains Envoy's node, and the agent's unix socket as the only static cluster.
//!
//! The agent renders the bootstrap from the agent's environment (`docs/reference/sidecar.md#bootstrap`). The control
//! plane reads the node's metadata ([`crate::ads::Node::versions`]), and generated TLS contexts refer to
//! [`AGENT_CLUSTER`]. The bootstrap has no `stats_tags`: at 1000 services, Kuma's `stats_tags` would take 94 % of the
//! CPU time of Envoy's start.

use std::collections::BTreeMap;

use kermode_model::{MeshName, ObjectKey};
use serde_json::{Value, json};

use crate::ads::Versions;

/// Name of the static cluster that serves ADS and SDS: the agent's unix socket.
pub const AGENT_CLUSTER: &str = "kuma_dp";

/// Maximum number of downstream connections of one Envoy. Envoy rejects further connections, so that a sidecar with a
/// large memory limit does not run out of memory or file descriptors. A sidecar with the default memory limit runs out
/// of memory earlier, at some tens of thousands of connections.
const MAX_DOWNSTREAM_CONNECTIONS: u64 = 100_000;

/// Parameters of one Envoy's bootstrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapConfig {
    /// Mesh of the proxy.
    pub mesh: MeshName,
    /// Namespace and name of the Dataplane, which are those of the Pod.
    pub dataplane: ObjectKey,
    /// Value of `node.cluster`. In a sidecar, this is the name of the Pod.
    pub cluster: String,
    /// Port of the admin interface on 127.0.0.1.
    pub admin_port: u16,
    /// Path of the unix socket on which the agent serves ADS and SDS.
    pub agent_socket: String,
    /// Versions for the node's metadata, which the control plane writes into the status of the Dataplane.
    pub versions: Versions,
    /// Features of this agent that the control plane may rely on.
    pub features: Vec<String>,
    /// Additional text entries of the node's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Renders the bootstrap as JSON, which Envoy reads as an argument (`--config-yaml`) or from a file (`--config-path`).
pub fn bootstrap(config: &BootstrapConfig) -> Value {
    json!({
        "node": node(config),
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": config.admin_port } } },
        "dynamic_resources": dynamic_resources(),
        "static_resources": { "clusters": [agent_cluster(&config.agent_socket)] },
        // Clusters of on-demand outbounds (docs/design.md#outbound-configuration) connect to internal listeners of the
        // same Envoy.
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            },
        }],
        "layered_runtime": { "layers": [{ "name": "kuma", "static_layer": {
            // When true, responses with `Connection: close` are lost on internal listeners.
            "envoy.reloadable_features.enable_send_rst_on_user_space_socket": false,
        }}]},
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
            },
        }]},
        // Most clusters of a sidecar never carry a request, so the statistics of a cluster are created with its first
        // request. Statistics are flushed when they are read.
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "stats_flush_on_admin": true,
    })
}

fn node(config: &BootstrapConfig) -> Value {
    let mut metadata = serde_json::Map::new();
    for (key, value) in &config.metadata {
        metadata.insert(key.clone(), json!(value));
    }
    metadata.insert("dataplane.admin.address".into(), json!("127.0.0.1"));
    metadata.insert(
        "dataplane.admin.port".into(),
        json!(config.admin_port.to_string()),
    );
    metadata.insert("dataplane.proxyType".into(), json!("dataplane"));
    metadata.insert("features".into(), json!(config.features));
    metadata.insert(
        "version".into(),
        json!({
            "kumaDp": { "version": config.versions.agent },
            "envoy": { "version": config.versions.envoy },
        }),
    );
    json!({
        "id": format!("{}.{}", config.mesh, config.dataplane.proxy_name()),
        "cluster": config.cluster,
        "metadata": metadata,
    })
}

fn dynamic_resources() -> Value {
    // Zero disables the timeout. After a timeout, Envoy would become ready without listeners.
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{ "envoy_grpc": {
                "cluster_name": AGENT_CLUSTER,
                // Connecting to a local socket is cheap. Envoy's default backoff grows to 30 s.
                "retry_policy": { "retry_back_off": { "base_interval": "0.05s", "max_interval": "0.5s" } },
            }}],
        },
        "cds_config": ads,
        "lds_config": ads,
    })
}

fn agent_cluster(socket: &str) -> Value {
    json!({
        "name": AGENT_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        }},
        "load_assignment": {
            "cluster_name": AGENT_CLUSTER,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": socket } } } }] }],
        },
    })
}
