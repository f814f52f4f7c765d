//! Streams that send the roots of a mesh and the fingerprint of the proxy's names to a proxy: one message at the start, and
//! one message after each change.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _, ready};
use kermode_authorities::RootsReceiver;
use kermode_identity::Entitlement;
use kermode_k8s::shared_index::{DataplaneChanges, SharedIndex};
use kermode_limit::{KeyedLimit, LimitReached, Permit};
use kermode_model::ObjectKey;
use kermode_protocol::certificates::{RootsUpdate, WatchRootsRequest};
use prometheus_client::metrics::gauge::Gauge;
use tonic::codec::{BufferSettings, Codec};
use tonic::server::ServerStreamingService;
use tonic::{Request, Response, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::limits::LimitedCall;
use super::{IssuanceState, MAX_MESSAGE_SIZE};
use crate::denial::Denial;

/// Maximum number of open streams in total, equal to the limit of ADS streams of a replica.
pub(super) const MAX_STREAMS: usize = 20_000;
/// Maximum number of open streams of one proxy. Two, because a proxy may reconnect before the control plane detects
/// that the connection of the first stream is broken.
pub(super) const MAX_STREAMS_PER_PROXY: usize = 2;

/// Initial size of the buffers of a stream, in bytes. A message with two roots fits. Every proxy has a stream, so
/// tonic's default of 8 KiB would take too much memory.
const BUFFER_SIZE: usize = 1536;

/// Stream that sends roots to one proxy.
struct RootsStream {
    updates: BoxStream<'static, RootsUpdate>,
    /// Gauge of open streams.
    open_streams: Gauge,
    _permit: Permit<ObjectKey>,
}

/// Names of a proxy, and notifications about changes of its Dataplane.
struct ProxyNames {
    proxy: ObjectKey,
    index: SharedIndex,
    changes: DataplaneChanges,
    /// Fingerprint of the names; 0 until the Dataplane is read.
    fingerprint: u64,
}

// === impl ProxyNames ===

impl ProxyNames {
    fn new(index: &SharedIndex, proxy: &ObjectKey) -> Self {
        Self {
            proxy: proxy.clone(),
            index: index.clone(),
            changes: index.changes_of(proxy),
            fingerprint: 0,
        }
    }

    /// Reads the names. Keeps the last ones while the Dataplane does not exist. Returns whether they have changed.
    fn read(&mut self) -> bool {
        let dataplane = self.index.read().view().dataplane(&self.proxy).cloned();
        let current = dataplane.map(|dataplane| Entitlement::of(&dataplane).fingerprint());
        let current = current.unwrap_or(self.fingerprint);
        std::mem::replace(&mut self.fingerprint, current) != current
    }
}

// === impl RootsStream ===

impl RootsStream {
    fn new(roots: RootsReceiver, names: ProxyNames, permit: Permit<ObjectKey>, open_streams: Gauge) -> Self {
        open_streams.inc();
        Self {
            updates: updates(roots, names),
            open_streams,
            _permit: permit,
        }
    }
}

impl Stream for RootsStream {
    type Item = Result<RootsUpdate, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let update = ready!(self.updates.poll_next_unpin(context));
        Poll::Ready(update.map(Ok))
    }
}

impl Drop for RootsStream {
    fn drop(&mut self) {
        self.open_streams.dec();
    }
}

/// Returns a stream with the current roots and names, and with the new ones after each change. The stream ends when the
/// mesh switches to another backend.
fn updates(mut roots: RootsReceiver, names: ProxyNames) -> BoxStream<'static, RootsUpdate> {
    // The current roots are the first message.
    roots.mark_changed();
    futures::stream::unfold((roots, names), |(mut roots, mut names)| async move {
        loop {
            tokio::select! {
                changed = roots.changed() => {
                    changed.ok()?;
                    names.read();
                }
                () = names.changes.changed() => {
                    if !names.read() {
                        continue;
                    }
                }
            }
            let published = roots.borrow_and_update().clone();
            // `None` before the first publication.
            if let Some(update) = published {
                let update = RootsUpdate {
                    names: names.fingerprint,
                    ..(*update).clone()
                };
                return Some((update, (roots, names)));
            }
        }
    })
    .boxed()
}

/// Protobuf codec with an initial buffer size of [`BUFFER_SIZE`] bytes. Messages that are ready at the same time are
/// sent together, up to [`MAX_MESSAGE_SIZE`] bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RootsCodec;

