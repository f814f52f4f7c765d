//! `kuma-dp run`: wires the components and lives until Envoy has ended for good.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use kermode_protocol::ads::Versions;
use kermode_protocol::bootstrap::BootstrapConfig;
use kermode_protocol::rpc::Rpc;
use kermode_runtime::shutdown::Signals;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::config::Config;
use crate::control_plane::ControlPlane;
use crate::departure::Departure;
use crate::dns::forward::Upstreams;
use crate::dns::{self, NoZone};
use crate::envoy::{admin::Admin, arguments::arguments, process::Envoy};
use crate::identity::Renewal;
use crate::relay::Relay;
use crate::resolver::SystemDns;
use crate::sds::SecretService;
use crate::shutdown::Shutdown;
use crate::socket::AgentSocket;
use crate::supervisor;
use crate::token::TokenFile;
use crate::upstream::Upstream;

/// Components serve until Envoy has ended for good and are dropped then: the drain needs all of them.
type Components = JoinSet<anyhow::Result<()>>;

/// Runs Envoy and everything it needs; ends with Envoy's exit code, or with the error of a component.
pub(crate) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    raise_open_files();
    let signals = Signals::listen().context("listening for signals")?;
    let (socket, listener) = AgentSocket::bind(&config.socket_dir)?;
    let arguments = arguments(&config.envoy, &bootstrap(&config, &socket)?);
    let start_envoy = || Envoy::start(&config.envoy.binary, arguments.clone());
    let envoy = start_envoy()?;
    let (mut components, departure) = start(&config, listener).await?;
    let admin = Admin::new(config.envoy.admin_port);
    let shutdown = || Shutdown::new(config.envoy.drain_time, config.native_sidecar);
    tokio::select! {
        code = supervisor::supervise(envoy, start_envoy, admin, signals, shutdown, departure) => code.map(ExitCode::from),
        ended = components.join_next() => match ended {
            Some(result) => bail!("a component ended: {:?}", result?),
            None => bail!("there are no components"),
        },
    }
}

/// Lets this process and Envoy after it open as many files as they may.
///
/// Envoy crashes when it cannot open a socket, and containerd 2 hands out a soft limit of 1024 that programs are
/// expected to raise (<https://github.com/containerd/containerd/pull/8924>).
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn bootstrap(config: &Config, socket: &AgentSocket) -> anyhow::Result<Value> {
    Ok(kermode_protocol::bootstrap::bootstrap(&BootstrapConfig {
        mesh: config.mesh.clone(),
        dataplane: config.proxy.clone(),
        cluster: config.proxy.name.to_string(),
        admin_port: config.envoy.admin_port.get(),
        agent_socket: socket
            .path()
            .to_str()
            .context("the socket's path is not UTF-8")?
            .to_owned(),
        // Envoy tells its own version in every first request.
        versions: Versions {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            envoy: String::new(),
        },
        features: Vec::new(),
        metadata: [].into(),
    }))
}

async fn start(config: &Config, listener: UnixListener) -> anyhow::Result<(Components, Departure)> {
    let mut components = Components::new();
    let system_dns = SystemDns::read(&config.resolv_conf);
    let control_plane = ControlPlane::new(&config.control_plane, system_dns.resolver()?)?;
    let channel = control_plane.channel();
    let token = TokenFile::new(config.control_plane.token_path.clone());
    let (sender, identity) = watch::channel(None);
    let wanted = Arc::new(Notify::new());
    let secrets = SecretService::new(&config.mesh, identity, wanted.clone());
    let relay = Relay::new(Upstream::new(channel.clone(), token.clone()));
    let departure = Departure {
        control_plane,
        any_replica: channel.clone(),
        token: token.clone(),
    };
    components.spawn(serve_envoy(listener, relay, secrets));
    components.spawn(
        Renewal {
            mesh: config.mesh.clone(),
            proxy: config.proxy.clone(),
            channel,
            token,
            identity: sender,
            wanted,
        }
        .run(),
    );
    if let Some(port) = config.dns_port {
        let upstreams = Upstreams::new(system_dns.servers(), dns::PATIENCE);
        components.spawn(dns::Server::bind(port, NoZone, upstreams).await?.run());
    }
    Ok((components, departure))
}

/// Serves Envoy on the unix socket.
async fn serve_envoy(listener: UnixListener, relay: Relay, secrets: SecretService) -> anyhow::Result<()> {
    Server::builder()
        .add_service(Rpc(relay))
        .add_service(Rpc(secrets))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("serving Envoy")
}
