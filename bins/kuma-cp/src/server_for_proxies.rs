//! The server for proxies, with six services: delta ADS, issuance of certificates, reports on endpoint removals, reports
//! of sidecars about closed ports, the end of applications, and resolution of names. Each service authenticates proxies by
//! their tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use kermode_completion::CompletionService;
use kermode_issuance::{CertificateIssuance, TokenAuthenticator};
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::{MeshName, ObjectKey};
use kermode_names::NameService;
use kermode_protocol::rpc::Rpc;
use kermode_removals::{EndpointRemovals, RemovalService, Replicas};
use kermode_runtime::shutdown::Shutdown;
use kermode_runtime::tls::{ConnectionError, ConnectionSignals, Protocol};
use kermode_status::{ClosedPortService, ProxyStatuses};
use kermode_xds::server::{AdsServer, Metrics, Settings, Transport};
use kermode_xds::store::Store;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;

/// Dependencies of the endpoint-removal service.
pub(crate) struct RemovalDependencies {
    pub(crate) removals: EndpointRemovals,
    pub(crate) replicas: watch::Receiver<Replicas>,
    pub(crate) index: SharedIndex,
}

/// Services that are served beside ADS and endpoint removals.
pub(crate) struct OtherServices {
    pub(crate) issuance: CertificateIssuance,
    pub(crate) closed_ports: ClosedPortService,
    pub(crate) completion: CompletionService,
    pub(crate) names: NameService,
}

/// The services for proxies, over HTTP/2.
pub(crate) struct ServerForProxies {
    ads: AdsServer,
    transport: Transport,
}

impl ServerForProxies {
    pub(crate) fn new(
        store: Arc<Store>,
        removal_dependencies: RemovalDependencies,
        authenticator: TokenAuthenticator,
        other_services: OtherServices,
        statuses: ProxyStatuses,
        registry: &mut Registry,
        shutdown: &Shutdown,
    ) -> Self {
        let metrics = Metrics::default();
        metrics.register(registry);
        let RemovalDependencies {
            removals,
            replicas,
            index,
        } = removal_dependencies;
        let published_sequence = {
            let store = store.clone();
            move |proxy: &ObjectKey| -> Option<(MeshName, u64)> {
                let mesh = index.read().view().dataplane(proxy)?.mesh.clone();
                let sequence = store.mesh_sequence(&mesh);
                // 0 means that the mesh was never published.
                (sequence > 0).then_some((mesh, sequence))
            }
        };
        let removal_service = RemovalService::new(
            removals.clone(),
            Arc::new(published_sequence),
            replicas,
            authenticator.clone(),
        );
        let ads = AdsServer::new(
            store,
            authenticator,
            Settings::default(),
            metrics,
            removals,
            shutdown.watch(),
        );
        ads.report_to(statuses);
        let routes = Routes::new(Rpc(other_services.issuance))
            .add_service(Rpc(other_services.closed_ports))
            .add_service(Rpc(other_services.completion))
            .add_service(Rpc(other_services.names))
            .add_service(Rpc(removal_service))
            .prepare();
        Self {
            transport: Transport::new(ads.clone(), routes),
            ads,
        }
    }

    /// Returns the service of delta ADS.
    pub(crate) fn ads(&self) -> AdsServer {
        self.ads.clone()
    }
}

impl Protocol for ServerForProxies {
    fn alpn_names(&self) -> Vec<Vec<u8>> {
        vec![b"h2".to_vec()]
    }

    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        signals: ConnectionSignals,
    ) -> BoxFuture<'static, Result<(), ConnectionError>> {
        let transport = self.transport.clone();
        let shutdown = Box::pin(signals.shutdown().wait());
        let is_in_use = AtomicBool::new(false);
        let on_request = move || {
            signals.request_received();
            // Most connections carry an ADS stream, which lasts as long as the connection. From its first request on,
            // every connection therefore counts as in use until it ends, and is not closed as idle.
            if !is_in_use.swap(true, Ordering::Relaxed) {
                signals.start_endless_request();
            }
        };
        let connection = transport.serve_tls(stream, Box::new(on_request), shutdown);
        Box::pin(async move { Ok(connection.await?) })
    }
}
