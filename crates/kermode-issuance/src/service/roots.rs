//! Streams that tell proxies of the roots of their mesh: at once, and whenever they change.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use kermode_model::ObjectKey;
use kermode_protocol::certificates::{RootsUpdate, WatchRootsRequest};
use prometheus_client::metrics::gauge::Gauge;
use tonic::codec::{BufferSettings, Codec};
use tonic::server::ServerStreamingService;
use tonic::{Request, Response, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::refusal::Refusal;
use super::{MAX_MESSAGE, Shared};
use kermode_authorities::Roots;

/// Streams in all: one for each connection that proxies may have.
const TOTAL: usize = 20_000;
/// Streams of one proxy: one, and one that is not known to be broken yet.
const EACH: usize = 2;

/// Two roots and what is around them, in bytes.
const BUFFER: usize = 1536;

/// Counts open streams.
#[derive(Debug, Default)]
pub(super) struct Open {
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    total: usize,
    each: HashMap<ObjectKey, usize>,
}

/// One open stream.
struct Place {
    open: Arc<Open>,
    proxy: ObjectKey,
    gauge: Gauge,
}

// === impl Open ===

impl Open {
    fn enter(self: &Arc<Self>, proxy: &ObjectKey, gauge: &Gauge) -> Result<Place, Refusal> {
        let mut count = self.count();
        let mine = count.each.get(proxy).copied().unwrap_or_default();
        if count.total >= TOTAL || mine >= EACH {
            return Err(Refusal::Streams);
        }
        count.total += 1;
        count.each.insert(proxy.clone(), mine + 1);
        gauge.inc();
        Ok(Place {
            open: self.clone(),
            proxy: proxy.clone(),
            gauge: gauge.clone(),
        })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut count = self.open.count();
        count.total -= 1;
        if let Some(mine) = count.each.get_mut(&self.proxy) {
            *mine -= 1;
            if *mine == 0 {
                count.each.remove(&self.proxy);
            }
        }
    }
}

// === the stream ===

/// What a proxy gets: little, since every proxy has one.
struct Updates {
    roots: BoxStream<'static, Arc<RootsUpdate>>,
    _place: Place,
}

impl Stream for Updates {
    type Item = Result<RootsUpdate, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let update = self.roots.poll_next_unpin(context);
        update.map(|update| update.map(|update| Ok((*update).clone())))
    }
}

/// Now and whenever they change; ends when the mesh has another backend.
fn follow(roots: Roots) -> BoxStream<'static, Arc<RootsUpdate>> {
    let mut first = roots;
    first.mark_changed();
    futures::stream::unfold(first, |mut roots| async move {
        loop {
            roots.changed().await.ok()?;
            let update = roots.borrow_and_update().clone();
            if let Some(update) = update {
                return Some((update, roots));
            }
        }
    })
    .boxed()
}

/// Protobuf with buffers of a few roots: tonic's own are 8 KiB, and every proxy holds one for as long as it is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct RootsCodec;

impl Codec for RootsCodec {
    type Encode = RootsUpdate;
    type Decode = WatchRootsRequest;
    type Encoder = ProstEncoder<RootsUpdate>;
    type Decoder = ProstDecoder<WatchRootsRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, MAX_MESSAGE))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, MAX_MESSAGE))
    }
}

/// The method.
pub(super) struct WatchRoots(pub(super) Arc<Shared>);

impl ServerStreamingService<WatchRootsRequest> for WatchRoots {
    type Response = RootsUpdate;
    type ResponseStream = BoxStream<'static, Result<RootsUpdate, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchRootsRequest>) -> Self::Future {
        let shared = self.0.clone();
        async move {
            let name = request.get_ref().name.clone();
            let opened = shared.watch(request).await;
            opened
                .map(|updates| Response::new(updates.boxed()))
                .map_err(|refusal| {
                    shared.metrics.stream_refused(&refusal);
                    shared.refuse(&refusal, &name)
                })
        }
        .boxed()
    }
}

impl Shared {
    async fn watch(
        &self,
        request: Request<WatchRootsRequest>,
    ) -> Result<impl Stream<Item = Result<RootsUpdate, Status>> + Send + use<>, Refusal> {
        let (metadata, _, request) = request.into_parts();
        let (proxy, _) = self.authenticate(metadata, &request.name).await?;
        let (_, mesh, mtls) = self.mesh_of(&proxy, &request.mesh)?;
        let place = self.open.enter(&proxy, &self.metrics.streams)?;
        let succession = self.authority(&mesh, &mtls).await?;
        self.authorities.publish(&mesh.name, &mtls, &succession);
        Ok(Updates {
            roots: follow(self.authorities.roots(&mesh.name, &mtls.backend)),
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_proxy_has_two_streams_and_gives_them_back() {
        let (open, gauge) = (Arc::new(Open::default()), Gauge::default());
        let proxy = ObjectKey::new("shop", "web");
        let first = open.enter(&proxy, &gauge).expect("room");
        let second = open.enter(&proxy, &gauge).expect("room");
        assert!(matches!(open.enter(&proxy, &gauge), Err(Refusal::Streams)));
        assert!(open.enter(&ObjectKey::new("shop", "other"), &gauge).is_ok());
        drop(first);
        assert!(open.enter(&proxy, &gauge).is_ok());
        drop(second);
        assert_eq!((gauge.get(), open.count().each.len()), (0, 0));
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let (open, gauge) = (Arc::new(Open::default()), Gauge::default());
        let proxies = (0..TOTAL).map(|number| ObjectKey::new("shop", number.to_string()));
        let places: Vec<_> = proxies
            .map(|proxy| open.enter(&proxy, &gauge).expect("room"))
            .collect();
        let one_more = ObjectKey::new("shop", "more");
        assert!(matches!(open.enter(&one_more, &gauge), Err(Refusal::Streams)));
        drop(places);
        assert!(open.enter(&one_more, &gauge).is_ok());
    }
}
