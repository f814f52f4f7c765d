//! Keys of labels and annotations (BEHAVIOUR sections 2.3, 2.6 and 2.9).

/// Label or annotation of a Pod or Namespace: whether to inject.
pub const SIDECAR_INJECTION: &str = "kuma.io/sidecar-injection";
/// Pod or Namespace: the mesh to join.
pub const MESH: &str = "kuma.io/mesh";
/// Pod: marks a gateway.
pub const GATEWAY: &str = "kuma.io/gateway";
/// Pod: services reached by pod IP.
pub const DIRECT_ACCESS_SERVICES: &str = "kuma.io/direct-access-services";
/// Pod: the only services reached.
pub const REACHABLE_SERVICES: &str = "kuma.io/transparent-proxying-reachable-services";
/// Pod: whether HTTP probes go through the proxy.
pub const VIRTUAL_PROBES: &str = "kuma.io/virtual-probes";
/// Pod: port of the virtual probes.
pub const VIRTUAL_PROBES_PORT: &str = "kuma.io/virtual-probes-port";
/// Pod: environment of the sidecar, `k1=v1;k2=v2`.
pub const SIDECAR_ENV_VARS: &str = "kuma.io/sidecar-env-vars";
/// Pod: Envoy worker threads.
pub const SIDECAR_PROXY_CONCURRENCY: &str = "kuma.io/sidecar-proxy-concurrency";
/// Pod: drain time, a Go duration.
pub const SIDECAR_DRAIN_TIME: &str = "kuma.io/sidecar-drain-time";
/// Pod: Envoy's log level.
pub const ENVOY_LOG_LEVEL: &str = "kuma.io/envoy-log-level";
/// Pod: Envoy's admin port.
pub const ENVOY_ADMIN_PORT: &str = "kuma.io/envoy-admin-port";
/// Pod: the volume that holds the sidecar's service-account token.
pub const SERVICE_ACCOUNT_TOKEN_VOLUME: &str = "kuma.io/service-account-token-volume";
/// Pod: ordered list of ContainerPatches.
pub const CONTAINER_PATCHES: &str = "kuma.io/container-patches";
/// Pod: whether DNS is redirected to the sidecar.
pub const BUILTIN_DNS: &str = "kuma.io/builtin-dns";
/// Pod: port DNS is redirected to.
pub const BUILTIN_DNS_PORT: &str = "kuma.io/builtin-dns-port";
/// Spelling of [`BUILTIN_DNS`] that Kuma 2.1 writes besides.
pub const BUILTIN_DNS_DEPRECATED: &str = "kuma.io/builtindns";
/// Spelling of [`BUILTIN_DNS_PORT`] that Kuma 2.1 writes besides.
pub const BUILTIN_DNS_PORT_DEPRECATED: &str = "kuma.io/builtindnsport";
/// Pod: UDP and TCP rules of the experimental engine; accepted, without effect: there is one engine.
pub const EXPERIMENTAL_ENGINE: &str = "kuma.io/transparent-proxying-experimental-engine";
/// Pod: ports whose inbound traffic is not redirected.
pub const EXCLUDE_INBOUND_PORTS: &str = "traffic.kuma.io/exclude-inbound-ports";
/// Pod: ports whose outbound traffic is not redirected.
pub const EXCLUDE_OUTBOUND_PORTS: &str = "traffic.kuma.io/exclude-outbound-ports";
/// Pod: `ports:uids` items whose outbound TCP is not redirected.
pub const EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS: &str = "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids";
/// Pod: the same for UDP.
pub const EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS: &str = "traffic.kuma.io/exclude-outbound-udp-ports-for-uids";
/// Pod: `auto`, `native` or `classic` (DESIGN decision 12).
pub const SIDECAR_MODE: &str = "kuma.io/sidecar-mode";
/// Pod: hold the application back until the sidecar is ready.
pub const WAIT_FOR_DATAPLANE_READY: &str = "kuma.io/wait-for-dataplane-ready";
/// Pod: put `kuma-init` before the Pod's own init containers.
pub const INIT_FIRST: &str = "kuma.io/init-first";
/// Pod: `wait` or `acknowledged` (DESIGN decision 13).
pub const DRAIN_MODE: &str = "kuma.io/drain-mode";
/// Prefix of the metrics overrides of a Pod.
pub const PROMETHEUS_PREFIX: &str = "prometheus.metrics.kuma.io/";
/// Service: leave it out of the mesh.
pub const IGNORE: &str = "kuma.io/ignore";
/// Suffix of the Service annotation `<port>.service.kuma.io/protocol`.
pub const PORT_PROTOCOL_SUFFIX: &str = ".service.kuma.io/protocol";

/// Written on injected Pods: `true`.
pub const SIDECAR_INJECTED: &str = "kuma.io/sidecar-injected";
/// Written: the sidecar's UID.
pub const SIDECAR_UID: &str = "kuma.io/sidecar-uid";
/// Written: `enabled`.
pub const TRANSPARENT_PROXYING: &str = "kuma.io/transparent-proxying";
/// Written: the inbound redirect port.
pub const TRANSPARENT_PROXYING_INBOUND_PORT: &str = "kuma.io/transparent-proxying-inbound-port";
/// Written: the inbound redirect port for IPv6.
pub const TRANSPARENT_PROXYING_INBOUND_V6_PORT: &str = "kuma.io/transparent-proxying-inbound-v6-port";
/// Written: the outbound redirect port.
pub const TRANSPARENT_PROXYING_OUTBOUND_PORT: &str = "kuma.io/transparent-proxying-outbound-port";
/// Written: always `disabled`; there is no eBPF mode.
pub const TRANSPARENT_PROXYING_EBPF: &str = "kuma.io/transparent-proxying-ebpf";
/// Written with CNI.
pub const CNI_NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Written: why the Pod was injected, machine-readable.
pub const INJECTION_REASON: &str = "kuma.io/injection-reason";

/// Written on a Mesh once its first MeshTrafficPermission has been made.
pub const INITIAL_POLICIES_CREATED: &str = "kuma.io/initial-policies-created";

/// On a Mesh: any text that is not that of the last time asks for a new builtin CA.
pub const ROTATE_CA: &str = "kuma.io/rotate-ca";

/// Label of the control plane's namespace.
pub const SYSTEM_NAMESPACE: &str = "kuma.io/system-namespace";

/// What a boolean label or annotation says (BEHAVIOUR section 1).
///
/// # Errors
/// For any text but `enabled`, `true`, `disabled` and `false`.
pub fn parse_bool(key: &str, value: &str) -> Result<bool, WrongValue> {
    match value {
        "enabled" | "true" => Ok(true),
        "disabled" | "false" => Ok(false),
        _ => Err(WrongValue {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

/// A label or annotation with a text that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation \"{key}\" has wrong value \"{value}\"")]
pub struct WrongValue {
    /// The key.
    pub key: String,
    /// The value found.
    pub value: String,
}

/// Splits a comma-separated list, trimming items and dropping empty ones (DESIGN decision 2).
pub fn parse_list(value: &str) -> Vec<String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}
