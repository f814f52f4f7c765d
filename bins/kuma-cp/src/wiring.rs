//! Puts the parts together and runs them until a signal: components, each a future that ends at shutdown.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use kermode_k8s::controller::lease::Candidate;
use kermode_k8s::controller::recorder::Events;
use kermode_k8s::controller::writer::{self, Writer};
use kermode_k8s::controller::{describe, preflight, registration};
use kermode_k8s::convert::ConvertSettings;
use kermode_k8s::index::Index;
use kermode_runtime::readiness::Readiness;
use kermode_runtime::shutdown::{self, Shutdown, Signals};
use kermode_runtime::{diagnostics, tls};
use kermode_xds::snapshot::Publisher;
use kermode_xds::store::Store;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::authentication::Authentication;
use crate::authorities::Authorities;
use crate::config::{Bind, Config};
use crate::defaults::Defaults;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::mesh::SharedIndex;
use crate::serving::Serving;
use crate::webhook::Webhooks;
use crate::{identity, proxies, watches, webhook};

/// How many messages of the watches may wait for the engine.
const WAITING: usize = 4096;
/// Connections of the API server; it keeps few and uses them for many requests.
const MAX_ADMISSION_CONNECTIONS: usize = 512;
/// Connections of proxies, one each.
const MAX_PROXY_CONNECTIONS: usize = 20_000;

/// A part of the control plane; its end before shutdown ends the process.
type Components = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Runs the control plane.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signal handlers cannot be installed")?;
    let (trigger, shutdown) = shutdown::channel();
    let mut components = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopped while starting");
            return Ok(());
        }
        started = start(&config, &shutdown) => started?,
    };
    let ended = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "shutting down; a second signal ends at once");
            Ok(())
        }
        Some(ended) = components.join_next() => describe_end(ended),
    };
    trigger.shut_down();
    tokio::select! {
        _ = signals.next() => tracing::warn!("ended by a second signal"),
        () = async { while components.join_next().await.is_some() {} } => {}
    }
    ended
}

fn describe_end(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Result<()> {
    match ended {
        Ok((part, Err(error))) => Err(error.context(format!("{part} failed"))),
        Ok((part, Ok(()))) => anyhow::bail!("{part} ended by itself"),
        Err(error) => Err(error).context("a component did not survive"),
    }
}

/// Where the servers listen; bound before anything else, so that a taken port stops the start at once.
struct Listeners {
    admission: TcpListener,
    proxies: TcpListener,
    diagnostics: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        let admission = &config.runtime.kubernetes.admission_server;
        let bind = |server, address, port, setting| Bind {
            server,
            address: SocketAddr::new(address, port),
            setting,
        };
        Ok(Self {
            admission: bind(
                "the admission server",
                admission.address,
                admission.port,
                "runtime.kubernetes.admissionServer.port (KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT)",
            )
            .listen()
            .await?,
            proxies: bind(
                "the server for proxies",
                config.dp_server.address,
                config.dp_server.port,
                "dpServer.port (KUMA_DP_SERVER_PORT)",
            )
            .listen()
            .await?,
            diagnostics: bind(
                "the diagnostics server",
                config.diagnostics.address,
                config.diagnostics.server_port,
                "diagnostics.serverPort (KUMA_DIAGNOSTICS_SERVER_PORT)",
            )
            .listen()
            .await?,
        })
    }
}

async fn start(config: &Config, shutdown: &Shutdown) -> anyhow::Result<Components> {
    let listeners = Listeners::bind(config).await?;
    let readiness = Readiness::default();
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
    let serves = readiness.expect("servers");

    let client = connect().await?;
    let namespace = config.store.kubernetes.system_namespace.clone();
    preflight::check(&client, &namespace).await?;
    let serving = Serving::load(&client, &namespace, config.serving_names()).await?;
    let ca_pem = serving.ca_pem();

    let plane = Plane::new(config, client.clone(), &registry);
    let (sink, messages) = mpsc::channel(WAITING);
    for watch in watches::all(&client, &namespace, &sink) {
        spawn(&mut components, "watch", until(shutdown, watch));
    }
    let dataplanes = watches::dataplanes(client.clone(), plane.writer.clone());
    spawn(
        &mut components,
        "watch of Dataplanes",
        until(shutdown, dataplanes),
    );
    spawn_leader(&mut components, config, &client, &plane, &ca_pem, shutdown);

    let webhooks = plane.webhooks(config, &client, ca_pem, &registry).await?;
    let certificate = serving.certificate();
    let admission = tls::serve(
        listeners.admission,
        certificate.clone(),
        webhook::router(webhooks),
        MAX_ADMISSION_CONNECTIONS,
        shutdown.clone(),
    );
    spawn(&mut components, "admission server", async {
        Ok(admission.await?)
    });
    let proxies = tls::serve(
        listeners.proxies,
        certificate,
        plane.proxy_router(&client, &namespace, &registry, shutdown),
        MAX_PROXY_CONNECTIONS,
        shutdown.clone(),
    );
    spawn(&mut components, "server for proxies", async {
        Ok(proxies.await?)
    });
    spawn(
        &mut components,
        "serving certificate",
        serving.run(shutdown.clone()),
    );
    let engine = plane.engine();
    spawn(
        &mut components,
        "engine",
        until(shutdown, engine.run(messages, synced)),
    );
    serves.ready();
    Ok(components)
}

