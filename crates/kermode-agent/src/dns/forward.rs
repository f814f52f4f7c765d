//! Forwards a query to the Pod's own name servers, one after the other, and returns the encoded response.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use kermode_limit::rate::Window;
use parking_lot::Mutex;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Query, response_code, with_id};
use super::metrics::{Failure, Metrics};
use super::tcp::{Frames, write_message};

/// Size of the largest datagram, in bytes.
const MAX_DATAGRAM: usize = 65_535;
/// Number of IDs that are generated at once. Each generation is a system call.
const IDS_PER_CALL: usize = 128;
/// Period with at most one log line about queries that no name server answered.
const WARNING_PERIOD: Duration = Duration::from_mins(1);

/// Name servers of `/etc/resolv.conf`.
#[derive(Debug)]
pub struct NameServers {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    ids: Mutex<TransactionIds>,
    /// Buffer for a datagram, shared by all queries: a buffer for each of them would take much memory.
    datagram: Mutex<Box<[u8]>>,
    /// Limit on log lines about queries that no name server answered.
    warnings: Mutex<Window>,
    metrics: Metrics,
}

/// Transport of a query. The query is forwarded over the transport on which it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Source of IDs that an attacker cannot predict from earlier IDs. The operating system generates the IDs, because
/// `fastrand` reveals its state by its output.
#[derive(Debug, Default)]
struct TransactionIds {
    /// IDs that are not used yet.
    unused: Vec<u16>,
}

// === impl NameServers ===

impl NameServers {
    /// Returns the name servers. They are queried in the order of `servers`, with `timeout` for each response.
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration, metrics: Metrics) -> Self {
        Self {
            servers,
            timeout,
            ids: Mutex::default(),
            datagram: Mutex::new(vec![0; MAX_DATAGRAM].into()),
            warnings: Mutex::new(Window::new(1, WARNING_PERIOD)),
            metrics,
        }
    }

    /// Returns the first response that is neither `SERVFAIL` nor `REFUSED`, like a libc resolver. If there is no
    /// such response, returns the last response, or `SERVFAIL` if no server responded.
    pub(crate) async fn resolve(&self, query: &Query, transport: Transport) -> Vec<u8> {
        let mut last = None;
        for &server in &self.servers {
            let exchange = async {
                match transport {
                    Transport::Udp => self.forward_over_udp(query, server).await,
                    Transport::Tcp => self.forward_over_tcp(query, server).await,
                }
            };
            let failure = match timeout(self.timeout, exchange).await {
                Ok(Ok(response)) => match response_code(&response) {
                    ResponseCode::ServFail | ResponseCode::Refused => {
                        last = Some(response);
                        Failure::ResponseCode
                    }
                    _ => return response,
                },
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "name server failed");
                    Failure::Error
                }
                Err(_) => {
                    tracing::debug!(%server, "name server did not respond in time");
                    Failure::Timeout
                }
            };
            self.metrics.count_failure(failure);
        }
        last.unwrap_or_else(|| {
            self.warn_no_response();
            query.error_response(ResponseCode::ServFail)
        })
    }

    fn warn_no_response(&self) {
        let Some(suppressed) = self.warnings.lock().try_pass(Instant::now()) else {
            return;
        };
        if self.servers.is_empty() {
            tracing::warn!(
                suppressed,
                "a DNS query cannot be forwarded: /etc/resolv.conf has no valid name server"
            );
        } else {
            tracing::warn!(
                name_servers = ?self.servers,
                suppressed,
                "no name server of /etc/resolv.conf responded to a DNS query; check that the Pod can reach them"
            );
        }
    }

    /// Forwards a query over UDP. Each query uses its own socket and thus an unpredictable source port, which an
    /// attacker has to guess, in addition to the ID, to forge a response. The socket is connected, so it receives
    /// datagrams of this server only.
    async fn forward_over_udp(&self, query: &Query, server: SocketAddr) -> io::Result<Vec<u8>> {
        let unspecified: IpAddr = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((unspecified, 0)).await?;
        socket.connect(server).await?;
        let id = self.ids.lock().next()?;
        socket.send(&query.with_id(id)).await?;
        loop {
            // An ICMP message about a closed port makes the socket ready for an error only.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if !ready.is_readable() {
                let error = socket.take_error()?;
                return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
            }
            let mut datagram = self.datagram.lock();
            let response = match socket.try_recv(&mut datagram) {
                Ok(length) => &datagram[..length],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            if query.is_answered_by(response, id) {
                // A response that is too large for the client is truncated here, so it takes little memory.
                let response = if query.fits_into_udp(response) {
                    response.to_vec()
                } else {
                    query.truncate(response)
                };
                return Ok(with_id(response, query.id()));
            }
        }
    }

    async fn forward_over_tcp(&self, query: &Query, server: SocketAddr) -> io::Result<Vec<u8>> {
        let (reader, mut writer) = TcpStream::connect(server).await?.into_split();
        let id = self.ids.lock().next()?;
        write_message(&mut writer, &query.with_id(id)).await?;
        match Frames::new(reader, usize::from(u16::MAX)).next().await? {
            Some(response) if query.is_answered_by(&response, id) => Ok(with_id(response, query.id())),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the response belongs to another query",
            )),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

// === impl TransactionIds ===

impl TransactionIds {
    fn next(&mut self) -> io::Result<u16> {
        if self.unused.is_empty() {
            let mut bytes = [0; 2 * IDS_PER_CALL];
            let filled = SystemRandom::new().fill(&mut bytes);
            filled.map_err(|_| io::Error::other("the operating system returns no random bytes"))?;
            let (ids, _) = bytes.as_chunks::<2>();
            self.unused.extend(ids.iter().copied().map(u16::from_ne_bytes));
        }
        self.unused
            .pop()
            .ok_or_else(|| io::Error::other("no ID was generated"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_do_not_depend_on_the_seed_of_fastrand() {
        let ids = || {
            fastrand::seed(7);
            let mut ids = TransactionIds::default();
            let ids = (0..IDS_PER_CALL + 8).map(|_| ids.next());
            ids.collect::<io::Result<Vec<u16>>>().unwrap()
        };
        assert_ne!(ids(), ids());
    }
}
