//! The configuration Envoy starts with: who it is, and the unix socket on which `kuma-dp` gives it the rest.
//!
//! Rendered by `kuma-dp` itself from its environment, without asking the control plane (DESIGN section 5).
//! Statistics keep Envoy's own tags: Kuma's custom `stats_tags` expressions were 94 % of Envoy's start CPU at
//! 1000 services.

use std::collections::BTreeMap;

use kermode_model::{MeshName, ObjectKey};
use serde_json::{Value, json};

/// The static cluster, on a unix socket of `kuma-dp`, that serves ADS and the secrets.
pub const AGENT_CLUSTER: &str = "kuma_dp";

/// Above this, Envoy refuses further connections instead of running out of memory or descriptors. A sidecar of
/// the default size holds a few ten thousand.
const MAX_DOWNSTREAM_CONNECTIONS: u64 = 100_000;

/// What the bootstrap of one Envoy depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapConfig {
    /// The mesh to join.
    pub mesh: MeshName,
    /// Namespace and name of the Dataplane, those of the Pod.
    pub dataplane: ObjectKey,
    /// Envoy's own cluster: the workload's first service where known, else the Pod's name.
    pub cluster: String,
    /// Port of the admin interface, on loopback.
    pub admin_port: u16,
    /// Path of the unix socket on which `kuma-dp` serves ADS and secrets.
    pub agent_socket: String,
    /// What runs, for whoever inspects the mesh.
    pub versions: Versions,
    /// Features of this `kuma-dp` that the control plane may rely on.
    pub features: Vec<String>,
    /// Further text entries of the node's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// Versions of the sidecar's parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of `kuma-dp`.
    pub agent: String,
    /// Of Envoy.
    pub envoy: String,
}

/// Envoy's bootstrap configuration, in the JSON form that `--config-path` reads.
pub fn bootstrap(config: &BootstrapConfig) -> Value {
    json!({
        "node": node(config),
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": config.admin_port } } },
        "dynamic_resources": dynamic_resources(),
        "static_resources": { "clusters": [agent_cluster(&config.agent_socket)] },
        // For clusters that lead back into this Envoy, as on-demand outbounds do.
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
            },
        }],
        "layered_runtime": { "layers": [{ "name": "kuma", "static_layer": {
            // Else answers with `Connection: close` are lost on internal listeners.
            "envoy.reloadable_features.enable_send_rst_on_user_space_socket": false,
        }}]},
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
            },
        }]},
        // Most clusters of an eager sidecar never carry a request; an idle one has nothing to flush.
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
    // Zero waits for ever: an Envoy that gave up waiting would start to serve without listeners.
    let ads = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    json!({
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{ "envoy_grpc": {
                "cluster_name": AGENT_CLUSTER,
                // A local socket is cheap to try; Envoy's default backs off up to 30 s.
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
