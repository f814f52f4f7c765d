//! Creates the components, connects them and runs them until a signal.

mod api_server;
mod components;
mod listeners;
mod plane;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use kermode_admission::connection_close;
use kermode_authorities::serving::ServingIdentity;
use kermode_engine::watches;
use kermode_k8s::controller::defaults::Defaults;
use kermode_k8s::controller::lease::Candidate;
use kermode_k8s::controller::{preflight, registration};
use kermode_replicas::rebalancing;
use kermode_runtime::diagnostics;
use kermode_runtime::readiness::Readiness;
use kermode_runtime::shutdown::{self, Shutdown, Signals};
use kermode_runtime::tls::{self, ServingCertificate};
use kermode_status::MeshStatuses;
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::components::{Components, describe_end, on_own_thread, spawn, until};
use self::listeners::Listeners;
use self::plane::Plane;
use crate::debug::{self, Debug};
use kermode_config::Config;

/// Capacity of the channel from the watches to the engine, in messages.
const WATCH_QUEUE: usize = 4096;
/// Limit of connections to the webhooks, of which one address may have a quarter. In a burst of new Pods the API server may
/// open a connection for each Pod.
const MAX_ADMISSION_CONNECTIONS: usize = 2048;
/// Limit of connections of proxies, which have one each. It is above the limit of streams, so that the proxies beyond that
/// limit can connect and get a gRPC status.
const MAX_PROXY_CONNECTIONS: usize = 22_000;

/// Time for which a replica that shuts down continues to serve: by its end, every node has removed the replica from the
/// Service. A Pod is denied when the API server cannot connect to the webhook.
const LINGER: Duration = Duration::from_secs(5);

/// Runs the control plane.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signal handlers cannot be installed")?;
    let (trigger, shutdown) = shutdown::channel();
    let readiness = Readiness::default();
    let mut components = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopped during the start");
            return Ok(());
        }
        started = start(&config, &readiness, &shutdown) => started?,
    };
    let ended = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "shutting down; a second signal ends the process at once");
            Ok(())
        }
        Some(ended) = components.join_next() => describe_end(ended),
    };
    let finish = async {
        if config.runs_in_pod() && ended.is_ok() {
            let _unready = readiness.expect("shutdown");
            tokio::time::sleep(LINGER).await;
        }
        trigger.shut_down();
        while components.join_next().await.is_some() {}
    };
    tokio::select! {
        _ = signals.next() => tracing::warn!("second signal: ending at once"),
        () = finish => {}
    }
    ended
}

async fn start(config: &Config, readiness: &Readiness, shutdown: &Shutdown) -> anyhow::Result<Components> {
    let listeners = Listeners::bind(config)?;
    let registry = Arc::new(Mutex::new(Registry::with_prefix("kuma_cp")));
    let mut components = Components::new();
    let serving = diagnostics::serve(
        listeners.diagnostics,
        diagnostics::router(readiness.clone(), registry.clone()),
        shutdown.clone(),
    );
    spawn(&mut components, "diagnostics server", async {
        Ok(serving.await?)
    });
    let synced = readiness.expect("watches");
    let servers_ready = readiness.expect("servers");

    let client = api_server::connect().await?;
    let namespace = config.store.kubernetes.system_namespace.clone();
    api_server::retry(async || Ok(preflight::check(&client, &namespace).await?)).await?;
    let serving =
        api_server::retry(async || ServingIdentity::load(&client, &namespace, config.serving_names()).await)
            .await?;
    let ca_pem = serving.ca_pem();

    let plane = Plane::new(config, client.clone(), &registry);
    let (sink, messages) = mpsc::channel(WATCH_QUEUE);
    for watch in watches::all(&client, &namespace, &sink) {
        spawn(&mut components, "watch", until(shutdown, watch));
    }
    spawn_controllers(
        &mut components,
        config,
        &client,
        &plane,
        &ca_pem,
        &registry,
        shutdown,
    );
    spawn_leader(&mut components, config, &client, &plane, shutdown);
    if let Some(listener) = listeners.debug {
        spawn_debug(&mut components, listener, config, &plane, shutdown);
    }
    let webhooks = plane.webhooks(config, &client, ca_pem, &registry).await?;
    let webhooks = connection_close::layer(kermode_admission::router(webhooks), readiness.clone());
    let admission = admission_server(listeners.admission, serving.certificate(), webhooks, shutdown)?;
    spawn(&mut components, "admission server", admission);
    let (listener, certificate) = (listeners.proxies, serving.certificate());
    spawn_proxy_server(
        &mut components,
        listener,
        certificate,
        &client,
        &plane,
        &registry,
        shutdown,
    );
    spawn(
        &mut components,
        "serving certificate",
        serving.run(shutdown.clone()),
    );
    let engine = plane.engine().run(messages, synced);
    spawn(&mut components, "engine", until(shutdown, engine));
    servers_ready.ready();
    Ok(components)
}