impl Codec for RootsCodec {
    type Encode = RootsUpdate;
    type Decode = WatchRootsRequest;
    type Encoder = ProstEncoder<RootsUpdate>;
    type Decoder = ProstDecoder<WatchRootsRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_SIZE, MAX_MESSAGE_SIZE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_SIZE, MAX_MESSAGE_SIZE))
    }
}

/// Method `WatchRoots` of the service.
pub(super) struct WatchRoots(pub(super) Arc<IssuanceState>);

impl ServerStreamingService<WatchRootsRequest> for WatchRoots {
    type Response = RootsUpdate;
    type ResponseStream = BoxStream<'static, Result<RootsUpdate, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchRootsRequest>) -> Self::Future {
        let state = self.0.clone();
        async move {
            let claimed_name = request.get_ref().name.clone();
            match state.watch_roots(request).await {
                Ok(stream) => Ok(Response::new(stream.boxed())),
                Err(denial) => {
                    state.metrics.count_denied_stream(&denial);
                    Err(state.deny(&denial, Some(&claimed_name)))
                }
            }
        }
        .boxed()
    }
}

impl IssuanceState {
    /// Opens a stream of roots for an authenticated proxy.
    async fn watch_roots(&self, request: Request<WatchRootsRequest>) -> Result<RootsStream, Denial> {
        let (metadata, _, request) = request.into_parts();
        let (proxy, caller) = self
            .authenticate(LimitedCall::WatchRoots, metadata, &request.name)
            .await?;
        self.rate_limits.lock().take_stream(caller, Instant::now())?;
        // Before the Dataplane is read, so that no change is missed.
        let names = ProxyNames::new(&self.index, &proxy);
        let (_, mesh, mtls) = self.find_dataplane_and_mesh(&proxy, &request.mesh)?;
        let permit = self.stream_limit.try_acquire(&proxy)?;
        let plan = self.rotation_plan(&mesh, &mtls).await?;
        // Without a publication, the stream would have no first message.
        self.authorities.publish(&mesh.name, &mtls, &plan);
        let roots = self.authorities.roots(&mesh.name, &mtls.backend);
        Ok(RootsStream::new(
            roots,
            names,
            permit,
            self.metrics.streams.clone(),
        ))
    }
}

impl From<LimitReached> for Denial {
    fn from(_: LimitReached) -> Self {
        Self::TooManyStreams
    }
}

/// Creates the limit on open streams.
pub(super) fn stream_limit() -> KeyedLimit<ObjectKey> {
    KeyedLimit::new(MAX_STREAMS_PER_PROXY, MAX_STREAMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(limit: &KeyedLimit<ObjectKey>, proxy: &ObjectKey, gauge: &Gauge) -> Result<RootsStream, Denial> {
        let roots = tokio::sync::watch::channel(None).1;
        let names = ProxyNames::new(&SharedIndex::default(), proxy);
        let permit = limit.try_acquire(proxy)?;
        Ok(RootsStream::new(roots, names, permit, gauge.clone()))
    }

    #[test]
    fn proxy_may_have_two_streams_and_an_ended_stream_is_not_counted() {
        let (limit, gauge) = (stream_limit(), Gauge::default());
        let proxy = ObjectKey::new("shop", "web");
        let first = open(&limit, &proxy, &gauge).expect("below the limit");
        let second = open(&limit, &proxy, &gauge).expect("below the limit");
        assert!(matches!(
            open(&limit, &proxy, &gauge),
            Err(Denial::TooManyStreams)
        ));
        assert!(open(&limit, &ObjectKey::new("shop", "other"), &gauge).is_ok());
        drop(first);
        assert!(open(&limit, &proxy, &gauge).is_ok());
        drop(second);
        assert_eq!((gauge.get(), limit.key_count()), (0, 0));
    }

    #[test]
    fn total_number_of_streams_is_limited() {
        let (limit, gauge) = (stream_limit(), Gauge::default());
        let proxies = (0..MAX_STREAMS).map(|number| ObjectKey::new("shop", number.to_string()));
        let opened: Vec<_> = proxies
            .map(|proxy| open(&limit, &proxy, &gauge).expect("below the limit"))
            .collect();
        let one_more = ObjectKey::new("shop", "more");
        assert!(matches!(
            open(&limit, &one_more, &gauge),
            Err(Denial::TooManyStreams)
        ));
        drop(opened);
        assert!(open(&limit, &one_more, &gauge).is_ok());
    }
}
