//! DNS server for the queries that the Pod's nftables rules redirect to the agent (`docs/reference/sidecar.md#dns`).
//!
//! ```text
//! query ──▶ names of the mesh ──RPC──▶ control plane
//!       ──▶ cache ──▶ name servers of /etc/resolv.conf
//! ```
//!
//! The rules exempt the agent's own traffic, so forwarded queries are not redirected.

mod bounded;
mod cache;
mod forward;
mod message;
mod metrics;
mod names;
mod tcp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hickory_proto::op::ResponseCode;
use kermode_limit::KeyedLimit;
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use forward::NameServers;
pub use metrics::Metrics;
pub use names::{ControlPlaneNames, NameAnswer, NameSource};

use cache::Cache;
use forward::Transport;
use message::{InvalidQuery, Query, response_code};
use metrics::{Origin, Rejection};
use names::MeshNames;
use tcp::serve_connection;

/// Limit on concurrent UDP queries that wait for a response. Excess queries are dropped; clients retry.
const MAX_UDP_QUERIES: usize = 512;
/// Limit on concurrent TCP queries that wait for a response. Excess queries wait. The limit is lower than that of UDP,
/// because a response may have 64 KiB.
const MAX_TCP_QUERIES: usize = 64;
/// Limit on TCP connections. At the limit, the oldest connection is closed for a new one.
const MAX_CONNECTIONS: usize = 64;
/// Upper bound of the timeout of a response of one name server. Clients commonly wait 5 s, so a second server has time
/// to respond.
pub const MAX_NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Size of the buffer for a query over UDP, in bytes. A longer query is cut off.
const UDP_QUERY_BUFFER: usize = 4096;
/// Pause after an error of a socket. Usually the system is out of memory or the process out of file descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Parts that a [`Server`] is made of.
#[derive(Debug)]
pub struct Config {
    /// Port on loopback.
    pub port: NonZeroU16,
    /// Name servers of the Pod.
    pub name_servers: NameServers,
    /// Whether responses of the name servers are cached.
    pub is_cache_enabled: bool,
    /// Metrics.
    pub metrics: Metrics,
}

/// DNS server with bound sockets.
pub struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    responder: Arc<Responder>,
}

/// Responds to queries; shared by all sockets.
struct Responder {
    names: Arc<MeshNames>,
    /// `None` if the cache is disabled.
    cache: Option<Mutex<Cache>>,
    name_servers: NameServers,
    udp_permits: Arc<Semaphore>,
    tcp_permits: Semaphore,
    connections: KeyedLimit<()>,
    metrics: Metrics,
}

/// Received query, with the parts that depend on how it was received.
struct Received {
    query: Query,
    transport: Transport,
    arrived_at: Instant,
}

// === impl Server ===

impl Server {
    /// Binds the port on 127.0.0.1, and on ::1 if the Pod has IPv6. `names` answers for the names of the mesh.
    pub async fn bind(config: Config, names: impl NameSource) -> anyhow::Result<Self> {
        let port = config.port;
        let mut server = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            responder: Arc::new(Responder::new(config, names)),
        };
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            match bind_sockets((address, port.get()).into()).await {
                Ok((udp, tcp)) => {
                    server.udp.push(udp);
                    server.tcp.push(tcp);
                }
                Err(error) if address.is_ipv6() && is_unavailable(&error) => {
                    tracing::debug!(%error, "DNS does not listen on ::1: the Pod has no IPv6");
                }
                Err(error) => {
                    let message = format!(
                        "DNS cannot listen on {address} port {port}; \
                         check that no other process uses the port in KUMA_DNS_CORE_DNS_PORT"
                    );
                    return Err(error).context(message);
                }
            }
        }
        Ok(server)
    }

    /// Serves until the returned future is dropped.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for socket in self.udp {
            tasks.spawn(serve_udp(Arc::new(socket), self.responder.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, self.responder.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a socket of the DNS server is no longer served")?;
        }
        Ok(())
    }
}

async fn bind_sockets(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

/// Returns whether binding failed because the Pod does not have the address.
fn is_unavailable(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

async fn serve_udp(socket: Arc<UdpSocket>, responder: Arc<Responder>) {
    let mut buffer = vec![0; UDP_QUERY_BUFFER];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier response reached a closed port. Later queries are not affected.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "a DNS query could not be received");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let received = match responder.receive(&buffer[..length], Transport::Udp) {
            Ok(received) => received,
            Err(response) => {
                send_now(&socket, response, client);
                continue;
            }
        };
        if let Some(response) = responder.try_respond(&received) {
            send_now(&socket, Some(response), client);
            continue;
        }
        let Ok(permit) = responder.udp_permits.clone().try_acquire_owned() else {
            responder.metrics.count_rejection(Rejection::Limit);
            continue;
        };
        let socket = socket.clone();
        let responder = responder.clone();
        tokio::spawn(async move {
            let response = responder.respond(received).await;
            // An error is ignored, because the client retries.
            let _ = socket.send_to(&response, client).await;
            drop(permit);
        });
    }
}

