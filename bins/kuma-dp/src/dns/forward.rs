//! Asks the pod's own name servers, one after the other, and hands their answer on as it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Query, rcode, rcode_of, with_id};

/// Largest answer taken over UDP: what resolvers offer by EDNS at most.
const LARGEST_DATAGRAM: usize = 4096;

/// The servers of `/etc/resolv.conf`.
#[derive(Clone, Debug)]
pub(crate) struct Upstreams {
    servers: Vec<SocketAddr>,
    patience: Duration,
}

/// How a query came in, which is how it is passed on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

impl Upstreams {
    /// Servers in the order they are asked, each for at most `patience`.
    pub(crate) fn new(servers: Vec<SocketAddr>, patience: Duration) -> Self {
        Self { servers, patience }
    }

    /// The answer of the first server that has one; a refusal when none has.
    ///
    /// A server that fails or refuses is not believed while there is another one, as in the resolver of a libc.
    pub(crate) async fn answer(&self, query: Query<'_>, transport: Transport) -> Vec<u8> {
        let mut last = None;
        for &server in &self.servers {
            let exchange = async {
                match transport {
                    Transport::Udp => over_udp(query, server).await,
                    Transport::Tcp => over_tcp(query, server).await,
                }
            };
            match timeout(self.patience, exchange).await {
                Ok(Ok(reply)) if !matches!(rcode_of(&reply), rcode::SERVER_FAILURE | rcode::REFUSED) => {
                    return reply;
                }
                Ok(Ok(reply)) => last = Some(reply),
                Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                Err(_) => tracing::debug!(%server, "name server did not answer in time"),
            }
        }
        last.unwrap_or_else(|| query.refusal(rcode::SERVER_FAILURE))
    }
}

/// One socket a query: the kernel then picks an unpredictable source port, which a forger has to guess as well as the id.
async fn over_udp(query: Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = fastrand::u16(..);
    socket.send(&query.with_id(id)).await?;
    // One byte more than is accepted shows that an answer was cut.
    let mut buffer = vec![0; LARGEST_DATAGRAM + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if !query.is_answered_by(&buffer[..length], id) {
            continue;
        }
        if length > LARGEST_DATAGRAM {
            return Ok(query.truncated_answer());
        }
        buffer.truncate(length);
        return Ok(with_id(buffer, query.id()));
    }
}

async fn over_tcp(query: Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = fastrand::u16(..);
    write_message(&mut stream, &query.with_id(id)).await?;
    match read_message(&mut stream).await? {
        Some(reply) if query.is_answered_by(&reply, id) => Ok(with_id(reply, query.id())),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        )),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads one message with its length before it; nothing at the end of the stream.
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

/// Writes one message with its length before it.
pub(crate) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // One write, so that one segment carries both.
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}