async fn connect() -> anyhow::Result<Client> {
    let config = kube::Config::infer().await.context(
        "no way to the API server: kuma-cp needs to run in a cluster or to be given a kubeconfig (KUBECONFIG)",
    )?;
    let url = config.cluster_url.clone();
    let client = Client::try_from(config)?;
    let version = client.apiserver_version().await;
    let version = version.map_err(|error| anyhow::anyhow!(describe(&format!("API server {url}"), &error)))?;
    tracing::info!(%url, version = version.git_version, "connected to the API server");
    Ok(client)
}

/// The parts that components share.
struct Plane {
    index: SharedIndex,
    directory: Directory,
    store: Arc<Store>,
    writer: Writer,
    events: Events,
    publisher: Publisher,
    leading: watch::Receiver<bool>,
    leads: watch::Sender<bool>,
}

impl Plane {
    fn new(config: &Config, client: Client, registry: &Arc<Mutex<Registry>>) -> Self {
        let zone = Some(config.multizone.zone.name.as_str()).filter(|name| !name.is_empty());
        let index = SharedIndex::new(Index::new(ConvertSettings {
            zone: zone.map(Into::into),
        }));
        let events = Events::start(client.clone(), Some(config.instance_name().to_owned()));
        let metrics = writer::Metrics::default();
        let store = Arc::new(Store::default());
        let publisher = Publisher::new(store.clone());
        {
            let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.register(&mut registry);
            publisher.register(&mut registry);
        }
        let writer = Writer::new(client, index.clone(), events.clone(), metrics);
        let (leads, leading) = watch::channel(false);
        Self {
            index,
            directory: Directory::default(),
            store,
            writer,
            events,
            publisher,
            leading,
            leads,
        }
    }

    fn engine(self) -> Engine {
        Engine {
            index: self.index,
            directory: self.directory,
            publisher: self.publisher,
            writer: self.writer,
            events: self.events,
            leading: self.leading,
        }
    }

    async fn webhooks(
        &self,
        config: &Config,
        client: &Client,
        control_plane_ca_pem: String,
        registry: &Arc<Mutex<Registry>>,
    ) -> anyhow::Result<Webhooks> {
        let mut settings = config.runtime.kubernetes.injector.clone();
        settings.native_sidecars_supported = supports_native_sidecars(client).await?;
        let metrics = webhook::Metrics::default();
        metrics.register(&mut registry.lock().unwrap_or_else(PoisonError::into_inner));
        let ca_file = &settings.ca_cert_file;
        let control_plane_ca_pem = if ca_file.is_empty() {
            control_plane_ca_pem
        } else {
            let text = tokio::fs::read_to_string(ca_file).await;
            text.with_context(|| format!("runtime.kubernetes.injector.caCertFile: {ca_file} cannot be read"))?
        };
        Ok(Webhooks {
            settings,
            directory: self.directory.clone(),
            client: client.clone(),
            control_plane_url: config.control_plane_url(),
            control_plane_ca_pem,
            system_namespace: config.store.kubernetes.system_namespace.clone(),
            metrics,
        })
    }

    fn proxy_router(
        &self,
        client: &Client,
        namespace: &str,
        registry: &Arc<Mutex<Registry>>,
        shutdown: &Shutdown,
    ) -> axum::Router {
        let authentication = Authentication::new(client.clone(), self.index.clone());
        let metrics = identity::Metrics::default();
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.register(&mut registry);
        let authorities = Authorities::new(client.clone(), namespace.to_owned());
        let identity =
            identity::Identity::new(authentication.clone(), authorities, self.index.clone(), metrics);
        proxies::router(
            self.store.clone(),
            authentication,
            identity,
            &mut registry,
            shutdown,
        )
    }
}

/// What only the leader does.
fn spawn_leader(
    components: &mut Components,
    config: &Config,
    client: &Client,
    plane: &Plane,
    ca_pem: &str,
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
    // Every replica may do this: they share the CA, so they write the same.
    let registrations = registration::keep(client.clone(), ca_pem.as_bytes().to_vec());
    spawn(
        components,
        "webhook registrations",
        until(shutdown, registrations),
    );
}

/// Restartable init containers are stable in 1.33 and on by default since 1.29.
async fn supports_native_sidecars(client: &Client) -> anyhow::Result<bool> {
    let version = client.apiserver_version().await?;
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or_default();
    Ok((number(&version.major), number(&version.minor)) >= (1, 29))
}

fn spawn(
    components: &mut Components,
    part: &'static str,
    component: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    components.spawn(async move { (part, component.await) });
}

/// Runs a part that knows nothing of shutdown until then; its own end before that is an error of ours.
fn until(
    shutdown: &Shutdown,
    part: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
    let finished = shutdown.clone().wait();
    async move {
        tokio::select! {
            () = part => anyhow::bail!("it ended"),
            () = finished => Ok(()),
        }
    }
}
