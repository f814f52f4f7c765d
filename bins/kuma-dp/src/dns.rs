//! Answers the DNS queries that the pod's rules redirect here (BEHAVIOUR section 5.4): names of the mesh from a
//! [`Zone`], everything else by passing it to the name servers of `/etc/resolv.conf`.
//!
//! The rules exempt this process, so its own queries reach those servers.

pub(crate) mod forward;
pub(crate) mod message;

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

use forward::{Transport, Upstreams, read_message, write_message};
use message::Query;

/// Queries and connections being worked on at the same time. More are dropped, and their clients ask again.
const MOST_AT_ONCE: usize = 512;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long a server is given. Clients commonly wait 5 s, so that a second server still counts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Largest query taken over UDP.
const LARGEST_QUERY: usize = 4096;

/// Names that are answered here instead of by a server.
pub(crate) trait Zone: Send + Sync + 'static {
    /// The whole answer message, or nothing when the name is not of this zone.
    fn answer(&self, query: Query<'_>) -> Option<Vec<u8>>;
}

/// The zone without names.
#[derive(Clone)]
pub(crate) struct NoZone;

impl Zone for NoZone {
    fn answer(&self, _: Query<'_>) -> Option<Vec<u8>> {
        None
    }
}

/// The server with its sockets bound.
pub(crate) struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    resolver: Arc<Resolver>,
}

struct Resolver {
    zone: Box<dyn Zone>,
    upstreams: Upstreams,
    places: Arc<Semaphore>,
}

// === impl Server ===

impl Server {
    /// Binds `port` on 127.0.0.1, and on ::1 where the pod has IPv6.
    pub(crate) async fn bind(
        port: NonZeroU16,
        zone: impl Zone,
        upstreams: Upstreams,
    ) -> anyhow::Result<Self> {
        let resolver = Resolver {
            zone: Box::new(zone),
            upstreams,
            places: Arc::new(Semaphore::new(MOST_AT_ONCE)),
        };
        let mut server = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            resolver: Arc::new(resolver),
        };
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            match bind((address, port.get()).into()).await {
                Ok((udp, tcp)) => {
                    server.udp.push(udp);
                    server.tcp.push(tcp);
                }
                Err(error) if address.is_ipv6() && is_absent(&error) => {
                    tracing::debug!(%error, "no DNS on ::1, this pod has no IPv6");
                }
                Err(error) => {
                    let what = format!(
                        "DNS cannot listen on {address} port {port}; is KUMA_DNS_CORE_DNS_PORT taken?"
                    );
                    return Err(error).context(what);
                }
            }
        }
        Ok(server)
    }

    /// Answers until dropped; ends only with an error of the sockets.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut loops = JoinSet::new();
        for socket in self.udp {
            loops.spawn(serve_udp(Arc::new(socket), self.resolver.clone()));
        }
        for listener in self.tcp {
            loops.spawn(serve_tcp(listener, self.resolver.clone()));
        }
        while let Some(ended) = loops.join_next().await {
            ended?.context("DNS server ended")?;
        }
        Ok(())
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

async fn serve_udp(socket: Arc<UdpSocket>, resolver: Arc<Resolver>) -> io::Result<()> {
    let mut buffer = vec![0; LARGEST_QUERY];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // A client that went away before its answer came is reported on the next call; it is nobody else's problem.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let Ok(place) = resolver.places.clone().try_acquire_owned() else {
            continue;
        };
        let (bytes, socket, resolver) = (buffer[..length].to_vec(), socket.clone(), resolver.clone());
        tokio::spawn(async move {
            if let Some(answer) = resolver.answer(&bytes, Transport::Udp).await {
                // The client asks again if this is lost.
                let _ = socket.send_to(&answer, client).await;
            }
            drop(place);
        });
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>) -> io::Result<()> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "DNS connection could not be accepted");
                // Typically out of file descriptors: give open connections time to end.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = resolver.places.clone().try_acquire_owned() else {
            continue;
        };
        let resolver = resolver.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_connection(stream, &resolver).await {
                tracing::debug!(%error, "DNS connection ended");
            }
            drop(place);
        });
    }
}

async fn serve_connection(mut stream: TcpStream, resolver: &Resolver) -> io::Result<()> {
    while let Some(query) = timeout(IDLE, read_message(&mut stream)).await?? {
        let Some(answer) = resolver.answer(&query, Transport::Tcp).await else {
            return Ok(());
        };
        timeout(IDLE, write_message(&mut stream, &answer)).await??;
    }
    Ok(())
}

// === impl Resolver ===

impl Resolver {
    /// The answer to what was received; nothing when it is not a query.
    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = Query::parse(bytes)?;
        match self.zone.answer(query) {
            Some(answer) => Some(answer),
            None => Some(self.upstreams.answer(query, transport).await),
        }
    }
}

#[cfg(test)]
mod tests;
