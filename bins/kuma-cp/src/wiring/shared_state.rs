//! State that the components share: index, store, writer, statuses, CAs, and whether this replica holds the Lease.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kermode_admission::directory::Directory;
use kermode_admission::{self as admission, RecentDecisions, Webhooks};
use kermode_authorities::{self as authorities, Authorities};
use kermode_completion::CompletionService;
use kermode_engine::{self as engine, Engine};
use kermode_issuance::{self as issuance, AcceptedAudiences, CertificateIssuance, TokenAuthenticator};
use kermode_k8s::controller::network_attachments::{self, NetworkAttachmentPublisher};
use kermode_k8s::controller::recorder::EventRecorder;
use kermode_k8s::controller::roots::{self, RootsPublisher, RootsReceiver, SidecarNamespaces};
use kermode_k8s::controller::virtual_ips::{self, VirtualIpWriter};
use kermode_k8s::controller::writer::{self, Writer};
use kermode_k8s::convert::ConvertSettings;
use kermode_k8s::index::Index;
use kermode_k8s::service_changes::ServiceChanges;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::{KubernetesVersion, ObjectKey, VirtualIpRange};
use kermode_names::NameService;
use kermode_removals::{EndpointRemovals, Replicas};
use kermode_replicas::tracking;
use kermode_runtime::shutdown::Shutdown;
use kermode_runtime::tls::ConnectionMetrics;
use kermode_status::{ClosedPortMetrics, ClosedPortService, ProxyStatuses};
use kermode_xds::publisher::Publisher;
use kermode_xds::store::Store;
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, watch};

use super::api_server;
use crate::server_for_proxies::{OtherServices, RemovalDependencies, ServerForProxies};
use kermode_config::Config;

/// State that the components share. Its methods create the components that need most of the state.
pub(super) struct SharedState {
    pub(super) index: SharedIndex,
    /// Objects that the webhooks read. The engine updates them.
    pub(super) directory: Directory,
    pub(super) store: Arc<Store>,
    pub(super) writer: Writer,
    pub(super) statuses: ProxyStatuses,
    /// Notification from the engine to the writer of Mesh statuses.
    pub(super) meshes_changed: Arc<Notify>,
    /// Notification from the engine to the writer of statuses of MeshTrafficPermissions.
    pub(super) service_changes: ServiceChanges,
    /// Namespaces of sidecars, from the engine to the writer of the ConfigMaps with the roots of the control plane.
    pub(super) sidecar_namespaces: SidecarNamespaces,
    pub(super) event_recorder: EventRecorder,
    /// Decisions of the injection webhook, for the page.
    pub(super) recent_decisions: RecentDecisions,
    pub(super) authorities: Authorities,
    /// Audiences of the tokens of proxies.
    pub(super) accepted_audiences: AcceptedAudiences,
    pub(super) publisher: Publisher,
    pub(super) removals: EndpointRemovals,
    /// The replicas of the control plane, from the watch of their Pods.
    pub(super) replicas: watch::Sender<Replicas>,
    /// Whether this replica holds the Lease.
    pub(super) is_leader: watch::Receiver<bool>,
    /// Sender of `is_leader`, for the leader election.
    pub(super) is_leader_sender: watch::Sender<bool>,
    pub(super) engine_metrics: engine::Metrics,
    /// Metric of the connections that the servers for proxies and webhooks close or refuse at a limit.
    pub(super) connection_metrics: ConnectionMetrics,
    /// Whether services have virtual IPs.
    pub(super) has_virtual_ips: bool,
}

