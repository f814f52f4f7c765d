//! Keys of all labels and annotations that Kermode reads or writes.
//!
//! Every key is declared here once, with the objects that carry it, the notation of its value, and its default. The
//! tables in `docs/reference/labels-and-annotations.md` are generated from these declarations. `kermode-crds`
//! re-exports this module for crates that work with Kubernetes objects. `kermode-netfilter` uses the module directly,
//! because `kuma-init` must not link a Kubernetes client. Notations are parsed in [`crate::notation`].

use crate::notation::{self, Notation};

/// One key, as the reference shows it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The key. A key that starts with a dot is a suffix; the reference shows the suffix after `<port>`.
    pub name: &'static str,
    /// Objects that carry the key, and whether as a label or as an annotation.
    pub objects: &'static str,
    /// Notation of the value.
    pub notation: Notation,
    /// Value that applies when the key is absent; empty if there is no default.
    pub default: &'static str,
    /// Lines of the documentation comment of the key's constant.
    pub documentation: &'static [&'static str],
}

/// Declares one constant for each key, and a table of all keys.
macro_rules! keys {
    (
        $(#[doc = $table_doc:literal])+
        $table:ident:
        $(
            $(#[doc = $doc:literal])+
            $name:ident = $key:literal, $objects:literal, $notation:expr, $default:literal;
        )+
    ) => {
        $(
            $(#[doc = $doc])+
            pub const $name: &str = $key;
        )+

        $(#[doc = $table_doc])+
        pub const $table: &[$crate::annotation::Key] = &[
            $($crate::annotation::Key {
                name: $name,
                objects: $objects,
                notation: $notation,
                default: $default,
                documentation: &[$($doc),+],
            }),+
        ];
    };
}
pub(crate) use keys;

keys! {
    /// Keys that users set.
    SET_BY_USERS:

    /// Enables or disables injection. The label takes precedence over the annotation, the Pod over its Namespace.
    SIDECAR_INJECTION = "kuma.io/sidecar-injection", "label or annotation of a Pod or Namespace", Notation::Boolean, "`disabled`";
    /// Mesh that the Pod joins. The label takes precedence over the annotation, the Pod over its Namespace. The
    /// injector writes the resolved value as an annotation of the Pod; Dataplanes and MeshTrafficPermissions carry the
    /// key as a label.
    MESH = "kuma.io/mesh", "label or annotation of a Pod or Namespace", Notation::Text, "`default`";
    /// Marks a delegated gateway. `enabled` names the gateway after its Service, `provided` after its workload
    /// (Deployment, DaemonSet, StatefulSet or other controller). Inbound traffic of a gateway is not redirected.
    GATEWAY = "kuma.io/gateway", "annotation of a Pod", Notation::Words(&["enabled", "disabled", "provided"]), "`disabled`";
    /// Services whose Pods the application may call by Pod IP; `*` selects all services.
    DIRECT_ACCESS_SERVICES = "kuma.io/direct-access-services", "annotation of a Pod", Notation::List, "";
    /// Services that the sidecar is configured for; requests to other services pass through unchanged.
    REACHABLE_SERVICES = "kuma.io/transparent-proxying-reachable-services", "annotation of a Pod", Notation::List, "all services";
    /// Rewrites probes and HTTP lifecycle hooks to a listener of the sidecar. The injector writes the resolved value back.
    VIRTUAL_PROBES = "kuma.io/virtual-probes", "annotation of a Pod", Notation::Boolean, "setting `virtualProbesEnabled`";
    /// Port of the sidecar's listener for probes. The injector writes the resolved value back.
    VIRTUAL_PROBES_PORT = "kuma.io/virtual-probes-port", "annotation of a Pod", Notation::Port, "setting `virtualProbesPort`";
    /// Environment variables of the sidecar. They override variables of the same name from the settings and from the
    /// injector.
    SIDECAR_ENV_VARS = "kuma.io/sidecar-env-vars", "annotation of a Pod", Notation::Map, "";
    /// Number of Envoy's worker threads; 0 starts one for each CPU in the sidecar's cpuset, usually all CPUs of the
    /// node.
    SIDECAR_PROXY_CONCURRENCY = "kuma.io/sidecar-proxy-concurrency", "annotation of a Pod", Notation::Number, "CPU limit of the sidecar, at least 2";
    /// Time for which the sidecar drains before it stops.
    SIDECAR_DRAIN_TIME = "kuma.io/sidecar-drain-time", "annotation of a Pod", Notation::Duration, "setting `sidecarContainer.drainTime`";
    /// Log level of Envoy.
    ENVOY_LOG_LEVEL = "kuma.io/envoy-log-level", "annotation of a Pod", Notation::Words(&["trace", "debug", "info", "warning", "error", "critical", "off"]), "log level of `kuma-dp`";
    /// Port of Envoy's admin interface. The injector writes the resolved value back.
    ENVOY_ADMIN_PORT = "kuma.io/envoy-admin-port", "annotation of a Pod", Notation::Port, "setting `sidecarContainer.adminPort`";
    /// Name of the volume that holds the service account token of the sidecar.
    SERVICE_ACCOUNT_TOKEN_VOLUME = "kuma.io/service-account-token-volume", "annotation of a Pod", Notation::Text, "a volume for the sidecar alone";
    /// Names of the ContainerPatches to apply, in this order. The list replaces the list of the settings.
    CONTAINER_PATCHES = "kuma.io/container-patches", "annotation of a Pod", Notation::List, "setting `containerPatches`";
    /// Redirects DNS queries to the sidecar. The injector writes the resolved value back.
    BUILTIN_DNS = "kuma.io/builtin-dns", "annotation of a Pod", Notation::Boolean, "setting `builtinDNS.enabled`";
    /// Port that DNS queries are redirected to. The injector writes the resolved value back.
    BUILTIN_DNS_PORT = "kuma.io/builtin-dns-port", "annotation of a Pod", Notation::Port, "setting `builtinDNS.port`";
    /// Deprecated spelling of `kuma.io/builtin-dns`. Read if that key is absent; the injector writes both.
    BUILTIN_DNS_DEPRECATED = "kuma.io/builtindns", "annotation of a Pod", Notation::Boolean, "";
    /// Deprecated spelling of `kuma.io/builtin-dns-port`. Read if that key is absent; the injector writes both.
    BUILTIN_DNS_PORT_DEPRECATED = "kuma.io/builtindnsport", "annotation of a Pod", Notation::Port, "";
    /// Selected one of two redirection engines in Kuma. Accepted without effect, because Kermode has one engine.
    EXPERIMENTAL_ENGINE = "kuma.io/transparent-proxying-experimental-engine", "annotation of a Pod", Notation::Boolean, "setting `transparentProxyV2`";
    /// IP families whose traffic is redirected: IPv4 and IPv6, or only IPv4.
    IP_FAMILY_MODE = "kuma.io/transparent-proxying-ip-family-mode", "annotation of a Pod", Notation::Words(&["dualstack", "ipv4"]), "`dualstack`";
    /// Ports whose inbound traffic is not redirected. The injector writes the resolved value back.
    EXCLUDE_INBOUND_PORTS = "traffic.kuma.io/exclude-inbound-ports", "annotation of a Pod", Notation::PortRanges, "setting `sidecarTraffic.excludeInboundPorts`";
    /// Ports whose outbound traffic is not redirected. The injector writes the resolved value back.
    EXCLUDE_OUTBOUND_PORTS = "traffic.kuma.io/exclude-outbound-ports", "annotation of a Pod", Notation::PortRanges, "setting `sidecarTraffic.excludeOutboundPorts`";
    /// UIDs whose outbound traffic to the given ports is not redirected. An item may name the protocols that it applies
    /// to.
    EXCLUDE_OUTBOUND_PORTS_FOR_UIDS = "traffic.kuma.io/exclude-outbound-ports-for-uids", "annotation of a Pod", Notation::UidExclusions, "";
    /// UIDs whose outbound TCP traffic to the given ports is not redirected.
    EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS = "traffic.kuma.io/exclude-outbound-tcp-ports-for-uids", "annotation of a Pod", Notation::UidExclusions, "";
    /// UIDs whose outbound UDP traffic to the given ports is not redirected.
    EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS = "traffic.kuma.io/exclude-outbound-udp-ports-for-uids", "annotation of a Pod", Notation::UidExclusions, "";
    /// Networks inside the Pod, such as those of Docker, whose outgoing connections are redirected to the sidecar; items
    /// are `interface:CIDR`. Connections of other networks inside the Pod bypass the sidecar.
    VIRTUAL_NETWORKS = "traffic.kuma.io/virtual-networks", "annotation of a Pod", Notation::List, "";
    /// Placement of the sidecar: `native` is an init container that keeps running, `classic` is an ordinary container,
    /// `auto` is `native` if every kubelet supports native sidecars.
    SIDECAR_MODE = "kuma.io/sidecar-mode", "annotation of a Pod", Notation::Words(&["auto", "native", "classic"]), "setting `sidecarMode`";
    /// Delays the start of the application's containers until the sidecar is ready.
    WAIT_FOR_DATAPLANE_READY = "kuma.io/wait-for-dataplane-ready", "annotation of a Pod", Notation::Boolean, "setting `sidecarContainer.waitForDataplaneReady`";
    /// Puts `kuma-init` before the Pod's own init containers.
    INIT_FIRST = "kuma.io/init-first", "annotation of a Pod", Notation::Boolean, "`false`";
    /// Condition for the end of the drain of a classic sidecar: `wait` is the full drain time. With `acknowledged`, the
    /// drain ends once every proxy has acknowledged the removal of the endpoint, no connection is open, and the known
    /// preStop hooks have ended, with the drain time as upper bound.
    DRAIN_MODE = "kuma.io/drain-mode", "annotation of a Pod", Notation::Words(&["wait", "acknowledged"]), "setting `drainMode`";
    /// Time between the start of the Pod's termination and the stop of the application's containers that have no preStop
    /// hook; `0s` for none.
    APPLICATION_STOP_DELAY = "kuma.io/application-stop-delay", "annotation of a Pod", Notation::Duration, "setting `applicationStopDelay`";
    /// Containers whose stop injection delays, with the seconds: `<container>=<seconds>`. The injector writes it.
    APPLICATION_STOP_DELAYED = "kuma.io/application-stop-delayed", "annotation of a Pod", Notation::Text, "";
    /// Port of the endpoint for collectors of metrics, written to `spec.metrics` of the Dataplane.
    METRICS_PORT = "prometheus.metrics.kuma.io/port", "annotation of a Pod", Notation::Port, "`5670`";
    /// Path of the endpoint for collectors of metrics, written to `spec.metrics` of the Dataplane.
    METRICS_PATH = "prometheus.metrics.kuma.io/path", "annotation of a Pod", Notation::Text, "`/metrics`";
    /// Excludes the Service from the mesh.
    IGNORE = "kuma.io/ignore", "annotation of a Service", Notation::Boolean, "`false`";
    /// Application protocol of the port that the key begins with.
    PORT_PROTOCOL_SUFFIX = ".service.kuma.io/protocol", "annotation of a Service", Notation::Words(&["tcp", "http", "http2", "grpc", "kafka"]), "`appProtocol` of the port, else `tcp`";
    /// Requests a new builtin certificate authority: each change of the text starts a rotation.
    ROTATE_CA = "kuma.io/rotate-ca", "annotation of a Mesh, or of the Secret `kuma-control-plane-ca`", Notation::Text, "";
}

keys! {
    /// Keys that Kermode writes.
    WRITTEN_BY_KERMODE:

    /// Marks a Pod that the injector has processed; always `true`.
    SIDECAR_INJECTED = "kuma.io/sidecar-injected", "annotation of a Pod", Notation::Boolean, "";
    /// UID of the sidecar. Its outbound traffic is not redirected.
    SIDECAR_UID = "kuma.io/sidecar-uid", "annotation of a Pod", Notation::Number, "";
    /// Marks a Pod whose traffic is redirected; always `enabled`.
    TRANSPARENT_PROXYING = "kuma.io/transparent-proxying", "annotation of a Pod", Notation::Boolean, "";
    /// Port that inbound IPv4 traffic is redirected to.
    TRANSPARENT_PROXYING_INBOUND_PORT = "kuma.io/transparent-proxying-inbound-port", "annotation of a Pod", Notation::Port, "";
    /// Port that inbound IPv6 traffic is redirected to; 0 disables the redirection of IPv6.
    TRANSPARENT_PROXYING_INBOUND_V6_PORT = "kuma.io/transparent-proxying-inbound-v6-port", "annotation of a Pod", Notation::Port, "";
    /// Port that outbound traffic is redirected to.
    TRANSPARENT_PROXYING_OUTBOUND_PORT = "kuma.io/transparent-proxying-outbound-port", "annotation of a Pod", Notation::Port, "";
    /// Always `disabled`, because Kermode has no eBPF mode.
    TRANSPARENT_PROXYING_EBPF = "kuma.io/transparent-proxying-ebpf", "annotation of a Pod", Notation::Boolean, "";
    /// Networks of the Pod, separated by commas or in JSON. The injector adds `kuma-cni` if Multus calls the CNI plugin.
    CNI_NETWORKS = "k8s.v1.cni.cncf.io/networks", "annotation of a Pod", Notation::List, "";
    /// Label or annotation, of the Pod or its Namespace, that requested the injection.
    INJECTION_REASON = "kuma.io/injection-reason", "annotation of a Pod", Notation::Text, "";
    /// Marks a Mesh whose initial MeshTrafficPermission exists or existed; always `true`.
    INITIAL_POLICIES_CREATED = "kuma.io/initial-policies-created", "annotation of a Mesh", Notation::Boolean, "";
    /// Marks the namespace of the control plane; always `true`.
    SYSTEM_NAMESPACE = "kuma.io/system-namespace", "label of a Namespace", Notation::Boolean, "";
}

/// Part of every key that belongs to Kermode. Pod labels whose keys contain this part do not become tags.
pub const RESERVED_KEY_PART: &str = "kuma.io/";

/// Parses the boolean value of a label or annotation.
///
/// # Errors
/// For any text other than `enabled`, `true`, `disabled` and `false`.
pub fn parse_bool(key: &str, value: &str) -> Result<bool, WrongValue> {
    notation::boolean(value).ok_or_else(|| WrongValue {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

/// Whether a value of [`SIDECAR_INJECTED`] marks an injected Pod. A value that is not a boolean does not.
pub fn marks_injected(value: &str) -> bool {
    notation::boolean(value) == Some(true)
}

/// Object that a delegated gateway is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayNameSource {
    /// The Service that selects the Pod.
    Service,
    /// The workload of the Pod, such as a Deployment. For a Pod without a workload, the Service that selects the Pod.
    Workload,
}

/// Parses the value of [`GATEWAY`]: a boolean, or `provided`. Returns `None` for a Pod that is not a gateway.
///
/// # Errors
/// For any other text.
pub fn parse_gateway(value: &str) -> Result<Option<GatewayNameSource>, WrongValue> {
    if value == "provided" {
        return Ok(Some(GatewayNameSource::Workload));
    }
    Ok(parse_bool(GATEWAY, value)?.then_some(GatewayNameSource::Service))
}

/// A label or annotation whose value cannot be parsed. The message is Kuma's, which says "annotation" for a label too.
/// Denials by the injector name the label or annotation correctly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation \"{key}\" has wrong value \"{value}\"")]
pub struct WrongValue {
    /// Key of the label or annotation.
    pub key: String,
    /// Value of the label or annotation.
    pub value: String,
}
