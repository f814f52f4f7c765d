//! The data model of a mesh, shared by Kermode's other crates: no IO, no Kubernetes types, no Envoy types.
//!
//! `kermode-k8s` converts Kubernetes objects to the model, `kermode-envoy` generates Envoy resources from the model.

pub mod annotation;
mod dataplane;
pub mod direct_access;
pub mod duration;
mod kubernetes_version;
mod mesh;
mod name;
pub mod notation;
mod permission;
mod probe;
mod protocol;
mod tags;
pub mod view;
mod virtual_ip;

pub use dataplane::{Dataplane, Gateway, GatewayKind, Inbound, Metrics, TransparentProxying};
pub use kubernetes_version::KubernetesVersion;
pub use mesh::{CertificateAuthority, DEFAULT_CLOCK_TOLERANCE, MAX_CLOCK_TOLERANCE, Mesh, Mtls, MtlsMode};
pub use name::{
    CONTROL_PLANE_CA_CONFIG_MAP, CONTROL_PLANE_CA_ENTRY, DEFAULT_MESH, DEFAULT_TOKEN_AUDIENCE,
    MAX_DNS_LABEL_LENGTH, MeshName, ObjectKey, ServiceName, is_dns_label, is_dns_subdomain,
};
pub use permission::{Action, PermissionRule, PermissionSet, Principal, TrafficPermission};
pub use probe::{
    ApplicationProbe, MAX_PROBE_PATH, MAX_PROBES, ProbeProtocol, Probes, percent_decode, percent_encode,
};
pub use protocol::Protocol;
pub use tags::{Tags, tag};
pub use virtual_ip::{
    DEFAULT_VIRTUAL_IP_RANGE, InvalidRange, MESH_DOMAIN, VIRTUAL_IP_PORT, VIRTUAL_IPS_CONFIG_MAP,
    VirtualIpRange, VirtualIps,
};