impl SharedState {
    pub(super) fn new(config: &Config, client: Client, registry: &Arc<Mutex<Registry>>) -> Self {
        let zone = Some(config.multizone.zone.name.as_str()).filter(|name| !name.is_empty());
        let index = SharedIndex::new(Index::new(ConvertSettings {
            zone: zone.map(Into::into),
        }));
        let event_recorder = EventRecorder::start(client.clone(), Some(config.instance_name().to_owned()));
        let writer_metrics = writer::Metrics::default();
        let store = Arc::new(Store::default());
        let publisher = Publisher::new(store.clone()).with_virtual_ips(config.virtual_ip_range());
        let removals = EndpointRemovals::default();
        let engine_metrics = engine::Metrics::default();
        let connection_metrics = ConnectionMetrics::default();
        {
            let mut registry = registry.lock();
            writer_metrics.register(&mut registry);
            publisher.register(&mut registry);
            removals.register(&mut registry);
            engine_metrics.register(&mut registry);
            connection_metrics.register(&mut registry);
        }
        let authorities = Authorities::new(
            client.clone(),
            config.store.kubernetes.system_namespace.clone(),
            config.general.clock_tolerance,
        );
        let statuses = ProxyStatuses::new(client.clone(), index.clone(), config.instance_name());
        let writer = Writer::new(client, index.clone(), event_recorder.clone(), writer_metrics);
        let (is_leader_sender, is_leader) = watch::channel(false);
        Self {
            index,
            directory: Directory::default(),
            store,
            writer,
            statuses,
            meshes_changed: Arc::default(),
            service_changes: ServiceChanges::default(),
            sidecar_namespaces: SidecarNamespaces::default(),
            event_recorder,
            recent_decisions: RecentDecisions::default(),
            authorities,
            accepted_audiences: AcceptedAudiences {
                sidecars: config.injector().sidecar_container.token_audience.as_str().into(),
                accepts_api_server_tokens: config.dp_server.auth.accept_api_server_tokens,
            },
            publisher,
            removals,
            replicas: watch::Sender::default(),
            is_leader,
            is_leader_sender,
            engine_metrics,
            connection_metrics,
            has_virtual_ips: config.virtual_ip_range().is_some(),
        }
    }

    pub(super) fn into_engine(self) -> Engine {
        Engine {
            index: self.index,
            directory: self.directory,
            publisher: self.publisher,
            removals: self.removals,
            writer: self.writer,
            event_recorder: self.event_recorder,
            meshes_changed: self.meshes_changed,
            service_changes: self.service_changes,
            sidecar_namespaces: self.sidecar_namespaces,
            is_leader: self.is_leader,
            metrics: self.engine_metrics,
        }
    }

    /// Returns the future that rotates the CAs, and registers its metrics.
    pub(super) fn rotate_authorities(
        &self,
        registry: &Arc<Mutex<Registry>>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let metrics = authorities::Metrics::default();
        metrics.register(&mut registry.lock());
        self.authorities
            .clone()
            .run_rotation(metrics, self.event_recorder.clone())
    }

    /// Returns the writer of the ConfigMaps with the roots of the control plane, and registers its metrics.
    pub(super) fn roots_publisher(
        &self,
        client: Client,
        roots: RootsReceiver,
        registry: &Arc<Mutex<Registry>>,
    ) -> RootsPublisher {
        let publisher = RootsPublisher {
            client,
            namespaces: self.sidecar_namespaces.clone(),
            roots,
            is_leader: self.is_leader.clone(),
            metrics: roots::Metrics::default(),
        };
        publisher.register(&mut registry.lock());
        publisher
    }

    /// Returns the writer of the NetworkAttachmentDefinitions of the CNI plugin, and registers its metrics.
    pub(super) fn network_attachment_publisher(
        &self,
        client: Client,
        registry: &Arc<Mutex<Registry>>,
    ) -> NetworkAttachmentPublisher {
        let publisher = NetworkAttachmentPublisher {
            client,
            namespaces: self.sidecar_namespaces.clone(),
            is_leader: self.is_leader.clone(),
            metrics: network_attachments::Metrics::default(),
        };
        publisher.register(&mut registry.lock());
        publisher
    }

    /// Returns the writer of the ConfigMap with virtual IPs, and registers its metrics.
    pub(super) fn virtual_ip_writer(
        &self,
        client: Client,
        namespace: &str,
        range: VirtualIpRange,
        registry: &Arc<Mutex<Registry>>,
    ) -> VirtualIpWriter {
        let metrics = virtual_ips::Metrics::default();
        metrics.register(&mut registry.lock());
        VirtualIpWriter {
            client,
            namespace: namespace.to_owned(),
            range,
            index: self.index.clone(),
            service_changes: self.service_changes.clone(),
            is_leader: self.is_leader.clone(),
            metrics,
            now: Timestamp::now,
        }
    }

