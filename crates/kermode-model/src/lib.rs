//! What a mesh is made of, as plain data: no IO, no Kubernetes, no Envoy.
//!
//! This is the vocabulary every other crate speaks. Kubernetes objects are turned into it at one edge
//! (`kermode-k8s`), Envoy resources are made from it at the other (`kermode-envoy`).

pub mod annotation;
mod dataplane;
pub mod direct_access;
pub mod duration;
mod mesh;
mod name;
pub mod notation;
mod permission;
mod protocol;
mod tags;
pub mod view;

pub use dataplane::{
    ApplicationProbe, Dataplane, Gateway, GatewayKind, Inbound, Metrics, Probes, TransparentProxying,
};
pub use mesh::{CertificateAuthority, Mesh, Mtls, MtlsMode};
pub use name::{DEFAULT_MESH, MAX_DNS_LABEL, MeshName, ObjectKey, ServiceName, is_dns_label};
pub use permission::{Action, PermissionRule, PermissionSet, Principal, TrafficPermission};
pub use protocol::Protocol;
pub use tags::{Tags, tag};
