//! The `kuma.io/v1alpha1` API: custom resources, their CustomResourceDefinitions, and their validation.
//!
//! The types of this crate are wire types. They can be converted to and from types of `kermode-model`, which the rest
//! of Kermode uses. The keys of labels and annotations are declared in `kermode-model` and re-exported here.

mod container_patch;
mod dataplane;
pub mod definition;
mod mesh;
mod object;
mod traffic_permission;
pub mod validate;

pub use kermode_model::annotation;

pub use container_patch::{ContainerPatch, ContainerPatchSpec, JsonPatchBlock, JsonPatchOp};
pub use dataplane::{
    AdminSpec, ConfigurationStatus, Dataplane, DataplaneSpec, DataplaneStatus, GatewaySpec, Health,
    InboundSpec, InboundsStatus, MetricsSpec, Networking, ProbeEndpoint, ProbesSpec, RejectionStatus,
    SidecarStatus, TransparentProxyingSpec, condition,
};
pub use mesh::{
    Backend, DpCert, InvalidMesh, Mesh, MeshNetworking, MeshOutbound, MeshSpec, MeshStatus, MtlsSpec,
    Rotation,
};
pub use traffic_permission::{
    FromSpec, InvalidPermission, MeshTrafficPermission, MeshTrafficPermissionSpec,
    MeshTrafficPermissionStatus, PermissionConf, ServiceReference, TargetRef,
};

/// API group of all custom resources.
pub const GROUP: &str = "kuma.io";
/// API version of all custom resources.
pub const VERSION: &str = "v1alpha1";