/// Sends a response. If the socket's buffer is full, the response is dropped: the client retries.
fn send_now(socket: &UdpSocket, response: Option<Vec<u8>>, client: SocketAddr) {
    if let Some(response) = response {
        let _ = socket.try_send_to(&response, client);
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "DNS connection could not be accepted");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let Ok(mut permit) = responder.connections.acquire_superseding(&()) else {
            responder.metrics.count_rejection(Rejection::Limit);
            continue;
        };
        let responder = responder.clone();
        tokio::spawn(async move {
            let served = serve_connection(stream, |bytes| responder.respond_over_tcp(bytes));
            tokio::select! {
                result = served => if let Err(error) = result {
                    tracing::debug!(%error, "DNS connection ended");
                },
                _ = permit.revoked() => responder.metrics.count_rejection(Rejection::Limit),
            }
        });
    }
}

// === impl Responder ===

impl Responder {
    fn new(config: Config, names: impl NameSource) -> Self {
        Self {
            names: MeshNames::new(names, config.metrics.clone()),
            cache: config.is_cache_enabled.then(Mutex::default),
            name_servers: config.name_servers,
            udp_permits: Arc::new(Semaphore::new(MAX_UDP_QUERIES)),
            tcp_permits: Semaphore::new(MAX_TCP_QUERIES),
            // A connection that is closed for a new one counts until its task has ended.
            connections: KeyedLimit::new(MAX_CONNECTIONS, 2 * MAX_CONNECTIONS),
            metrics: config.metrics,
        }
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// If the message is not a query. Contains the response, unless the message must not be responded to.
    fn receive(&self, bytes: &[u8], transport: Transport) -> Result<Received, Option<Vec<u8>>> {
        let arrived_at = Instant::now();
        match Query::parse(bytes) {
            Ok(query) => Ok(Received {
                query,
                transport,
                arrived_at,
            }),
            Err(invalid) => {
                self.metrics.count_rejection(Rejection::Malformed);
                match invalid {
                    InvalidQuery::NotAQuery => Err(None),
                    InvalidQuery::Malformed(response) => Err(Some(response)),
                }
            }
        }
    }

    /// Returns the response if it is known without asking another server.
    fn try_respond(&self, received: &Received) -> Option<Vec<u8>> {
        let query = &received.query;
        let (response, origin) = if MeshNames::has_name_of(query) {
            (self.names.try_respond(query)?, Origin::Mesh)
        } else if received.transport == Transport::Tcp && query.is_zone_transfer() {
            // The responses to a zone transfer are several messages, which are not forwarded.
            (query.error_response(ResponseCode::NotImp), Origin::Agent)
        } else {
            let key = query.cache_key()?;
            let response = self.cache.as_ref()?.lock().get(&key, query, Instant::now())?;
            (response, Origin::Cache)
        };
        Some(self.finish(received, response, origin))
    }

    /// Returns the response of another server.
    async fn respond(&self, received: Received) -> Vec<u8> {
        let query = &received.query;
        if MeshNames::has_name_of(query) {
            let response = self.names.respond(query).await;
            return self.finish(&received, response, Origin::Mesh);
        }
        let response = self.name_servers.resolve(query, received.transport).await;
        if let (Some(cache), Some(key)) = (&self.cache, query.cache_key()) {
            let mut cache = cache.lock();
            cache.insert(&key, query, &response, Instant::now());
            self.metrics.set_cache(cache.len(), cache.bytes());
        }
        self.finish(&received, response, Origin::NameServer)
    }

    /// Returns the response to a message over TCP, or `None` if the message must not be responded to.
    async fn respond_over_tcp(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let received = match self.receive(&bytes, Transport::Tcp) {
            Ok(received) => received,
            Err(response) => return response,
        };
        if let Some(response) = self.try_respond(&received) {
            return Some(response);
        }
        // The semaphore is never closed.
        let _permit = self.tcp_permits.acquire().await.ok()?;
        Some(self.respond(received).await)
    }

    /// Counts a response and truncates it if it is too large for the transport.
    fn finish(&self, received: &Received, response: Vec<u8>, origin: Origin) -> Vec<u8> {
        let Received {
            query,
            transport,
            arrived_at,
        } = received;
        self.metrics
            .count_response(*transport, origin, response_code(&response), *arrived_at);
        if *transport == Transport::Udp && !query.fits_into_udp(&response) {
            return query.truncate(&response);
        }
        response
    }
}

#[cfg(test)]
mod tests;
