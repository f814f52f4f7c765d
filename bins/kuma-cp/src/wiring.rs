//! Creates the components of the control plane, connects them, and runs them until a signal or until one of them ends.

mod api_server;
mod components;
mod listeners;
mod shared_state;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use kermode_admission::connection_close;
use kermode_authorities::roots_file::RootsFile;
use kermode_authorities::serving::{self, RotationReports, ServingIdentity};
use kermode_engine::{WatchEvent, watches};
use kermode_k8s::controller::defaults::Defaults;
use kermode_k8s::controller::lease::Candidate;
use kermode_k8s::controller::roots::RootsReceiver;
use kermode_k8s::controller::{preflight, registration};
use kermode_page::guard;
use kermode_replicas::rebalancing;
use kermode_runtime::diagnostics;
use kermode_runtime::readiness::Readiness;
use kermode_runtime::shutdown::{self, Shutdown, Signals};
use kermode_runtime::tls::{self, ConnectionMetrics, ServingCertificate};
use kermode_status::{MeshStatuses, PermissionStatuses};
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::components::{Components, early_end_error, run_on_own_thread, run_until_shutdown, spawn};
use self::listeners::Listeners;
use self::shared_state::SharedState;
use crate::debug::{self, DebugState};
use kermode_config::Config;

/// Capacity of the channel from the watches to the engine, in watch events.
const WATCH_QUEUE_CAPACITY: usize = 4096;
/// Maximum number of connections to the webhooks. One address, such as that of an API server, may have a quarter of
/// them ([`tls::serve`]). In a burst of new Pods, the API server may open a connection for each Pod.
const MAX_ADMISSION_CONNECTIONS: usize = 2048;
/// Maximum number of connections of proxies; each proxy has one. The number exceeds the limit of streams, because a
/// proxy beyond that limit needs a connection to receive a gRPC status with the reason.
const MAX_PROXY_CONNECTIONS: usize = 22_000;

/// Time for which a replica continues to serve after the signal to shut down. Every node needs some time to remove the
/// replica from the Service, and a Pod is denied when the API server cannot connect to the webhook.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);

/// Runs the control plane.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signal handlers cannot be installed")?;
    let (trigger, shutdown) = shutdown::channel();
    let readiness = Readiness::default();
    let mut components = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "signal received during startup; ending at once");
            return Ok(());
        }
        started = start(&config, &readiness, &shutdown) => started?,
    };
    let outcome: anyhow::Result<()> = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "shutting down; a second signal ends the process at once");
            Ok(())
        }
        Some(ended) = components.join_next() => Err(early_end_error(ended)),
    };
    let finish = async {
        if config.runs_in_pod() && outcome.is_ok() {
            // `/ready` fails while the guard exists, because nothing calls `mark_ready` on the guard.
            let _guard = readiness.register("shutdown");
            tokio::time::sleep(SHUTDOWN_DELAY).await;
        }
        trigger.shut_down();
        while components.join_next().await.is_some() {}
    };
    tokio::select! {
        _ = signals.next() => tracing::warn!("second signal: ending at once"),
        () = finish => {}
    }
    outcome
}

