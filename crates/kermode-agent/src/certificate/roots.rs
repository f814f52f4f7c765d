//! Watch of the mesh's trust bundle: a new root is trusted immediately instead of with the next certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kermode_model::{MeshName, ObjectKey};
use kermode_protocol::certificates::{RootsUpdate, WatchRootsRequest};
use kermode_protocol::client::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

use super::TIMEOUT;
use crate::backoff::Backoff;
use crate::sds::SecretMaterial;
use crate::token::TokenFile;

/// Pause after `UNIMPLEMENTED`: the control plane is older than this call. Certificates still come with their trust bundle.
const UNIMPLEMENTED_PAUSE: Duration = Duration::from_mins(5);
/// Pause while the mesh has no mTLS. It is shorter than the time between the distribution of a new root and its first
/// certificate, because mTLS may be enabled and the CA rotated before this proxy's certificate is renewed.
const MTLS_DISABLED_PAUSE: Duration = Duration::from_secs(30);
/// Time span over which proxies spread their reconnections after a stream ends. Configuration and certificates are more
/// urgent, and each stream costs the API server a token review.
const RECONNECT_SPREAD: Duration = Duration::from_secs(30);

/// Watch of the mesh's trust bundle.
pub(super) struct RootsWatch {
    pub(super) mesh: MeshName,
    pub(super) proxy: ObjectKey,
    pub(super) client: Client,
    pub(super) token: TokenFile,
    /// Published secrets. The watch starts with the first certificate.
    pub(super) secrets: watch::Receiver<Option<Arc<SecretMaterial>>>,
    /// Receives the updates.
    pub(super) updates: mpsc::Sender<RootsUpdate>,
}

impl RootsWatch {
    /// Watches until dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while self.secrets.wait_for(Option::is_some).await.is_ok() {
            let wait = match self.forward().await {
                Ok(()) => {
                    backoff.reset();
                    RECONNECT_SPREAD.mul_f64(fastrand::f64())
                }
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "watching the mesh's trust bundle failed"
                    );
                    let pause = match error.downcast_ref().map(Status::code) {
                        Some(Code::Unimplemented) => Some(UNIMPLEMENTED_PAUSE),
                        Some(Code::FailedPrecondition) => Some(MTLS_DISABLED_PAUSE),
                        _ => None,
                    };
                    match pause {
                        Some(pause) => pause.mul_f64(0.5 + fastrand::f64() / 2.0),
                        None => backoff.next(fastrand::f64()),
                    }
                }
            };
            sleep(wait).await;
        }
    }

    /// Forwards the updates of one stream to its end. Fails if the stream has none.
    async fn forward(&self) -> anyhow::Result<()> {
        let first = async {
            let mut stream = self.open().await?;
            let first = stream.message().await?;
            anyhow::Ok((stream, first))
        };
        let first = timeout(TIMEOUT, first).await;
        let (mut stream, first) =
            first.with_context(|| format!("the control plane did not respond within {TIMEOUT:?}"))??;
        let mut next = Some(first.context("the stream ended without an update")?);
        while let Some(update) = next {
            if self.updates.send(update).await.is_err() {
                break;
            }
            next = match stream.message().await {
                Ok(message) => message,
                Err(status) => {
                    tracing::debug!(code = ?status.code(), "stream of the trust bundle ended: {}", status.message());
                    None
                }
            };
        }
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<Streaming<RootsUpdate>> {
        let request = WatchRootsRequest {
            mesh: self.mesh.to_string(),
            name: self.proxy.proxy_name(),
        };
        let authorization = self.token.authorization().await?;
        Ok(self.client.watch_roots(authorization, request).await?)
    }
}
