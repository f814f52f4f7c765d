//! The unit that is generated here and sent by `kermode-xds`: one encoded Envoy resource.

use std::sync::Arc;

use bytes::Bytes;
use kermode_model::ServiceName;
use prost::Message;

/// The kinds of resources that Envoy is sent.
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
    /// Every kind, in the order in which Envoy should learn of them: clusters before the listeners that use them.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Route,
        Self::Secret,
    ];

    /// The type URL that names this kind on an xDS stream and in a `google.protobuf.Any`.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The inverse of [`ResourceKind::type_url`]; `None` for a type that is not served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// One Envoy resource, encoded. Cheap to clone: every stream shares the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name, unique among the resources of its kind that one proxy has.
    pub name: Arc<str>,
    /// Changes whenever Envoy must be sent the resource again: 16 hexadecimal digits of a hash of `body`, and for
    /// endpoints of their cluster's version as well, so that Envoy gets them again after its cluster changed. The
    /// same in every replica.
    pub version: Arc<str>,
    /// The encoded message: the `value` of the `google.protobuf.Any` that goes on the wire.
    pub body: Bytes,
    /// The service whose clients need it, for filters by service; `None` for a proxy's own and for a mesh's.
    pub service: Option<ServiceName>,
}

impl Resource {
    /// Encodes a message.
    pub(crate) fn encode(kind: ResourceKind, name: &str, message: &impl Message) -> Self {
        Self::new(kind, name, message.encode_to_vec())
    }

    /// Takes an encoded message.
    pub(crate) fn new(kind: ResourceKind, name: &str, body: Vec<u8>) -> Self {
        Self {
            kind,
            name: name.into(),
            version: version(&[&body]),
            body: body.into(),
            service: None,
        }
    }

    /// Says which service's clients need it.
    pub(crate) fn of(self, service: &ServiceName) -> Self {
        Self {
            service: Some(service.clone()),
            ..self
        }
    }

    /// Ties the version to that of the cluster these endpoints belong to.
    ///
    /// Envoy builds a changed cluster anew and waits for its endpoints, which a delta server does not send again
    /// unless their version changed; Envoy then waits out `initial_fetch_timeout` (envoyproxy/envoy#28877).
    pub(crate) fn resent_with(self, cluster: &Self) -> Self {
        Self {
            version: version(&[cluster.version.as_bytes(), &self.body]),
            ..self
        }
    }
}

/// FNV-1a, 64 bits: the same in every process and release, which `std`'s hasher does not promise. A version is
/// only compared with other versions of the same resource, so nothing stronger is needed.
fn version(parts: &[&[u8]]) -> Arc<str> {
    let bytes = parts.iter().copied().flatten();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_resource(body: &[u8]) -> Resource {
        Resource::new(ResourceKind::Cluster, "a", body.to_vec())
    }

    #[test]
    fn a_version_is_the_published_fnv_hash_and_so_equal_in_every_replica() {
        // Test vectors of draft-eastlake-fnv.
        assert_eq!(&*mk_resource(b"").version, "cbf29ce484222325");
        assert_eq!(&*mk_resource(b"foobar").version, "85944171f73967e8");
    }

    #[test]
    fn endpoints_are_resent_when_only_their_cluster_changed() {
        let endpoints = || Resource::new(ResourceKind::Endpoints, "a", b"same".to_vec());
        let before = endpoints().resent_with(&mk_resource(b"plain"));
        let after = endpoints().resent_with(&mk_resource(b"tls"));
        assert_eq!(before.body, after.body);
        assert_ne!(before.version, after.version);
        assert_eq!(
            after.version,
            endpoints().resent_with(&mk_resource(b"tls")).version
        );
    }

    #[test]
    fn every_kind_reads_its_own_type_url() {
        for kind in ResourceKind::ALL {
            assert_eq!(ResourceKind::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(ResourceKind::from_type_url("type.googleapis.com/x.Y"), None);
    }
}
