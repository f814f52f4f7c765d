//! Connections to the control plane: name resolution, TCP, TLS, HTTP/2.
//!
//! Calls to any replica share one lazy channel to the Service. The channel connects with the first call, and with the
//! first call after a lost connection, so the callers' backoff limits the connection attempts. A terminating sidecar
//! also asks every replica whether all its proxies have dropped the sidecar's endpoint, over one channel per replica.

mod trust;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use hickory_resolver::TokioResolver;
use http::Uri;
use hyper_util::rt::TokioIo;
use kermode_identity::TrustBundle;
use kermode_model::CONTROL_PLANE_CA_CONFIG_MAP;
use kermode_runtime::tcp;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use self::trust::Trust;

/// Timeout of a connection attempt, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings. A hanging control plane is detected within the sum of this time and [`KEEPALIVE_TIMEOUT`].
/// The interval is long because each of thousands of sidecars pings; the kernel detects a vanished peer sooner.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(5);
/// Timeout of one HTTP/2 ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Address, trusted roots and token for the connections to the control plane.
pub struct ControlPlaneConfig {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Roots that the server's certificate is verified with, until `ca_file` has roots.
    pub trust: TrustBundle,
    /// File with the roots that take the place of `trust`. The file may be missing, and may change at any time.
    pub ca_file: Option<PathBuf>,
    /// File with the token of the proxy.
    pub token_path: PathBuf,
}

/// Factory of channels to the control plane; cheap to clone.
#[derive(Clone)]
pub struct ControlPlane {
    endpoint: Endpoint,
    target: Arc<Target>,
    trust: Arc<Trust>,
    resolver: Arc<TokioResolver>,
}

// === impl ControlPlaneConfig ===

impl fmt::Debug for ControlPlaneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            port,
            trust,
            ca_file,
            token_path,
        } = self;
        f.debug_struct("ControlPlaneConfig")
            .field("host", host)
            .field("port", port)
            .field("roots", &trust.roots().len())
            .field("ca_file", ca_file)
            .field("token_path", token_path)
            .finish()
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Returns a factory of channels. Opens no connection.
    ///
    /// # Errors
    /// Fails when the address or a root certificate is malformed.
    pub fn new(config: &ControlPlaneConfig, resolver: Arc<TokioResolver>) -> anyhow::Result<Self> {
        let host = &config.host;
        let authority = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let endpoint = Endpoint::from_shared(format!("https://{authority}:{}", config.port))
            .context("KUMA_CONTROL_PLANE_URL: malformed address")?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self {
            endpoint,
            target: Arc::new(Target {
                host: host.clone(),
                port: config.port,
                server_name: ServerName::try_from(host.clone())
                    .context("KUMA_CONTROL_PLANE_URL: malformed host")?,
            }),
            trust: Arc::new(Trust::new(&config.trust, config.ca_file.clone())?),
            resolver,
        })
    }

    /// Returns a channel to any replica, not connected yet.
    pub fn channel(&self) -> Channel {
        self.lazy_channel(self.target.clone())
    }

    /// Returns a channel to the replica at `address`, not connected yet. The server has to present the control plane's
    /// certificate.
    pub fn channel_to_replica(&self, address: SocketAddr) -> Channel {
        self.lazy_channel(Arc::new(Target {
            host: address.ip().to_string(),
            port: address.port(),
            server_name: self.target.server_name.clone(),
        }))
    }

    fn lazy_channel(&self, target: Arc<Target>) -> Channel {
        self.endpoint.connect_with_connector_lazy(Connector {
            target,
            trust: self.trust.clone(),
            resolver: self.resolver.clone(),
        })
    }
}

/// Opens the connections of a channel.
#[derive(Clone)]
struct Connector {
    target: Arc<Target>,
    trust: Arc<Trust>,
    resolver: Arc<TokioResolver>,
}

/// Server that the connections of a channel lead to.
struct Target {
    /// Host name or IP address to connect to.
    host: String,
    port: u16,
    /// Name that the server's certificate has to carry.
    server_name: ServerName<'static>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self {
            target,
            trust,
            resolver,
        } = self.clone();
        Box::pin(async move {
            let stream = connect_tcp(&target, &resolver).await?;
            tcp::set_socket_options(&stream)?;
            let tls = trust.connector().await;
            let connected = tls.connect(target.server_name.clone(), stream).await;
            connected
                .map(TokioIo::new)
                .map_err(|error| explain_unknown_issuer(error, &trust))
        })
    }
}

/// Adds the source of the roots to the error of a connection whose server certificate no root has signed.
fn explain_unknown_issuer(error: io::Error, trust: &Trust) -> io::Error {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(
            rustls::CertificateError::UnknownIssuer | rustls::CertificateError::BadSignature,
        )) => io::Error::other(format!(
            "{error}: none of the CA certificates in {} has issued the certificate of the control plane; the kubelet \
             updates the file a minute or two after the control plane has written the ConfigMap \
             {CONTROL_PLANE_CA_CONFIG_MAP} of this namespace; restart a Pod that has no such file",
            trust.source()
        )),
        _ => error,
    }
}

/// Connects to the first address that accepts the connection.
async fn connect_tcp(target: &Target, resolver: &TokioResolver) -> io::Result<TcpStream> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", target.host));
    for address in resolve(&target.host, resolver).await? {
        match TcpStream::connect(SocketAddr::new(address, target.port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                last_error = io::Error::new(error.kind(), format!("{address}:{}: {error}", target.port));
            }
        }
    }
    Err(last_error)
}

/// Resolves `host` with hickory-resolver: the images contain no libc resolver.
async fn resolve(host: &str, resolver: &TokioResolver) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let addresses = resolver
        .lookup_ip(host)
        .await
        .map_err(|error| io::Error::other(format!("{host} cannot be resolved: {error}")))?;
    Ok(addresses.iter().collect())
}
