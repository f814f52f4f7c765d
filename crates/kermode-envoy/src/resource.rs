//! Encoded Envoy resources, which this crate generates and `kermode-xds` stores and sends.

use std::sync::Arc;

use bytes::Bytes;
use kermode_model::ServiceName;
use prost::Message;
use xxhash_rust::xxh3::Xxh3Default;

/// The kinds of resources that Kermode serves, one for each Envoy resource type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ResourceKind {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
}

impl ResourceKind {
    /// Every kind, in the order of the discriminants. Clusters come before the listeners that refer to them.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Route,
        Self::Secret,
    ];

    /// Returns the type URL of this kind in xDS messages and in `google.protobuf.Any`.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// Returns the kind with this type URL, or `None` if Kermode does not serve the type.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// One Envoy resource, encoded. Clones share the encoded bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name of the resource, unique among the resources of its kind that one proxy has.
    pub name: Arc<str>,
    /// Version of the resource: 32 hexadecimal digits of a hash of `body`. The version of endpoints also covers the
    /// version of their cluster, see [`Resource::with_cluster_version`]. Every replica computes the same version.
    pub version: Arc<str>,
    /// Encoded message: the `value` of the `google.protobuf.Any` in the response.
    pub body: Bytes,
    /// Service that the resource belongs to; `None` for resources of one proxy or of the whole mesh.
    pub service: Option<ServiceName>,
    /// Present if the resource is sent only to explicit subscriptions, not to wildcard subscriptions.
    pub on_demand: Option<Box<OnDemand>>,
}

/// Condition for sending a resource to an explicit subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDemand {
    /// Kinds and names of other resources that the proxy must ACK or NACK before this resource is sent. After a time
    /// limit, the stream sends this resource in any case. Names of resources that do not exist are ignored.
    pub after: Vec<(ResourceKind, Arc<str>)>,
}

impl Resource {
    /// Encodes a message.
    pub(crate) fn encode(kind: ResourceKind, name: &str, message: &impl Message) -> Self {
        Self::new(kind, name, message.encode_to_vec())
    }

    /// Creates a resource from an encoded message.
    pub(crate) fn new(kind: ResourceKind, name: &str, body: Vec<u8>) -> Self {
        Self {
            kind,
            name: name.into(),
            version: version(&[&body]),
            body: body.into(),
            service: None,
            on_demand: None,
        }
    }

    /// Sets the service that the resource belongs to.
    pub(crate) fn with_service(self, service: &ServiceName) -> Self {
        Self {
            service: Some(service.clone()),
            ..self
        }
    }

    /// Makes the version of these endpoints depend on the version of their cluster.
    ///
    /// Envoy rebuilds a changed cluster and waits until the server sends the endpoints of the cluster again. A delta
    /// server compares only versions, so it sends endpoints with the same content again only if their version has
    /// changed. Otherwise, Envoy waits until `initial_fetch_timeout` (envoyproxy/envoy#28877).
    pub(crate) fn with_cluster_version(self, cluster: &Self) -> Self {
        Self {
            version: version(&[cluster.version.as_bytes(), &self.body]),
            ..self
        }
    }
}

/// Returns the version of a resource with this content: the XXH3 hash (128 bits, seed 0) in hexadecimal.
///
/// All replicas and releases compute the same hash, because XXH3 has a fixed specification. XXH3 is fast enough for a
/// full publication of a mesh, which hashes megabytes.
///
/// XXH3 does not resist deliberate collisions. Users can construct collisions only in resources that are generated from
/// their own objects. After a collision, proxies keep the previous content of the resource until it changes again.
fn version(parts: &[&[u8]]) -> Arc<str> {
    let mut hasher = Xxh3Default::new();
    for part in parts {
        hasher.update(part);
    }
    format!("{:032x}", hasher.digest128()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_resource(body: &[u8]) -> Resource {
        Resource::new(ResourceKind::Cluster, "a", body.to_vec())
    }

    #[test]
    fn version_equals_the_output_of_xxhsum() {
        // `xxhsum -H128` computes these values.
        assert_eq!(&*mk_resource(b"").version, "99aa06d3014798d86001c324468d497f");
        assert_eq!(&*mk_resource(b"a").version, "a96faf705af16834e6c632b61e964e1f");
    }

    #[test]
    fn version_of_endpoints_changes_with_their_cluster() {
        let endpoints = || Resource::new(ResourceKind::Endpoints, "a", b"same".to_vec());
        let before = endpoints().with_cluster_version(&mk_resource(b"plain"));
        let after = endpoints().with_cluster_version(&mk_resource(b"tls"));
        assert_eq!(before.body, after.body);
        assert_ne!(before.version, after.version);
        assert_eq!(
            after.version,
            endpoints().with_cluster_version(&mk_resource(b"tls")).version
        );
    }

    #[test]
    fn every_kind_has_its_own_type_url() {
        for kind in ResourceKind::ALL {
            assert_eq!(ResourceKind::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(ResourceKind::from_type_url("type.googleapis.com/x.Y"), None);
    }
}
