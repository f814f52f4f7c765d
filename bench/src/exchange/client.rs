//! The clients' end.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ANSWER, Io, TOLD, Transport};
use crate::https::trusting;

/// Connects so many clients one after the other; they answer on the calling thread until its runtime ends.
pub(super) async fn connect(
    address: SocketAddr,
    transport: Transport,
    clients: usize,
    trusted: String,
) -> Result<()> {
    let connector = TlsConnector::from(Arc::new(trusting(&trusted, b"h2")?));
    for _ in 0..clients {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if transport == Transport::Tcp {
            tokio::spawn(plain(stream));
            continue;
        }
        let stream = connector
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        if transport == Transport::Tls {
            tokio::spawn(plain(stream));
        } else {
            tokio::spawn(http2(stream));
        }
    }
    Ok(())
}

async fn plain(mut io: impl Io) -> Result<()> {
    let mut told = [0; TOLD];
    loop {
        io.read_exact(&mut told).await?;
        io.write_all(&[1; ANSWER]).await?;
        io.flush().await?;
    }
}

async fn http2(io: impl Io) -> Result<()> {
    let (mut requests, connection) = h2::client::handshake(io).await?;
    tokio::spawn(connection);
    let request = http::Request::post("https://localhost/").body(())?;
    let (response, mut send) = requests.send_request(request, false)?;
    let mut told = response.await?.into_body();
    let answer = Bytes::from_static(&[1; ANSWER]);
    let mut received = 0;
    while let Some(data) = told.data().await {
        let data = data?;
        told.flow_control().release_capacity(data.len())?;
        received += data.len();
        if received == TOLD {
            received = 0;
            send.send_data(answer.clone(), false)?;
        }
    }
    Ok(())
}
