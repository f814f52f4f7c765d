//! One simulated sidecar: connects, and reconnects with the backoff of `kuma-dp` between failed attempts.

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
use super::fleet::FleetState;
use super::http2::Call;

/// Backoff after the first failure. The backoff doubles with each further failure. Jitter shortens each wait by up to
/// half.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Maximum backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Number of sidecars that connect from one loopback address, because the server limits the connections of an address.
const SIDECARS_PER_ADDRESS: usize = 1_000;

/// Identity of a simulated sidecar.
#[derive(Clone, Debug)]
pub(super) struct SidecarIdentity {
    /// Position in the fleet.
    pub(super) number: usize,
    /// Envoy's node id.
    pub(super) id: String,
    /// Envoy's cluster: the name of the service.
    pub(super) cluster: String,
    /// Value of the `authorization` header.
    pub(super) authorization: Arc<str>,
}

/// Runs one sidecar: connects, and reconnects after each failure. Never returns.
pub(super) async fn run(fleet: Arc<FleetState>, identity: SidecarIdentity) {
    let mut backoff = MIN_BACKOFF;
    loop {
        let mut is_configured = false;
        let result = run_connection(&fleet, &identity, &mut is_configured).await;
        if is_configured {
            fleet.configured_count.fetch_sub(1, Ordering::Relaxed);
            backoff = MIN_BACKOFF;
        }
        if let Err(error) = result {
            fleet.record_failure(&error);
        }
        // The jitter is a hash of the sidecar's number, from 0 to 999.
        let jitter = identity.number.wrapping_mul(2_654_435_761) % 1000;
        let jitter = f64::from(u32::try_from(jitter).unwrap_or_default());
        tokio::time::sleep(backoff.mul_f64(0.5 + jitter / 2000.0)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Runs one connection until it fails. Sets `is_configured` once the sidecar has its whole configuration.
async fn run_connection(
    fleet: &FleetState,
    identity: &SidecarIdentity,
    is_configured: &mut bool,
) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    // Addresses from 127.0.0.2 to 127.0.0.201.
    let last_byte = u8::try_from(identity.number / SIDECARS_PER_ADDRESS % 200)? + 2;
    socket.bind(SocketAddr::new(
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, last_byte)),
        0,
    ))?;
    let stream = socket.connect(fleet.address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let server_name = ServerName::from(fleet.address.ip());
    let stream = fleet
        .tls
        .connect(server_name, stream)
        .await
        .context("TLS handshake failed")?;
    let authority = fleet.address.to_string();
    let mut call = Call::open(
        stream,
        &authority,
        DELTA_AGGREGATED_RESOURCES,
        &identity.authorization,
    )
    .await?;
    let (mut envoy, first_request) = Envoy::start(&identity.id, &identity.cluster);
    call.send(&first_request.encode_to_vec())?;
    loop {
        call.flush().await?;
        let message = call.receive().await?;
        let bytes = message.len();
        let response = DeltaDiscoveryResponse::decode(message)?;
        fleet.count_response(bytes, response.resources.len());
        for request in envoy.on_response(identity.number, response, &fleet.expected_changes)? {
            call.send(&request.encode_to_vec())?;
        }
        if !*is_configured && envoy.is_configured() {
            call.flush().await?;
            *is_configured = true;
            fleet.configured_count.fetch_add(1, Ordering::Relaxed);
            fleet.configured_increased.notify_one();
        }
    }
}