/// Spawns the controllers that work on every replica, whether or not it holds the Lease.
fn spawn_controllers(
    components: &mut Components,
    config: &Config,
    client: &Client,
    plane: &Plane,
    ca_pem: &str,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    let replicas = plane.track_replicas(config, client.clone());
    spawn(components, "watch of replicas", until(shutdown, replicas));
    let statuses = plane.statuses.clone();
    let dataplanes = plane
        .writer
        .clone()
        .watch(move |key| statuses.on_dataplane_deleted(key));
    spawn(components, "watch of Dataplanes", until(shutdown, dataplanes));
    let statuses = plane.statuses.clone().run(plane.writer.metrics().clone());
    spawn(components, "status of proxies", until(shutdown, statuses));
    // Several replicas cannot start the same rotation: it starts with a Secret, which only one of them can create.
    let authorities = plane.rotate_authorities(registry);
    spawn(components, "CAs of meshes", until(shutdown, authorities));
    // All replicas share the CA of the webhooks, so they write the same registrations.
    let registrations = registration::maintain_ca_bundles(client.clone(), ca_pem.as_bytes().to_vec());
    spawn(
        components,
        "webhook registrations",
        until(shutdown, registrations),
    );
}

/// Spawns the server of `/debug`.
fn spawn_debug(
    components: &mut Components,
    listener: TcpListener,
    config: &Config,
    plane: &Plane,
    shutdown: &Shutdown,
) {
    let debug = Debug {
        config: Arc::new(config.clone()),
        statuses: plane.statuses.clone(),
        removals: plane.removals.clone(),
        store: plane.store.clone(),
    };
    let serving = diagnostics::serve(listener, debug::router(debug), shutdown.clone());
    spawn(components, "server of /debug", async { Ok(serving.await?) });
}

/// Starts the server of the webhooks on its own thread, so that thousands of proxies that connect at once do not
/// delay an admission.
fn admission_server(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    router: Router,
    shutdown: &Shutdown,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let listener = listener.into_std()?;
    let shutdown = shutdown.clone();
    on_own_thread("admission", move || async move {
        let listener = TcpListener::from_std(listener)?;
        Ok(tls::serve(listener, certificate, router, MAX_ADMISSION_CONNECTIONS, shutdown).await?)
    })
}

/// Spawns the server for proxies and the rebalancing of its streams.
fn spawn_proxy_server(
    components: &mut Components,
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    client: &Client,
    plane: &Plane,
    registry: &Arc<Mutex<Registry>>,
    shutdown: &Shutdown,
) {
    let proxies = plane.proxies(client, registry, shutdown);
    let rebalancing = rebalancing::run(proxies.ads(), plane.index.clone(), plane.replicas.subscribe());
    spawn(components, "rebalancing of proxies", until(shutdown, rebalancing));
    let serving = tls::serve(
        listener,
        certificate,
        proxies,
        MAX_PROXY_CONNECTIONS,
        shutdown.clone(),
    );
    spawn(components, "server for proxies", async { Ok(serving.await?) });
}

/// Spawns the leader election and the components that work while this replica holds the Lease.
fn spawn_leader(
    components: &mut Components,
    config: &Config,
    client: &Client,
    plane: &Plane,
    shutdown: &Shutdown,
) {
    let namespace = &config.store.kubernetes.system_namespace;
    let identity = format!("{}_{:016x}", config.instance_name(), fastrand::u64(..));
    let candidate = Candidate::new(client.clone(), namespace, "kuma-cp-leader", identity);
    let leads = plane.leads.clone();
    let finished = shutdown.clone().wait();
    spawn(components, "leader election", async {
        candidate.run(leads, finished).await;
        Ok(())
    });
    let writer = plane.writer.clone().run(plane.leading.clone());
    spawn(components, "writer of Dataplanes", until(shutdown, writer));
    let defaults = Defaults {
        client: client.clone(),
        system_namespace: namespace.clone(),
        skip_mesh_creation: config.defaults.skip_mesh_creation,
        leading: plane.leading.clone(),
    };
    spawn(components, "default objects", until(shutdown, defaults.run()));
    let meshes = MeshStatuses {
        client: client.clone(),
        index: plane.index.clone(),
        changed: plane.meshes_changed.clone(),
        leading: plane.leading.clone(),
    };
    spawn(components, "status of Meshes", until(shutdown, meshes.run()));
}
