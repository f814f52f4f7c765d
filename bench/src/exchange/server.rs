//! The server's end.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use kermode_identity::ServingAuthority;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{ANSWER, Heard, Io, TOLD, Transport};

/// How long the certificate is good.
const DAY: Duration = Duration::from_hours(24);

/// What the server shows, and the CA to trust.
pub(super) fn acceptor() -> Result<(TlsAcceptor, String)> {
    let now = SystemTime::now();
    let authority = ServingAuthority::generate(now)?;
    let issued = authority.issue(&["localhost"], DAY, now)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(issued.certificate.chain.clone(), issued.private_key().into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), authority.certificate_pem()))
}

/// Serves whoever connects.
pub(super) async fn accept(
    listener: TcpListener,
    transport: Transport,
    acceptor: TlsAcceptor,
    telling: watch::Receiver<u64>,
    heard: Arc<Heard>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let serving = serve(
            stream,
            transport,
            acceptor.clone(),
            telling.clone(),
            heard.clone(),
        );
        // What goes wrong shows in answers that do not come.
        tokio::spawn(serving);
    }
}

async fn serve(
    stream: TcpStream,
    transport: Transport,
    acceptor: TlsAcceptor,
    telling: watch::Receiver<u64>,
    heard: Arc<Heard>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    match transport {
        Transport::Tcp => plain(stream, telling, &heard).await,
        Transport::Tls => plain(acceptor.accept(stream).await?, telling, &heard).await,
        Transport::Http2 => http2(acceptor.accept(stream).await?, telling, &heard).await,
    }
}

async fn plain(mut io: impl Io, mut telling: watch::Receiver<u64>, heard: &Heard) -> Result<()> {
    let mut answer = [0; ANSWER];
    while telling.changed().await.is_ok() {
        io.write_all(&[7; TOLD]).await?;
        io.flush().await?;
        io.read_exact(&mut answer).await?;
        heard.one();
    }
    Ok(())
}

/// The connection and its only call in one task, as in `kuma-cp`.
async fn http2(io: impl Io, mut telling: watch::Receiver<u64>, heard: &Heard) -> Result<()> {
    let mut connection = h2::server::handshake(io).await?;
    let Some(call) = connection.accept().await else {
        return Ok(());
    };
    let (request, mut respond) = call?;
    let mut send = respond.send_response(http::Response::new(()), false)?;
    let mut answers = request.into_body();
    let told = Bytes::from_static(&[7; TOLD]);
    let mut call = pin!(async {
        let mut received = 0;
        loop {
            tokio::select! {
                more = telling.changed() => {
                    more?;
                    send.send_data(told.clone(), false)?;
                }
                Some(data) = answers.data() => {
                    let data = data?;
                    answers.flow_control().release_capacity(data.len())?;
                    received += data.len();
                    if received == ANSWER {
                        received = 0;
                        heard.one();
                    }
                }
                else => return anyhow::Ok(()),
            }
        }
    });
    std::future::poll_fn(|context| {
        let ended = call.as_mut().poll(context);
        // What the call sends goes out with the connection, which therefore comes after it.
        match (ended, connection.poll_closed(context)) {
            (Poll::Ready(ended), _) => Poll::Ready(ended),
            (Poll::Pending, Poll::Ready(closed)) => Poll::Ready(closed.map_err(Into::into)),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}
