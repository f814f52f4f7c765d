//! The messages of delta ADS, as far as Kermode reads and writes them.
//!
//! Written by hand from Envoy's `envoy/service/discovery/v3/discovery.proto`: `kuma-dp` needs no generated types,
//! and a resource that was encoded once is passed on as the bytes it is. Fields that are not listed are skipped
//! when a message is read. `wire/tests.rs` compares every message with the generated ones, byte for byte.

mod node;

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

pub use node::Versions;

/// Path of the one RPC that is served: a bidirectional stream of the messages below.
pub const DELTA_AGGREGATED_RESOURCES: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Name of the gRPC service that the RPC belongs to.
pub const SERVICE_NAME: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// The largest request that is read anywhere on its way, in bytes: an Envoy that reconnects lists the names and versions
/// of all that it has.
pub const MAX_REQUEST: usize = 4 << 20;

/// What Envoy sends: a change of interest, the answer to a response, or both.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks. Sent at least in the first request of a stream.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The kind of resource it is about.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names that the client begins to be interested in, `*` for whatever the server thinks it needs.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names that it is no longer interested in.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// Name and version of what the client has; only in the first request for a type on a stream.
    #[prost(map = "string, string", tag = "5")]
    pub initial_resource_versions: HashMap<String, String>,
    /// The nonce of the response that is answered; empty when none is.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Set when that response was rejected.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// What the server sends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// Version of the whole, for people to read.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New and changed resources, each an encoded [`Resource`]. On the wire a nested message and a byte string
    /// are the same, so what the store holds goes out without being encoded again.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// The kind of resource it is about.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// What the client has to answer with.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that do not exist, or no longer.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// One named and versioned resource of a response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Its version; compared, never ordered.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource itself.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.Any`: an encoded message and its type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Type of the message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `envoy.config.core.v3.Node`: who the client is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Node {
    /// Identity of the proxy: `<mesh>.<name>.<namespace>`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The service it belongs to.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// A `google.protobuf.Struct`, passed on as the bytes it is.
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub metadata: Option<Bytes>,
    /// A `BuildVersion`, likewise.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub user_agent_build_version: Option<Bytes>,
}

/// `google.rpc.Status`: why something was rejected.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Envoy's explanation.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Encodes one resource of a response from the parts that the generator made.
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

#[cfg(test)]
mod tests;
