//! RPC by which a sidecar resolves a name of the mesh, one that ends in `.mesh` (`docs/design.md#mesh-dns-names`).
//!
//! One unary call for each name that the application looks up, authenticated as for ADS. The control plane pushes no
//! table of names, so a sidecar whose application uses no such name costs nothing.

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "kermode.names.v1.NameService";

/// Path of the unary method: [`ResolveRequest`] to [`ResolveResponse`].
pub const RESOLVE: &str = "/kermode.names.v1.NameService/Resolve";

/// Maximum length of a name, in bytes, as in the DNS.
pub const MAX_NAME_LENGTH: usize = 253;

/// Resolves a name. The token identifies the proxy, and thereby the mesh.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResolveRequest {
    /// Name in lower case, without a trailing dot, such as `redis_prod_svc_6379.mesh`. The control plane rejects a name
    /// that has another form or is longer than [`MAX_NAME_LENGTH`].
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Addresses of a name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ResolveResponse {
    /// IPv4 and IPv6 addresses in text form. Empty if the mesh does not have the name. A name may have addresses of only
    /// one family: then the name exists, but has no addresses of the other family.
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    /// Time for which the response may be cached, in seconds. Also applies to a response without addresses.
    #[prost(uint32, tag = "2")]
    pub ttl_seconds: u32,
}
