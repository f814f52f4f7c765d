//! Messages of delta ADS, limited to the fields that Kermode reads and writes.
//!
//! Derived by hand from Envoy's `envoy/service/discovery/v3/discovery.proto`. A resource is encoded once and passed on
//! as bytes from the generator to Envoy. Unlisted fields are skipped when a message is decoded.
//! `kermode-xds/tests/wire.rs` compares every message with the message that is generated from Envoy's definitions, byte
//! for byte.

mod node;

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

pub use node::Versions;

/// Path of the only implemented method, a bidirectional stream of [`DeltaDiscoveryRequest`] and
/// [`DeltaDiscoveryResponse`].
pub const DELTA_AGGREGATED_RESOURCES: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Maximum number of names without a resource to which a stream is subscribed beside a wildcard. These are on-demand
/// resources, and an application chooses them by the addresses that it connects to, so a port scanner would subscribe to
/// any number. The control plane and the agent respond to further names, but do not store them. A name takes about 500
/// bytes of the agent, so that the agent needs at most 5 MB for them.
pub const MAX_NAMES_WITHOUT_RESOURCE: usize = 10_000;

/// Maximum size of a request that the control plane and the agent accept, in bytes. The largest request is the first
/// one of a reconnecting Envoy: it lists the name and version of each of Envoy's resources.
pub const MAX_REQUEST_SIZE: usize = 4 << 20;

/// Request of a proxy: a change of its subscription, an ACK or NACK, or both.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// The proxy. Present at least in the first request of a stream.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Type URL of the resources.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to subscribe to; `*` is the wildcard subscription.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names to unsubscribe from.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// Name and version of each resource that the proxy holds. Present only in the first request for a type on a
    /// stream.
    #[prost(map = "string, string", tag = "5")]
    pub initial_resource_versions: HashMap<String, String>,
    /// Nonce of the response that is acknowledged or rejected; empty in other requests.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Reason of a NACK; absent in an ACK.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// Response of the server: changed and removed resources of one type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// Version of the whole configuration. Informational: proxies do not compare it.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New and changed resources, each an encoded [`Resource`]. A nested message and a byte string have the same
    /// encoding, so the store's bytes are sent without another encoding step.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// Type URL of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Nonce that the ACK or NACK repeats.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names of subscribed resources that do not exist or no longer exist.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// Named and versioned resource of a response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Version. Compared for equality only.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.Any`: an encoded message with its type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Type URL of the message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.config.core.v3.Node`: the proxy that opened a stream.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Node {
    /// `<mesh>.<name>.<namespace>` of the Dataplane.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Name of the group of proxies to which Envoy belongs. In a sidecar, this is the name of the Pod.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Encoded `google.protobuf.Struct`; [`Node::versions`] reads it.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub metadata: Option<Bytes>,
    /// Encoded `envoy.config.core.v3.BuildVersion`; [`Node::versions`] reads it.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub user_agent_build_version: Option<Bytes>,
}

/// `google.rpc.Status`: the reason of a NACK.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Envoy's explanation.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Encodes a [`Resource`]. `body` is the encoded message of type `type_url`.
pub fn encode_resource(type_url: &str, name: &str, version: &str, body: Bytes) -> Bytes {
    let any = Any {
        type_url: type_url.to_owned(),
        value: body,
    };
    Resource {
        version: version.to_owned(),
        resource: Some(any),
        name: name.to_owned(),
    }
    .encode_to_vec()
    .into()
}
