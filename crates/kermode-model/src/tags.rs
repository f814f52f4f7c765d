//! Tags: keys and values that describe an inbound, as the Dataplane shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Tags of an inbound, sorted by key. Keys and values are shared text, since most repeat across a mesh.
pub type Tags = BTreeMap<Arc<str>, Arc<str>>;

/// Keys of the tags that Kermode generates. `docs/reference/tags.md` is generated from them.
pub mod tag {
    use crate::annotation::keys;
    use crate::notation::Notation;

    keys! {
        /// Tags that Kermode generates, with the inbounds that have them.
        GENERATED:

        /// Service that the inbound belongs to: `<name>_<namespace>_svc_<port>`, without `_<port>` for a Pod to
        /// which no Service gives an inbound.
        SERVICE = "kuma.io/service", "every inbound; every gateway named after its Service", Notation::Text, "";
        /// Replaces `kuma.io/service` on a gateway that is named after its workload.
        GATEWAY_SERVICE = "kuma.io/service-name", "gateways with `kuma.io/gateway: provided`", Notation::Text, "";
        /// Zone of the control plane.
        ZONE = "kuma.io/zone", "every inbound if `multizone.zone.name` is set", Notation::Text, "";
        /// Application protocol of the inbound.
        PROTOCOL = "kuma.io/protocol", "every inbound", Notation::Words(&["tcp", "kafka", "http", "http2", "grpc"]), "`tcp`";
        /// Name of the Pod.
        INSTANCE = "kuma.io/instance", "inbounds of a headless Service; Pods to which no Service gives an inbound", Notation::Text, "";
        /// Namespace of the Pod.
        K8S_NAMESPACE = "k8s.kuma.io/namespace", "every inbound", Notation::Text, "";
        /// Name of the Kubernetes Service that selects the Pod.
        K8S_SERVICE_NAME = "k8s.kuma.io/service-name", "inbounds of a Service", Notation::Text, "";
        /// Port of the Kubernetes Service that selects the Pod.
        K8S_SERVICE_PORT = "k8s.kuma.io/service-port", "inbounds of a Service", Notation::Number, "";
    }
}
