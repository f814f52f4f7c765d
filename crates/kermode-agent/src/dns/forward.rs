//! Forwards a query to the Pod's own name servers, one after the other, and returns the encoded response.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use hickory_proto::op::ResponseCode;

use super::message::{Query, response_code, with_id};

/// Limit on a response over UDP, in bytes: the largest size that clients commonly advertise by EDNS.
const MAX_UDP_RESPONSE: usize = 4096;

/// Name servers of `/etc/resolv.conf`.
#[derive(Clone, Debug)]
pub struct NameServers {
    servers: Vec<SocketAddr>,
    timeout: Duration,
}

/// Transport of a query. The query is forwarded over the transport on which it was received.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

impl NameServers {
    /// Returns the name servers. They are queried in the order of `servers`, with `timeout` for each response.
    pub fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self { servers, timeout }
    }

    /// Returns the first response that is neither `SERVFAIL` nor `REFUSED`, like a libc resolver. If there is no
    /// such response, returns the last response, or `SERVFAIL` if no server responded.
    pub(crate) async fn resolve(&self, query: &Query<'_>, transport: Transport) -> Vec<u8> {
        let mut last = None;
        for &server in &self.servers {
            let exchange = async {
                match transport {
                    Transport::Udp => forward_over_udp(query, server).await,
                    Transport::Tcp => forward_over_tcp(query, server).await,
                }
            };
            match timeout(self.timeout, exchange).await {
                Ok(Ok(response)) => match response_code(&response) {
                    ResponseCode::ServFail | ResponseCode::Refused => last = Some(response),
                    _ => return response,
                },
                Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                Err(_) => tracing::debug!(%server, "name server did not respond in time"),
            }
        }
        last.unwrap_or_else(|| query.error_response(ResponseCode::ServFail))
    }
}

/// Returns an ID that an attacker cannot predict from earlier IDs. The operating system generates the ID, because
/// `fastrand` reveals its state by its output.
fn transaction_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the operating system returns no random bytes"))?;
    Ok(u16::from_ne_bytes(bytes))
}

/// Forwards a query over UDP. Each query uses its own socket and thus an unpredictable source port, which an attacker
/// has to guess, in addition to the ID, to forge a response.
async fn forward_over_udp(query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let unspecified: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(server).await?;
    let id = transaction_id()?;
    socket.send(&query.with_id(id)).await?;
    // The extra byte shows that a response is larger than the limit.
    let mut buffer = vec![0; MAX_UDP_RESPONSE + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if !query.is_answered_by(&buffer[..length], id) {
            continue;
        }
        if length > MAX_UDP_RESPONSE {
            return Ok(query.truncated_response());
        }
        buffer.truncate(length);
        return Ok(with_id(buffer, query.id()));
    }
}

async fn forward_over_tcp(query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = transaction_id()?;
    write_message(&mut stream, &query.with_id(id)).await?;
    match read_message(&mut stream).await? {
        Some(response) if query.is_answered_by(&response, id) => Ok(with_id(response, query.id())),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the response belongs to another query",
        )),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads one message with its length prefix, at most 64 KiB. Returns `None` at the end of the stream.
pub(crate) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message with its length prefix.
pub(crate) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // A single write puts prefix and message into one segment.
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_do_not_depend_on_the_seed_of_fastrand() {
        let ids = || {
            fastrand::seed(7);
            let ids = (0..8).map(|_| transaction_id());
            ids.collect::<io::Result<Vec<u16>>>().unwrap()
        };
        assert_ne!(ids(), ids());
    }
}