/// Waits for the API server, starts all components, and returns them.
async fn start(config: &Config, readiness: &Readiness, shutdown: &Shutdown) -> anyhow::Result<Components> {
    let listeners = Listeners::bind(config)?;
    let registry = Arc::new(Mutex::new(Registry::with_prefix("kuma_cp")));
    let mut components = Components::new();
    spawn_diagnostics(
        &mut components,
        listeners.diagnostics,
        readiness,
        &registry,
        shutdown,
    );
    let watches_synced = readiness.register("watches");
    let servers_ready = readiness.register("servers");

    let client = api_server::connect().await?;
    check_access(config, &client).await?;
    let serving_identity = load_serving_identity(config, &client).await?;
    let sidecar_roots = sidecar_roots(&mut components, config, &serving_identity, shutdown).await?;

    let state = SharedState::new(config, client.clone(), &registry);
    let (event_sender, event_receiver) = mpsc::channel(WATCH_QUEUE_CAPACITY);
    spawn_engine_watches(&mut components, config, &client, &event_sender, shutdown);
    spawn_controllers(&mut components, config, &client, &state, &registry, shutdown);
    spawn_leader_components(
        &mut components,
        config,
        &client,
        &state,
        serving_identity.roots(),
        shutdown,
    );
    spawn_object_writers(
        &mut components,
        config,
        &client,
        &state,
        sidecar_roots.clone(),
        &registry,
        shutdown,
    );
    if let Some(listener) = listeners.debug {
        spawn_debug(&mut components, listener, config, &state, shutdown);
    }
    let webhooks = state.webhooks(config, &client, sidecar_roots, &registry).await?;
    let webhook_router = connection_close::layer(kermode_admission::router(webhooks), readiness.clone());
    let admission = admission_server(
        listeners.admission,
        serving_identity.certificate(),
        webhook_router,
        &state.connection_metrics,
        shutdown,
    )?;
    spawn(&mut components, "admission server", admission);
    spawn_server_for_proxies(
        &mut components,
        listeners.proxies,
        serving_identity.certificate(),
        &client,
        &state,
        &registry,
        shutdown,
    );
    spawn(
        &mut components,
        "CA and certificate of the servers",
        run_serving_identity(serving_identity, &state, &registry, shutdown),
    );
    let engine = state.into_engine().run(event_receiver, watches_synced);
    spawn(&mut components, "engine", run_until_shutdown(shutdown, engine));
    servers_ready.mark_ready();
    Ok(components)
}

/// Checks that the objects that this process watches can be listed. Waits for the API server.
async fn check_access(config: &Config, client: &Client) -> anyhow::Result<()> {
    let namespace = config.system_namespace();
    let has_virtual_ips = config.virtual_ip_range().is_some();
    api_server::retry(async || Ok(preflight::check(client, namespace, has_virtual_ips).await?)).await
}

/// Reads or creates the CA of the servers, and issues their certificate.
async fn load_serving_identity(config: &Config, client: &Client) -> anyhow::Result<ServingIdentity> {
    let namespace = &config.store.kubernetes.system_namespace;
    let clock_tolerance = config.general.clock_tolerance;
    api_server::retry(async || {
        ServingIdentity::load(client, namespace, config.serving_names(), clock_tolerance).await
    })
    .await
}

/// Runs the CA and the certificate of the servers until shutdown, and registers their metrics.
fn run_serving_identity(
    serving_identity: ServingIdentity,
    state: &SharedState,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let metrics = serving::Metrics::default();
    metrics.register(&mut registry.lock());
    let reports = RotationReports::new(
        metrics,
        state.event_recorder.clone(),
        state.authorities.expiries().clone(),
    );
    let shutdown = shutdown.clone();
    async move {
        serving_identity.run(reports, shutdown).await;
        Ok(())
    }
}

/// Returns the roots that sidecars verify the control plane with: those of the file in the settings of the injector, or
/// those of the control plane's own CA. Spawns the component that follows the file.
async fn sidecar_roots(
    components: &mut Components,
    config: &Config,
    serving_identity: &ServingIdentity,
    shutdown: &Shutdown,
) -> anyhow::Result<RootsReceiver> {
    let path = &config.injector().ca_cert_file;
    if path.is_empty() {
        return Ok(serving_identity.roots());
    }
    let file = RootsFile::read(path.into())
        .await
        .context("runtime.kubernetes.injector.caCertFile")?;
    let roots = file.roots();
    spawn(
        components,
        "file with the roots for sidecars",
        run_until_shutdown(shutdown, file.follow()),
    );
    Ok(roots)
}

