//! Tags: the labels of an inbound, as users see them on a Dataplane.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Tags of an inbound, sorted by key. Keys and values are shared text, since most repeat across a mesh.
pub type Tags = BTreeMap<Arc<str>, Arc<str>>;

/// Keys of the tags that Kermode generates (manual page, "Tag generation").
pub mod tag {
    /// The service an inbound belongs to.
    pub const SERVICE: &str = "kuma.io/service";
    /// What stands for [`SERVICE`] on a gateway that is known by its Deployment; spelled as Kuma does.
    pub const GATEWAY_SERVICE: &str = "kuma.io/service-name";
    /// The zone of a multi-zone deployment.
    pub const ZONE: &str = "kuma.io/zone";
    /// The protocol spoken on the inbound.
    pub const PROTOCOL: &str = "kuma.io/protocol";
    /// The pod, for inbounds that are addressed one by one.
    pub const INSTANCE: &str = "kuma.io/instance";
    /// The pod's namespace.
    pub const K8S_NAMESPACE: &str = "k8s.kuma.io/namespace";
    /// The Kubernetes Service that selects the pod.
    pub const K8S_SERVICE_NAME: &str = "k8s.kuma.io/service-name";
    /// The port of that Service.
    pub const K8S_SERVICE_PORT: &str = "k8s.kuma.io/service-port";
}
