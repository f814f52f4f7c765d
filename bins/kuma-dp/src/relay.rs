//! The ADS that Envoy sees on the unix socket. Its stream is passed on to the control plane, on one stream after another
//! when those end, and answered from the last good configuration while there is none. Resources are not decoded.

mod cache;
mod link;
mod session;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_protocol::ads::{
    DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST, SERVICE_NAME,
};
use kermode_protocol::rpc::Method;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use self::cache::Cache;
use self::link::{Event, Link};
use self::session::Session;
use crate::upstream::Upstream;

/// How long the control plane may take to answer an Envoy that has just started, before the last good configuration does.
/// It comes first, since what ended the last Envoy may have been that configuration.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many responses may wait for an Envoy that does not read.
const QUEUED: usize = 4;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay {
    upstream: Upstream,
    cache: Arc<Mutex<Cache>>,
}

/// A stream of Envoy's.
struct Relayed {
    relay: Relay,
    session: Session,
    link: Link,
    /// When the last good configuration has to do.
    patience: Option<Instant>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// Envoy has ended its stream.
struct Gone;

// === impl Relay ===

impl Relay {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            cache: Arc::new(Mutex::new(Cache::new(cache::LIMIT))),
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Relays one stream of Envoy's to its end.
    async fn relay(
        self,
        requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let relayed = Relayed {
            link: Link::new(self.upstream.clone()),
            relay: self,
            session: Session::default(),
            patience: None,
            responses,
        };
        let Gone = relayed.run(requests).await;
    }
}

// === impl Relayed ===

impl Relayed {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) -> Gone {
        loop {
            let step = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.on_request(request).await,
                    Some(Err(status)) => {
                        if status.code() == Code::OutOfRange {
                            tracing::error!("a request of Envoy's is too large: {}", status.message());
                        }
                        return Gone;
                    }
                    None => return Gone,
                },
                event = self.link.next(), if self.session.is_begun() => self.on_event(event).await,
                () = sleep_until(self.patience.unwrap_or_else(Instant::now)), if self.patience.is_some() => {
                    self.go_offline().await
                }
            };
            if let Err(gone) = step {
                return gone;
            }
        }
    }

    async fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Gone> {
        if !self.session.is_begun() {
            self.patience = Some(Instant::now() + PATIENCE);
        }
        let output = self.session.on_request(request, &mut self.relay.cache());
        if let Some(request) = output.request {
            self.link.send(request);
        }
        self.respond(output.responses).await
    }

    async fn on_event(&mut self, event: Event) -> Result<(), Gone> {
        match event {
            Event::Opening => {
                for request in self.session.on_open() {
                    self.link.send(request);
                }
                Ok(())
            }
            Event::Response(response) => {
                self.patience = None;
                let response = self.session.on_response(response);
                self.respond(vec![response]).await
            }
            Event::Closed => {
                self.session.on_closed();
                self.go_offline().await
            }
        }
    }

    async fn go_offline(&mut self) -> Result<(), Gone> {
        self.patience = None;
        let responses = self.session.go_offline(&self.relay.cache());
        self.respond(responses).await
    }

    async fn respond(&mut self, responses: Vec<DeltaDiscoveryResponse>) -> Result<(), Gone> {
        for response in responses {
            self.responses.send(Ok(response)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }
}

// === the gRPC service ===

impl StreamingService<DeltaDiscoveryRequest> for Relay {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (sender, receiver) = mpsc::channel(QUEUED);
        tokio::spawn(self.clone().relay(request.into_inner(), sender));
        Box::pin(async { Ok(Response::new(ReceiverStream::new(receiver).boxed())) })
    }
}

impl Method for Relay {
    const SERVICE: &'static str = SERVICE_NAME;
    const PATH: &'static str = DELTA_AGGREGATED_RESOURCES;

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            grpc.streaming(self, request).await
        })
    }
}
