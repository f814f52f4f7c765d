//! `kuma-dp run`: connects the components of `kermode-agent` and runs until Envoy ends and is not restarted.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use kermode_agent::certificate::Renewal;
use kermode_agent::closed_ports::closed_ports;
use kermode_agent::completion::CompletionWatch;
use kermode_agent::control_plane::ControlPlane;
use kermode_agent::dns::{self, ControlPlaneNames, NameServers};
use kermode_agent::envoy::{self, Admin, Envoy};
use kermode_agent::metrics::{self, MetricsService, SidecarMetrics};
use kermode_agent::probes::ProbeService;
use kermode_agent::relay::Relay;
use kermode_agent::removal::RemovalWatch;
use kermode_agent::resolver::SystemDns;
use kermode_agent::sds::SecretService;
use kermode_agent::socket::AgentSocket;
use kermode_agent::supervisor::{self, DrainSources};
use kermode_agent::termination::{TerminationService, termination};
use kermode_agent::token::TokenFile;
use kermode_protocol::ads::Versions;
use kermode_protocol::bootstrap::BootstrapConfig;
use kermode_protocol::client::Client;
use kermode_protocol::rpc::Rpc;
use kermode_runtime::shutdown::Signals;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::config::{Config, DnsConfig};

/// Running components: the server for Envoy, the renewal of the certificate, and DNS. They are dropped after Envoy has
/// ended, because the drain needs all of them.
type Components = JoinSet<anyhow::Result<()>>;

/// Metrics of the agent.
struct RegisteredMetrics {
    sidecar: SidecarMetrics,
    dns: dns::Metrics,
    /// Has the metrics of the sidecar and, with DNS, those of DNS.
    registry: Arc<Registry>,
}

/// Runs Envoy and the components. Returns Envoy's exit code, or the error of a component.
pub(crate) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    raise_open_file_limit();
    let signals = Signals::listen().context("signal handlers cannot be installed")?;
    let (socket, listener) = AgentSocket::bind(&config.socket_dir)?;
    let envoy_arguments = envoy::arguments(&config.envoy, &envoy_bootstrap(&config, &socket)?);
    let start_envoy = || Envoy::start(&config.envoy.binary, envoy_arguments.clone());
    let envoy = start_envoy()?;
    let (termination_service, pod_termination) = termination();
    let (mut components, removal_watch, application_end) =
        start_components(&config, listener, termination_service).await?;
    let admin = Admin::new(config.envoy.admin_port);
    let sources = DrainSources {
        signals,
        pod_termination,
        application_end,
        removal_watch,
    };
    tokio::select! {
        code = supervisor::supervise(envoy, start_envoy, admin, sources, config.shutdown) => {
            code.map(ExitCode::from)
        }
        ended = components.join_next() => match ended {
            Some(result) => bail!("a component ended before Envoy: {:?}", result?),
            None => bail!("no component was started"),
        },
    }
}

/// Raises the soft limit of open files to the hard limit, for this process and Envoy.
///
/// Envoy crashes when it cannot open a socket. containerd 2 sets a soft limit of 1024, which programs are expected to
/// raise (<https://github.com/containerd/containerd/pull/8924>).
fn raise_open_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the soft limit of open files cannot be raised to the hard limit; Envoy crashes when it reaches the soft limit");
    }
}

fn envoy_bootstrap(config: &Config, socket: &AgentSocket) -> anyhow::Result<Value> {
    Ok(kermode_protocol::bootstrap::bootstrap(&BootstrapConfig {
        mesh: config.mesh.clone(),
        dataplane: config.proxy.clone(),
        cluster: config.proxy.name.to_string(),
        admin_port: config.envoy.admin_port.get(),
        agent_socket: socket
            .path()
            .to_str()
            .context("the path of the socket for Envoy is not UTF-8; set KUMA_DATAPLANE_RUNTIME_SOCKET_DIR")?
            .to_owned(),
        // Envoy adds its own version to the node of each stream.
        versions: Versions {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            envoy: String::new(),
        },
        features: Vec::new(),
        metadata: [].into(),
    }))
}

