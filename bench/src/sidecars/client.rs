//! One sidecar: connects, and connects again when it is cut off, as patiently as `kuma-dp`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use kermode_protocol::ads::{DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryResponse};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::TcpSocket;

use super::envoy::Envoy;
use super::fleet::Shared;
use super::http2::Call;

/// The wait after a failure: between half and all of it, doubled each time up to the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// Sidecars behind one address; a server may bound how many those are.
const PER_ADDRESS: usize = 1_000;

/// Who a sidecar is.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) number: usize,
    /// Envoy's node id.
    pub(super) id: String,
    pub(super) cluster: String,
    /// With `Bearer`.
    pub(super) authorization: Arc<str>,
}

/// Runs until dropped.
pub(super) async fn run(shared: Arc<Shared>, who: Who) {
    let mut wait = FIRST;
    loop {
        let mut complete = false;
        let ended = connected(&shared, &who, &mut complete).await;
        if complete {
            shared.complete.fetch_sub(1, Ordering::Relaxed);
            wait = FIRST;
        }
        if let Err(error) = ended {
            shared.note_failure(&error);
        }
        let part =
            f64::from(u32::try_from(who.number.wrapping_mul(2_654_435_761) % 1000).unwrap_or_default());
        tokio::time::sleep(wait.mul_f64(0.5 + part / 2000.0)).await;
        wait = (wait * 2).min(LONGEST);
    }
}

async fn connected(shared: &Shared, who: &Who, complete: &mut bool) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    let part = u8::try_from(who.number / PER_ADDRESS % 200)? + 2;
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, part)), 0))?;
    let stream = socket.connect(shared.address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(shared.address.ip());
    let stream = shared.tls.connect(name, stream).await.context("TLS")?;
    let authority = shared.address.to_string();
    let mut call = Call::open(stream, &authority, DELTA_AGGREGATED_RESOURCES, &who.authorization).await?;
    let (mut envoy, first) = Envoy::start(&who.id, &who.cluster);
    call.send(&first.encode_to_vec())?;
    loop {
        call.flush().await?;
        let message = call.receive().await?;
        let bytes = message.len();
        let response = DeltaDiscoveryResponse::decode(message)?;
        shared.count(bytes, response.resources.len());
        for request in envoy.on_response(who.number, response, &shared.probes)? {
            call.send(&request.encode_to_vec())?;
        }
        if !*complete && envoy.is_complete() {
            call.flush().await?;
            *complete = true;
            shared.complete.fetch_add(1, Ordering::Relaxed);
            shared.changed.notify_one();
        }
    }
}