    /// Returns the future that tracks the other replicas, and registers its metrics.
    pub(super) fn track_replicas(
        &self,
        config: &Config,
        client: Client,
        registry: &Arc<Mutex<Registry>>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let namespace = config.store.kubernetes.system_namespace.as_str();
        let own_pod = ObjectKey::new(namespace, config.instance_name());
        let metrics = tracking::Metrics::default();
        metrics.register(&mut registry.lock());
        tracking::run(
            client,
            own_pod,
            config.dp_server.port,
            self.replicas.clone(),
            metrics,
        )
    }

    /// Returns the state that the webhooks need, and registers their metrics. New sidecars verify the control plane
    /// with `sidecar_roots`: the roots in `caCertFile`, or those of the control plane's own CA.
    ///
    /// # Errors
    /// When the version of the API server cannot be read.
    pub(super) async fn webhooks(
        &self,
        config: &Config,
        client: &Client,
        sidecar_roots: RootsReceiver,
        registry: &Arc<Mutex<Registry>>,
    ) -> anyhow::Result<Webhooks> {
        let mut settings = config.runtime.kubernetes.injector.clone();
        settings.set_api_server_version(api_server::retry(async || api_server_version(client).await).await?);
        let metrics = admission::Metrics::default();
        metrics.register(&mut registry.lock());
        Ok(Webhooks {
            settings,
            directory: self.directory.clone(),
            client: client.clone(),
            control_plane_url: config.control_plane_url(),
            control_plane_roots: sidecar_roots,
            system_namespace: config.store.kubernetes.system_namespace.clone(),
            events: admission::InjectionEvents::start(self.event_recorder.clone(), client.clone()),
            recent: self.recent_decisions.clone(),
            metrics,
        })
    }

    /// Returns the server that proxies connect to, and registers its metrics.
    pub(super) fn server_for_proxies(
        &self,
        client: &Client,
        registry: &Arc<Mutex<Registry>>,
        shutdown: &Shutdown,
    ) -> ServerForProxies {
        let authenticator = TokenAuthenticator::new(
            client.clone(),
            self.index.clone(),
            self.accepted_audiences.clone(),
        );
        let metrics = issuance::Metrics::default();
        let mut registry = registry.lock();
        metrics.register(&mut registry);
        let issuance = CertificateIssuance::new(
            authenticator.clone(),
            self.authorities.clone(),
            self.index.clone(),
            metrics,
        );
        let closed_port_metrics = ClosedPortMetrics::default();
        closed_port_metrics.register(&mut registry);
        let closed_ports = ClosedPortService::new(
            authenticator.clone(),
            self.index.clone(),
            self.event_recorder.clone(),
            closed_port_metrics,
        );
        let completion = CompletionService::new(authenticator.clone(), self.index.clone());
        let name_metrics = kermode_names::Metrics::default();
        name_metrics.register(&mut registry);
        let names = NameService::new(
            authenticator.clone(),
            self.index.clone(),
            self.has_virtual_ips,
            name_metrics,
        );
        ServerForProxies::new(
            self.store.clone(),
            RemovalDependencies {
                removals: self.removals.clone(),
                replicas: self.replicas.subscribe(),
                index: self.index.clone(),
            },
            authenticator,
            OtherServices {
                issuance,
                closed_ports,
                completion,
                names,
            },
            self.statuses.clone(),
            &mut registry,
            shutdown,
        )
    }
}

/// Returns the version of the API server; `None` if it cannot be parsed. The injector uses it for the sidecar mode `auto`
/// only while no Node is known; see [`kermode_inject::Context::oldest_node`]. In the mode `native`, support by either the
/// API server or the oldest kubelet is enough.
async fn api_server_version(client: &Client) -> anyhow::Result<Option<KubernetesVersion>> {
    let version = client.apiserver_version().await?;
    Ok(KubernetesVersion::parse(&format!(
        "{}.{}",
        version.major, version.minor
    )))
}