/// Starts the components. Returns the watch of the removal of this sidecar's endpoint, which the supervisor starts with
/// the drain, and a receiver that becomes true when the application has ended.
async fn start_components(
    config: &Config,
    listener: UnixListener,
    termination_service: TerminationService,
) -> anyhow::Result<(Components, RemovalWatch, watch::Receiver<bool>)> {
    let mut components = Components::new();
    let system_dns = SystemDns::read(&config.resolv_conf);
    let control_plane = ControlPlane::new(&config.control_plane, system_dns.resolver()?)?;
    let client = Client::new(control_plane.channel());
    let token = TokenFile::new(config.control_plane.token_path.clone());
    // The renewal sends secrets to the SDS service, which notifies the renewal when Envoy waits for them.
    let (secrets_sender, secrets_receiver) = watch::channel(None);
    let secrets_wanted = Arc::new(Notify::new());
    let secret_service = SecretService::new(&config.mesh, secrets_receiver, secrets_wanted.clone());
    let metrics = RegisteredMetrics::new(config.dns.is_some());
    let metrics_service = MetricsService::new(Admin::new(config.envoy.admin_port), metrics.registry.clone());
    let relay = Relay::new(client.clone(), token.clone(), metrics.sidecar.clone());
    let removal_watch = RemovalWatch {
        control_plane,
        client: client.clone(),
        token: token.clone(),
    };
    let completion_watch = CompletionWatch {
        client: client.clone(),
        token: token.clone(),
    };
    let application_end = start_completion_watch(&mut components, config, completion_watch);
    let (access_log_service, closed_port_reporter) = closed_ports(client.clone(), token.clone());
    let router = Server::builder()
        .add_service(Rpc(relay))
        .add_service(Rpc(secret_service))
        .add_service(Rpc(access_log_service))
        .add_service(Rpc(ProbeService::default()))
        .add_service(Rpc(metrics_service))
        .add_service(Rpc(termination_service));
    components.spawn(async {
        router
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .context("the server on the unix socket failed")
    });
    components.spawn(async {
        closed_port_reporter.run().await;
        bail!("the reporter of closed ports ended")
    });
    components.spawn(
        Renewal {
            mesh: config.mesh.clone(),
            proxy: config.proxy.clone(),
            client: client.clone(),
            token: token.clone(),
            secrets: secrets_sender,
            secrets_wanted,
            metrics: metrics.sidecar.clone(),
        }
        .run(),
    );
    if let Some(dns_config) = &config.dns {
        start_dns(
            &mut components,
            dns_config,
            &system_dns,
            ControlPlaneNames { client, token },
            metrics,
        )
        .await?;
    }
    Ok((components, removal_watch, application_end))
}

impl RegisteredMetrics {
    /// Creates the metrics of the sidecar and of its DNS, and registers them. Without `has_dns`, the metrics of DNS are not
    /// registered.
    fn new(has_dns: bool) -> Self {
        let mut registry = Registry::with_prefix("kuma_dp");
        let sidecar = SidecarMetrics::default();
        sidecar.register(&mut registry);
        let dns = dns::Metrics::default();
        if has_dns {
            dns.register(&mut registry);
        }
        Self {
            sidecar,
            dns,
            registry: Arc::new(registry),
        }
    }
}

/// Starts the wait of a classic sidecar for the end of its application. Returns a receiver that then becomes true. The
/// kubelet ends a native sidecar, so its receiver stays false.
fn start_completion_watch(
    components: &mut Components,
    config: &Config,
    completion_watch: CompletionWatch,
) -> watch::Receiver<bool> {
    let (sender, application_end) = watch::channel(false);
    if !config.shutdown.is_native_sidecar {
        components.spawn(async move {
            completion_watch.run().await;
            sender.send_replace(true);
            // The supervisor ends the agent, and with it this component.
            std::future::pending().await
        });
    }
    application_end
}

/// Starts the DNS server, and the server of all metrics on 127.0.0.1.
async fn start_dns(
    components: &mut Components,
    config: &DnsConfig,
    system_dns: &SystemDns,
    names: ControlPlaneNames,
    metrics: RegisteredMetrics,
) -> anyhow::Result<()> {
    let timeout = system_dns.server_timeout().min(dns::MAX_NAME_SERVER_TIMEOUT);
    let dns_config = dns::Config {
        port: config.port,
        name_servers: NameServers::new(system_dns.servers(), timeout, metrics.dns.clone()),
        is_cache_enabled: config.is_cache_enabled,
        metrics: metrics.dns,
    };
    components.spawn(dns::Server::bind(dns_config, names).await?.run());
    let metrics_port = config.metrics_port;
    components.spawn(async move {
        metrics::serve(metrics_port, metrics.registry).await;
        bail!("the server of metrics ended")
    });
    Ok(())
}
