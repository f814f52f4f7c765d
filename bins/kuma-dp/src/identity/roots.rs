//! Follows the roots of the mesh on a stream of the control plane, so that a new root is trusted at once and not only
//! with the next certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::uri::PathAndQuery;
use kermode_model::{MeshName, ObjectKey};
use kermode_protocol::certificates::{RootsUpdate, WATCH_ROOTS, WatchRootsRequest};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::PATIENCE;
use crate::backoff::Backoff;
use crate::sds::Identity;
use crate::token::TokenFile;

/// The wait after the answer of a control plane that does not know the call yet. Certificates come with their roots all
/// the same.
const UNKNOWN_CALL: Duration = Duration::from_mins(5);
/// The wait while the mesh has no mTLS. Less than a new root waits before the first certificate needs it, since mTLS may be
/// switched on again and the CA replaced before this proxy's certificate is.
const SWITCHED_OFF: Duration = Duration::from_secs(30);
/// Over how long the proxies of a control plane that vanished spread. Configuration and certificates are more urgent, and
/// each stream costs the API server a review of the token.
const LOST: Duration = Duration::from_secs(30);
/// Roots are a few kilobytes.
const MAX_MESSAGE: usize = 256 * 1024;

/// What it takes to follow.
pub(super) struct Following {
    pub(super) mesh: MeshName,
    pub(super) proxy: ObjectKey,
    pub(super) channel: Channel,
    pub(super) token: TokenFile,
    /// Without a certificate there is nothing to follow.
    pub(super) identity: watch::Receiver<Option<Arc<Identity>>>,
    /// Where updates go.
    pub(super) updates: mpsc::Sender<RootsUpdate>,
}

impl Following {
    /// Follows until dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        while self.identity.wait_for(Option::is_some).await.is_ok() {
            let wait = match self.follow().await {
                Ok(()) => {
                    backoff.reset();
                    LOST.mul_f64(fastrand::f64())
                }
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "roots of the mesh cannot be followed"
                    );
                    let declined = match error.downcast_ref().map(Status::code) {
                        Some(Code::Unimplemented) => Some(UNKNOWN_CALL),
                        Some(Code::FailedPrecondition) => Some(SWITCHED_OFF),
                        _ => None,
                    };
                    match declined {
                        Some(wait) => wait.mul_f64(0.5 + fastrand::f64() / 2.0),
                        None => backoff.next(fastrand::f64()),
                    }
                }
            };
            sleep(wait).await;
        }
    }

    /// Follows one stream to its end; an error if it told nothing.
    async fn follow(&self) -> anyhow::Result<()> {
        let first = async {
            let mut stream = self.open().await?;
            let first = stream.message().await?;
            anyhow::Ok((stream, first))
        };
        let first = timeout(PATIENCE, first).await;
        let (mut stream, first) =
            first.with_context(|| format!("the control plane did not answer within {PATIENCE:?}"))??;
        let mut next = Some(first.context("the stream ended without a word")?);
        while let Some(update) = next {
            if self.updates.send(update).await.is_err() {
                break;
            }
            next = match stream.message().await {
                Ok(message) => message,
                Err(status) => {
                    tracing::debug!(code = ?status.code(), "stream of roots ended: {}", status.message());
                    None
                }
            };
        }
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<Streaming<RootsUpdate>> {
        let mut request = Request::new(WatchRootsRequest {
            mesh: self.mesh.to_string(),
            name: self.proxy.proxy_name(),
        });
        request
            .metadata_mut()
            .insert("authorization", self.token.authorization().await?);
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        client.ready().await.context("connecting to the control plane")?;
        let codec = ProstCodec::<WatchRootsRequest, RootsUpdate>::default();
        let path = PathAndQuery::from_static(WATCH_ROOTS);
        Ok(client.server_streaming(request, path, codec).await?.into_inner())
    }
}
