//! Watch of the mesh's trust bundle: Envoy gets a new root immediately instead of with the next certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kermode_model::{MeshName, ObjectKey};
use kermode_protocol::certificates::{RootsUpdate, WatchRootsRequest};
use kermode_protocol::client::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

use super::CALL_TIMEOUT;
use crate::backoff::Backoff;
use crate::sds::SecretMaterial;
use crate::token::TokenFile;

/// Pause after `UNIMPLEMENTED`: the control plane is too old to implement this RPC. The trust bundle still comes with
/// each certificate.
const UNIMPLEMENTED_PAUSE: Duration = Duration::from_mins(5);
/// Pause while mTLS is disabled in the mesh. A CA rotation waits longer than this pause between distributing a new root
/// and signing with its key, so the proxy gets the root in time.
const MTLS_DISABLED_PAUSE: Duration = Duration::from_secs(30);
/// Time span over which proxies spread their reconnections after a stream ends. Reconnecting is not urgent, and each
/// stream costs the API server a token review.
const WATCH_RECONNECTION_SPREAD: Duration = Duration::from_secs(30);

/// Watch of the mesh's trust bundle.
pub(super) struct RootsWatch {
    pub(super) mesh: MeshName,
    pub(super) proxy: ObjectKey,
    pub(super) client: Client,
    pub(super) token: TokenFile,
    /// Published secrets. The watch starts when the first certificate is published.
    pub(super) secrets: watch::Receiver<Option<Arc<SecretMaterial>>>,
    /// Passes the updates to the renewal.
    pub(super) updates: mpsc::Sender<RootsUpdate>,
}

impl RootsWatch {
    /// Watches until the returned future is dropped or the sender of `secrets` is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while self.secrets.wait_for(Option::is_some).await.is_ok() {
            let pause = match self.forward_updates().await {
                Ok(()) => {
                    backoff.reset();
                    WATCH_RECONNECTION_SPREAD.mul_f64(fastrand::f64())
                }
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "watching the mesh's trust bundle failed"
                    );
                    match error.downcast_ref().map(Status::code) {
                        Some(Code::Unimplemented) => with_jitter(UNIMPLEMENTED_PAUSE),
                        Some(Code::FailedPrecondition) => with_jitter(MTLS_DISABLED_PAUSE),
                        _ => backoff.next(fastrand::f64()),
                    }
                }
            };
            sleep(pause).await;
        }
    }

    /// Forwards the updates of one stream until the stream ends. Fails if the stream ends without an update.
    async fn forward_updates(&self) -> anyhow::Result<()> {
        let opened = async {
            let mut stream = self.open().await?;
            let first_update = stream.message().await?;
            anyhow::Ok((stream, first_update))
        };
        let (mut stream, first_update) = timeout(CALL_TIMEOUT, opened)
            .await
            .with_context(|| format!("the control plane did not respond within {CALL_TIMEOUT:?}"))??;
        let mut next = Some(first_update.context("the stream ended without an update")?);
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

/// Returns 50 % to 100 % of a pause, so that proxies do not retry at the same time.
fn with_jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}
