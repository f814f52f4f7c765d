//! Server of the benchmark `exchange`. The server sends a message to each client whenever the number of the current
//! exchange changes.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use kermode_identity::{ServingAuthority, Term};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{Io, MESSAGE_SIZE, RESPONSE_SIZE, ResponseCounter, Transport, grpc_message, tonic_server};

/// Validity of the server's certificate.
const VALIDITY: Duration = Duration::from_hours(24);

/// Returns the TLS acceptor of the server, and the CA that clients have to trust, as PEM.
pub(super) fn acceptor() -> Result<(TlsAcceptor, String)> {
    let now = SystemTime::now();
    let authority = ServingAuthority::generate(now)?;
    let issued = authority.issue(&["localhost"], Term::of(VALIDITY), now)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(issued.certificate.chain.clone(), issued.private_key().into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.certificate_pem()))
}

/// Accepts connections and serves each in a task of its own.
pub(super) async fn accept(
    listener: TcpListener,
    transport: Transport,
    acceptor: TlsAcceptor,
    exchange_numbers: watch::Receiver<u64>,
    responses: Arc<ResponseCounter>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let serving = serve(
            stream,
            transport,
            acceptor.clone(),
            exchange_numbers.clone(),
            responses.clone(),
        );
        // An error is ignored. It leads to a missing response, so the exchange times out.
        tokio::spawn(serving);
    }
}

async fn serve(
    stream: TcpStream,
    transport: Transport,
    acceptor: TlsAcceptor,
    exchange_numbers: watch::Receiver<u64>,
    responses: Arc<ResponseCounter>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    match transport {
        Transport::Tcp => serve_without_http(stream, exchange_numbers, &responses).await,
        Transport::Tls => {
            serve_without_http(acceptor.accept(stream).await?, exchange_numbers, &responses).await
        }
        Transport::Http2 | Transport::SidecarClient => {
            serve_http2(acceptor.accept(stream).await?, exchange_numbers, &responses).await
        }
        Transport::TonicServer => {
            tonic_server::serve(acceptor.accept(stream).await?, exchange_numbers, responses).await
        }
    }
}

/// Serves a connection, of TCP or TLS, without HTTP.
async fn serve_without_http(
    mut io: impl Io,
    mut exchange_numbers: watch::Receiver<u64>,
    responses: &ResponseCounter,
) -> Result<()> {
    let mut response = [0; RESPONSE_SIZE];
    while exchange_numbers.changed().await.is_ok() {
        io.write_all(&[7; MESSAGE_SIZE]).await?;
        io.flush().await?;
        io.read_exact(&mut response).await?;
        responses.count_one();
    }
    Ok(())
}

/// Serves the connection and its only call in one task, as `kuma-cp` does.
async fn serve_http2(
    io: impl Io,
    mut exchange_numbers: watch::Receiver<u64>,
    responses: &ResponseCounter,
) -> Result<()> {
    let mut connection = h2::server::handshake(io).await?;
    let Some(call) = connection.accept().await else {
        return Ok(());
    };
    let (request, mut respond) = call?;
    let head = http::Response::builder().header("content-type", "application/grpc");
    let mut send = respond.send_response(head.body(())?, false)?;
    let mut body = request.into_body();
    let message = grpc_message(MESSAGE_SIZE)?;
    let mut call = pin!(async {
        let mut received = 0;
        loop {
            tokio::select! {
                changed = exchange_numbers.changed() => {
                    changed?;
                    send.send_data(message.clone(), false)?;
                }
                Some(data) = body.data() => {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    received += data.len();
                    if received == RESPONSE_SIZE {
                        received = 0;
                        responses.count_one();
                    }
                }
                else => return anyhow::Ok(()),
            }
        }
    });
    std::future::poll_fn(|context| {
        let call_poll = call.as_mut().poll(context);
        // The connection is polled after the call, because the connection writes the frames that the call has queued.
        match (call_poll, connection.poll_closed(context)) {
            (Poll::Ready(result), _) => Poll::Ready(result),
            (Poll::Pending, Poll::Ready(closed)) => Poll::Ready(closed.map_err(Into::into)),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}
