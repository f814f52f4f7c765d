//! DNS server for the queries that the Pod's nftables rules redirect to the agent (`docs/reference/sidecar.md#dns`). It
//! answers queries for names of a [`Zone`] and forwards all others to the name servers of `/etc/resolv.conf`.
//!
//! The rules exempt the agent's own traffic, so forwarded queries are not redirected.

mod forward;
mod message;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use forward::NameServers;
use forward::{Transport, read_message, write_message};
pub use message::Query;

/// Limit on the sum of concurrent UDP queries and TCP connections. Excess queries and connections are dropped; clients
/// retry.
const MAX_CONCURRENT: usize = 512;
/// Timeout of one read from, or one write to, a client over TCP.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a response of one name server. Clients commonly wait 5 s, so a second server has time to
/// respond.
pub const NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Size of the buffer for a query over UDP, in bytes. A longer query is cut off.
const UDP_QUERY_BUFFER: usize = 4096;

/// Names for which the agent answers queries itself.
pub trait Zone: Send + Sync + 'static {
    /// Returns the encoded response, or `None` if the name does not belong to the zone.
    fn answer(&self, query: &Query<'_>) -> Option<Vec<u8>>;
}

/// Zone without names.
#[derive(Clone, Debug)]
pub struct EmptyDnsZone;

impl Zone for EmptyDnsZone {
    fn answer(&self, _: &Query<'_>) -> Option<Vec<u8>> {
        None
    }
}

/// DNS server with bound sockets.
pub struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    responder: Arc<Responder>,
}

/// Responds to queries; shared by all sockets.
struct Responder {
    zone: Box<dyn Zone>,
    name_servers: NameServers,
    permits: Arc<Semaphore>,
}

// === impl Server ===

impl Server {
    /// Binds `port` on 127.0.0.1, and on ::1 if the Pod has IPv6.
    pub async fn bind(port: NonZeroU16, zone: impl Zone, name_servers: NameServers) -> anyhow::Result<Self> {
        let responder = Responder {
            zone: Box::new(zone),
            name_servers,
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        };
        let mut server = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            responder: Arc::new(responder),
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

    /// Serves until the returned future is dropped, or until a socket fails.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for socket in self.udp {
            tasks.spawn(serve_udp(Arc::new(socket), self.responder.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, self.responder.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended?.context("a socket of the DNS server failed")?;
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

async fn serve_udp(socket: Arc<UdpSocket>, responder: Arc<Responder>) -> io::Result<()> {
    let mut buffer = vec![0; UDP_QUERY_BUFFER];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier response reached a closed port. Later queries are not affected.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let Ok(permit) = responder.permits.clone().try_acquire_owned() else {
            continue;
        };
        let bytes = buffer[..length].to_vec();
        let socket = socket.clone();
        let responder = responder.clone();
        tokio::spawn(async move {
            if let Some(response) = responder.respond(&bytes, Transport::Udp).await {
                // An error is ignored, because the client retries.
                let _ = socket.send_to(&response, client).await;
            }
            drop(permit);
        });
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) -> io::Result<()> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "DNS connection could not be accepted");
                // Usually the process is out of file descriptors; the pause lets open connections end.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = responder.permits.clone().try_acquire_owned() else {
            continue;
        };
        let responder = responder.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_connection(stream, &responder).await {
                tracing::debug!(%error, "DNS connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve_connection(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    while let Some(query) = timeout(TCP_TIMEOUT, read_message(&mut stream)).await?? {
        let Some(response) = responder.respond(&query, Transport::Tcp).await else {
            return Ok(());
        };
        timeout(TCP_TIMEOUT, write_message(&mut stream, &response)).await??;
    }
    Ok(())
}

// === impl Responder ===

impl Responder {
    /// Returns the response to a received message, or `None` if the message is not a query.
    async fn respond(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = Query::parse(bytes)?;
        match self.zone.answer(&query) {
            Some(response) => Some(response),
            None => Some(self.name_servers.resolve(&query, transport).await),
        }
    }
}

#[cfg(test)]
mod tests;
