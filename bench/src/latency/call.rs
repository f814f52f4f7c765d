//! One connection of the load generator, and the calls on it: one at a time, as those of most clients.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kermode_model::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Content type of gRPC.
pub(super) const GRPC: &str = "application/grpc";
/// Size of the message in a request of gRPC or TCP, in bytes.
pub(super) const REQUEST_SIZE: usize = 100;
/// Size of a response's body or message, in bytes.
pub(super) const RESPONSE_SIZE: usize = 1024;
/// Value of `user-agent`.
const USER_AGENT: &str = "kermode-bench";

/// An open connection.
pub(super) enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
    Tcp(TcpStream),
}

// === impl Connection ===

impl Connection {
    /// Connects to a server.
    pub(super) async fn open(protocol: Protocol, address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        match protocol {
            Protocol::Tcp | Protocol::Kafka => Ok(Self::Tcp(stream)),
            Protocol::Http => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Protocol::Http2 | Protocol::Grpc => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                Ok(if protocol == Protocol::Grpc {
                    Self::Grpc(sender)
                } else {
                    Self::Http2(sender)
                })
            }
        }
    }

    /// Sends a request and waits for the whole response.
    ///
    /// # Errors
    /// When the connection breaks, or the response is not that of the application.
    pub(super) async fn call(&mut self) -> Result<()> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                let request = Request::get("/hello").header("host", "web.demo.svc:80");
                let request = request.header("user-agent", USER_AGENT).header("accept", "*/*");
                check_body(sender.send_request(request.body(Full::default())?).await?).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                let request = Request::get("http://web.demo.svc:80/hello");
                let request = request.header("user-agent", USER_AGENT).header("accept", "*/*");
                check_body(sender.send_request(request.body(Full::default())?).await?).await
            }
            Self::Grpc(sender) => {
                sender.ready().await?;
                let request = Request::post("http://web.demo.svc:80/demo.Web/Hello")
                    .header("user-agent", USER_AGENT)
                    .header(CONTENT_TYPE, GRPC)
                    .header("te", "trailers");
                let body = Full::new(grpc_message(REQUEST_SIZE));
                let response = sender.send_request(request.body(body)?).await?;
                let body = response.into_body().collect().await?;
                let status = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
                ensure!(
                    status.is_some_and(|status| status == "0"),
                    "gRPC status {status:?}"
                );
                Ok(())
            }
            Self::Tcp(stream) => {
                stream.write_all(&[b'x'; REQUEST_SIZE]).await?;
                stream.read_exact(&mut [0; RESPONSE_SIZE]).await?;
                Ok(())
            }
        }
    }
}

async fn check_body(response: Response<Incoming>) -> Result<()> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        status == StatusCode::OK && body.len() == RESPONSE_SIZE,
        "status {status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}

/// Returns a message of gRPC, without compression, whose content has `size` bytes.
pub(super) fn grpc_message(size: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(5 + size);
    message.put_u8(0);
    message.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    message.put_bytes(b'x', size);
    message.freeze()
}