/// Spawns the watches that feed the engine.
fn spawn_engine_watches(
    components: &mut Components,
    config: &Config,
    client: &Client,
    watch_events: &mpsc::Sender<WatchEvent>,
    shutdown: &Shutdown,
) {
    let settings = watches::Settings {
        system_namespace: config.system_namespace(),
        virtual_ip_range: config.virtual_ip_range(),
    };
    for watch in watches::all(client, &settings, watch_events) {
        spawn(
            components,
            "watch of the engine",
            run_until_shutdown(shutdown, watch),
        );
    }
}

/// Spawns the components that watch or write objects on every replica, whether or not the replica holds the Lease.
fn spawn_controllers(
    components: &mut Components,
    config: &Config,
    client: &Client,
    state: &SharedState,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    spawn_leader_election(components, config, client, state, registry, shutdown);
    let replica_watch = state.track_replicas(config, client.clone(), registry);
    spawn(
        components,
        "watch of replicas",
        run_until_shutdown(shutdown, replica_watch),
    );
    let statuses = state.statuses.clone();
    let dataplane_watch = state
        .writer
        .clone()
        .watch(move |key| statuses.on_dataplane_deleted(key));
    spawn(
        components,
        "watch of Dataplanes",
        run_until_shutdown(shutdown, dataplane_watch),
    );
    let status_writer = state.statuses.clone().run(state.writer.metrics().clone());
    spawn(
        components,
        "writer of proxy statuses",
        run_until_shutdown(shutdown, status_writer),
    );
    // Rotation needs no leader: only one replica can start a rotation, because only one replica can create the Secret
    // of the new CA.
    let ca_rotation = state.rotate_authorities(registry);
    spawn(
        components,
        "rotation of CAs",
        run_until_shutdown(shutdown, ca_rotation),
    );
}

/// Spawns the writers of ConfigMaps and NetworkAttachmentDefinitions, which are active only while this replica holds
/// the Lease.
fn spawn_object_writers(
    components: &mut Components,
    config: &Config,
    client: &Client,
    state: &SharedState,
    sidecar_roots: RootsReceiver,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    let roots_publisher = state.roots_publisher(client.clone(), sidecar_roots, registry);
    spawn(
        components,
        "publication of the control plane's roots",
        run_until_shutdown(shutdown, roots_publisher.run()),
    );
    if let Some(range) = config.virtual_ip_range() {
        let writer = state.virtual_ip_writer(client.clone(), config.system_namespace(), range, registry);
        spawn(
            components,
            "allocation of virtual IPs",
            run_until_shutdown(shutdown, writer.run()),
        );
    }
    if config.injector().names_cni_network() {
        let publisher = state.network_attachment_publisher(client.clone(), registry);
        spawn(
            components,
            "publication of the CNI plugin's network",
            run_until_shutdown(shutdown, publisher.run()),
        );
    }
}

/// Spawns the server of health, readiness and metrics.
fn spawn_diagnostics(
    components: &mut Components,
    listener: TcpListener,
    readiness: &Readiness,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    let router = diagnostics::router(readiness.clone(), registry.clone());
    let server = diagnostics::serve(listener, router, shutdown.clone());
    spawn(components, "diagnostics server", async { Ok(server.await?) });
}

/// Spawns the server of `/debug` and the page.
fn spawn_debug(
    components: &mut Components,
    listener: TcpListener,
    config: &Config,
    state: &SharedState,
    shutdown: &Shutdown,
) {
    let debug_state = DebugState {
        config: Arc::new(config.clone()),
        statuses: state.statuses.clone(),
        removals: state.removals.clone(),
        store: state.store.clone(),
    };
    let page_sources = kermode_page::Sources {
        replica: config.instance_name().into(),
        view: Arc::new(state.index.clone()),
        proxies: Arc::new(state.statuses.clone()),
        decisions: state.recent_decisions.clone(),
        expiries: state.authorities.expiries().clone(),
    };
    let router = debug::router(debug_state).merge(kermode_page::router(page_sources));
    let server = diagnostics::serve(listener, guard::layer(router), shutdown.clone());
    spawn(components, "server of /debug", async { Ok(server.await?) });
}

