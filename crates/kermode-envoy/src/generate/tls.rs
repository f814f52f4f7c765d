//! Mesh TLS, and TLS of HTTPS probes (docs/reference/envoy.md#tls).
//!
//! For mesh TLS, resources contain the names of secrets instead of certificates. Envoy requests the secrets from
//! `kuma-dp` over a unix socket. Therefore, private keys stay in the Pod, and a rotation changes no resource.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, GrpcService, TransportSocket, api_config_source::ApiType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use kermode_model::{Mesh, MeshName, ServiceName};
use kermode_protocol::bootstrap::AGENT_CLUSTER;
use kermode_protocol::secrets;

use crate::names;
use crate::proto::{boolean, duration, exact, prefix, transport_socket};

/// ALPN protocol that clients' sidecars offer. Inbound listeners of a PERMISSIVE mesh use it to distinguish mesh TLS
/// from TLS of the application.
pub(crate) const ALPN: &str = "kuma";

const TLS_TRANSPORT_SOCKET: &str = "envoy.transport_sockets.tls";

/// Creates the TLS contexts of a mesh's proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MeshTls {
    /// Name of the mesh, which is the SPIFFE trust domain.
    mesh: MeshName,
    /// Name of the secret with the proxy's certificate and key.
    certificate_secret: String,
    /// Name of the secret with the mesh's trust bundle.
    trust_bundle_secret: String,
}

impl MeshTls {
    /// Returns `None` if the mesh has no mTLS.
    pub(crate) fn of(mesh: &Mesh) -> Option<Self> {
        mesh.mtls.as_ref()?;
        Some(Self {
            mesh: mesh.name.clone(),
            certificate_secret: secrets::identity_secret_name(&mesh.name),
            trust_bundle_secret: secrets::trust_bundle_secret_name(&mesh.name),
        })
    }

    /// TLS of connections to one service. The server's certificate must have the SPIFFE ID of the service.
    pub(crate) fn to_service(&self, service: &ServiceName) -> TransportSocket {
        self.upstream(
            vec![exact(names::spiffe_id(&self.mesh, service))],
            names::sni(&self.mesh, service),
        )
    }

    /// TLS of connections to one Pod. The server's certificate must have the SPIFFE ID of one of these services.
    pub(crate) fn to_any_of<'a>(
        &self,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> TransportSocket {
        let peers = services
            .into_iter()
            .map(|service| exact(names::spiffe_id(&self.mesh, service)));
        self.upstream(peers.collect(), String::new())
    }

    /// TLS of an inbound listener. It accepts the certificates of all proxies of the mesh; the RBAC filter restricts
    /// access.
    pub(crate) fn downstream(&self) -> TransportSocket {
        let context = DownstreamTlsContext {
            // No ALPN on the server side: Envoy derives the HTTP version from a negotiated protocol, and would take
            // "kuma" for HTTP/1.
            common_tls_context: Some(
                self.common_context(vec![prefix(names::spiffe_prefix(&self.mesh))], Vec::new()),
            ),
            require_client_certificate: boolean(true),
            ..Default::default()
        };
        transport_socket(TLS_TRANSPORT_SOCKET, &context)
    }

    /// TLS of connections to a server. One of `peers` must match a SPIFFE ID in the server's certificate.
    fn upstream(&self, peers: Vec<StringMatcher>, sni: String) -> TransportSocket {
        let common_tls_context = Some(self.common_context(peers, vec![ALPN.into()]));
        transport_socket(
            TLS_TRANSPORT_SOCKET,
            &UpstreamTlsContext {
                common_tls_context,
                sni,
                ..Default::default()
            },
        )
    }

    /// Settings that both ends of a connection share. One of `peers` must match a SPIFFE ID in the certificate of the
    /// other end.
    fn common_context(&self, peers: Vec<StringMatcher>, alpn_protocols: Vec<String>) -> CommonTlsContext {
        let uri = |peer| SubjectAltNameMatcher {
            san_type: SanType::Uri.into(),
            matcher: Some(peer),
            ..Default::default()
        };
        let validation = CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext {
                match_typed_subject_alt_names: peers.into_iter().map(uri).collect(),
                ..Default::default()
            }),
            validation_context_sds_secret_config: Some(sds_secret(&self.trust_bundle_secret)),
            ..Default::default()
        };
        // Both ends are sidecars, which support TLS 1.3. By default, Envoy's clients use at most TLS 1.2.
        let versions = TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        };
        CommonTlsContext {
            tls_params: Some(versions),
            alpn_protocols,
            tls_certificate_sds_secret_configs: vec![sds_secret(&self.certificate_secret)],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
            ..Default::default()
        }
    }
}

/// TLS of probes: like the kubelet, accepts any certificate and TLS 1.2 or later, and sends no server name.
pub(crate) fn unverified() -> TransportSocket {
    let versions = TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..Default::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(versions),
            ..Default::default()
        }),
        ..Default::default()
    };
    transport_socket(TLS_TRANSPORT_SOCKET, &context)
}

/// A reference to a secret that Envoy requests from the agent.
fn sds_secret(name: &str) -> SdsSecretConfig {
    let agent = EnvoyGrpc {
        cluster_name: AGENT_CLUSTER.into(),
        ..Default::default()
    };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(agent)),
            ..Default::default()
        }],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    let sds_config = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        resource_api_version: ApiVersion::V3.into(),
        // Zero disables the timeout. After a timeout, Envoy would start the listener without its certificate, and the
        // listener would reject all connections.
        initial_fetch_timeout: duration(Duration::ZERO),
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(sds_config),
    }
}
