//! Clients of the exchange ([`super::Exchange`]). Each client responds to every message.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{GRPC_PREFIX, Io, MESSAGE_SIZE, RESPONSE_SIZE, Transport, grpc_message};
use crate::https::client_config;
use crate::sidecars::http2::Call;

/// Path of the method that the clients call.
const PATH: &str = "/bench.Exchange/Exchange";

/// Connects the clients one after the other, and spawns a task for each.
pub(super) async fn connect(
    address: SocketAddr,
    transport: Transport,
    client_count: usize,
    ca_pem: String,
) -> Result<()> {
    let connector = TlsConnector::from(Arc::new(client_config(&ca_pem, b"h2")?));
    for _ in 0..client_count {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if transport == Transport::Tcp {
            tokio::spawn(raw(stream));
            continue;
        }
        let stream = connector
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        match transport {
            Transport::Tcp | Transport::Tls => tokio::spawn(raw(stream)),
            Transport::Http2 | Transport::TonicServer => tokio::spawn(http2(stream)),
            Transport::SidecarClient => tokio::spawn(sidecar(stream)),
        };
    }
    Ok(())
}

/// Client without a protocol above TCP or TLS.
async fn raw(mut io: impl Io) -> Result<()> {
    let mut message = [0; MESSAGE_SIZE];
    loop {
        io.read_exact(&mut message).await?;
        io.write_all(&[1; RESPONSE_SIZE]).await?;
        io.flush().await?;
    }
}

/// Client that uses the crate `h2`.
async fn http2(io: impl Io) -> Result<()> {
    let (mut requests, connection) = h2::client::handshake(io).await?;
    tokio::spawn(connection);
    let request = http::Request::post(format!("https://localhost{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (head, mut send) = requests.send_request(request, false)?;
    let mut messages = head.await?.into_body();
    let response = grpc_message(RESPONSE_SIZE)?;
    let mut received = 0;
    while let Some(data) = messages.data().await {
        let data = data?;
        messages.flow_control().release_capacity(data.len())?;
        received += data.len();
        if received == MESSAGE_SIZE {
            received = 0;
            send.send_data(response.clone(), false)?;
        }
    }
    Ok(())
}

/// Client with the code of the simulated sidecars.
async fn sidecar(io: impl Io) -> Result<()> {
    let mut call = Call::open(io, "localhost", PATH, "Bearer none").await?;
    let payload = vec![1; RESPONSE_SIZE - GRPC_PREFIX];
    loop {
        call.receive().await?;
        call.send(&payload)?;
        call.flush().await?;
    }
}