/// Starts the server of the webhooks on its own thread, so that thousands of proxies that connect at once do not delay
/// admissions.
fn admission_server(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    router: Router,
    metrics: &ConnectionMetrics,
    shutdown: &Shutdown,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let listener = listener.into_std()?;
    let limit = metrics.limit("webhooks", MAX_ADMISSION_CONNECTIONS);
    let shutdown = shutdown.clone();
    run_on_own_thread("admission", move || async move {
        let listener = TcpListener::from_std(listener)?;
        Ok(tls::serve(listener, certificate, router, limit, shutdown).await?)
    })
}

/// Spawns the server for proxies and the rebalancing of its streams.
fn spawn_server_for_proxies(
    components: &mut Components,
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    client: &Client,
    state: &SharedState,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    let server_for_proxies = state.server_for_proxies(client, registry, shutdown);
    let rebalancing = rebalancing::run(
        server_for_proxies.ads(),
        state.index.clone(),
        state.replicas.subscribe(),
    );
    spawn(
        components,
        "rebalancing of proxies",
        run_until_shutdown(shutdown, rebalancing),
    );
    let server = tls::serve(
        listener,
        certificate,
        server_for_proxies,
        state.connection_metrics.limit("proxies", MAX_PROXY_CONNECTIONS),
        shutdown.clone(),
    );
    spawn(components, "server for proxies", async { Ok(server.await?) });
}

/// Spawns the leader election.
fn spawn_leader_election(
    components: &mut Components,
    config: &Config,
    client: &Client,
    state: &SharedState,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    let namespace = &config.store.kubernetes.system_namespace;
    // The random number distinguishes replicas with the same name, such as a container and its restarted successor.
    let identity = format!("{}_{:016x}", config.instance_name(), fastrand::u64(..));
    let candidate = Candidate::new(client.clone(), namespace, "kuma-cp-leader", identity);
    candidate.register(&mut registry.lock());
    let is_leader_sender = state.is_leader_sender.clone();
    let shutdown_started = shutdown.clone().wait();
    spawn(components, "leader election", async {
        candidate.run(is_leader_sender, shutdown_started).await;
        Ok(())
    });
}

/// Spawns the components that are active only while this replica holds the Lease.
fn spawn_leader_components(
    components: &mut Components,
    config: &Config,
    client: &Client,
    state: &SharedState,
    roots: RootsReceiver,
    shutdown: &Shutdown,
) {
    let namespace = &config.store.kubernetes.system_namespace;
    let writer = state.writer.clone().run(state.is_leader.clone());
    spawn(
        components,
        "writer of Dataplanes",
        run_until_shutdown(shutdown, writer),
    );
    let registrations = registration::maintain_ca_bundles(client.clone(), roots, state.is_leader.clone());
    spawn(
        components,
        "update of webhook registrations",
        run_until_shutdown(shutdown, registrations),
    );
    let defaults = Defaults {
        client: client.clone(),
        system_namespace: namespace.clone(),
        skip_mesh_creation: config.defaults.skip_mesh_creation,
        is_leader: state.is_leader.clone(),
    };
    spawn(
        components,
        "creation of default objects",
        run_until_shutdown(shutdown, defaults.run()),
    );
    let mesh_statuses = MeshStatuses {
        client: client.clone(),
        index: state.index.clone(),
        changed: state.meshes_changed.clone(),
        is_leader: state.is_leader.clone(),
    };
    spawn(
        components,
        "writer of Mesh statuses",
        run_until_shutdown(shutdown, mesh_statuses.run()),
    );
    let permission_statuses = PermissionStatuses {
        client: client.clone(),
        namespace: namespace.clone(),
        index: state.index.clone(),
        changes: state.service_changes.clone(),
        is_leader: state.is_leader.clone(),
    };
    spawn(
        components,
        "writer of statuses of MeshTrafficPermissions",
        run_until_shutdown(shutdown, permission_statuses.run()),
    );
}
