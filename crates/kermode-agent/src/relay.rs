//! ADS server for Envoy on the unix socket. Relays Envoy's stream to the control plane over a sequence of upstream
//! streams. While the control plane does not respond, the relay responds from its cache of acknowledged resources.
//! Resources are not decoded.

mod cache;
mod session;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_protocol::ads::{
    DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST_SIZE, SERVICE_NAME,
};
use kermode_protocol::client::Client;
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use self::cache::Cache;
use self::session::Session;
use self::upstream::{Event, UpstreamStream};
use crate::metrics::{ConnectedGuard, SidecarMetrics};
use crate::token::TokenFile;

/// Time for which a new stream of Envoy waits for the control plane's first response before the cache responds. If the
/// stream to the control plane ends or cannot be opened, the cache responds immediately. The control plane has priority
/// because the cached configuration may have crashed the previous Envoy.
const CACHE_DELAY: Duration = Duration::from_secs(1);
/// Limit on responses that Envoy has not read yet. At the limit, the relay stops reading from the control plane.
const MAX_QUEUED_RESPONSES: usize = 4;

/// ADS service for Envoy; cheap to clone. All streams of Envoy share the cache.
#[derive(Clone)]
pub struct Relay {
    client: Client,
    token: TokenFile,
    cache: Arc<Mutex<Cache>>,
    metrics: SidecarMetrics,
}

/// One stream of Envoy.
struct RelayedStream {
    relay: Relay,
    session: Session,
    upstream: UpstreamStream,
    /// Time at which the cache responds. `None` before Envoy's first request, and once the cache or the control plane
    /// has responded.
    cache_deadline: Option<Instant>,
    /// Present from the control plane's first response on a stream until the stream ends.
    connected: Option<ConnectedGuard>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

/// Signals that Envoy ended its stream.
struct EnvoyEndedStream;

// === impl Relay ===

impl Relay {
    /// Returns a relay to the control plane that `client` calls with `token`. The relay records in `metrics` whether it is
    /// connected.
    pub fn new(client: Client, token: TokenFile, metrics: SidecarMetrics) -> Self {
        Self {
            client,
            token,
            cache: Arc::new(Mutex::new(Cache::new(cache::LIMIT))),
            metrics,
        }
    }

    /// Relays one stream of Envoy until Envoy ends it.
    async fn relay_stream(
        self,
        requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let relayed = RelayedStream {
            upstream: UpstreamStream::new(self.client.clone(), self.token.clone()),
            relay: self,
            session: Session::default(),
            cache_deadline: None,
            connected: None,
            responses,
        };
        let EnvoyEndedStream = relayed.run(requests).await;
    }
}

// === impl RelayedStream ===

impl RelayedStream {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) -> EnvoyEndedStream {
        loop {
            let result = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => self.on_request(request).await,
                    Some(Err(status)) => {
                        if status.code() == Code::OutOfRange {
                            tracing::error!("a request of Envoy is too large: {}", status.message());
                        }
                        return EnvoyEndedStream;
                    }
                    None => return EnvoyEndedStream,
                },
                event = self.upstream.next(), if self.session.has_subscriptions() => self.on_event(event).await,
                () = sleep_until(self.cache_deadline.unwrap_or_else(Instant::now)), if self.cache_deadline.is_some() => {
                    self.go_offline().await
                }
            };
            if let Err(ended) = result {
                return ended;
            }
        }
    }

    async fn on_request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), EnvoyEndedStream> {
        if !self.session.has_subscriptions() {
            self.cache_deadline = Some(Instant::now() + CACHE_DELAY);
        }
        let output = self.session.on_request(request, &mut self.relay.cache.lock());
        if let Some(request) = output.request {
            self.upstream.send(request);
        }
        self.respond(output.responses).await
    }

    async fn on_event(&mut self, event: Event) -> Result<(), EnvoyEndedStream> {
        match event {
            Event::Opening => {
                for request in self.session.on_opening() {
                    self.upstream.send(request);
                }
                Ok(())
            }
            Event::Response(response) => {
                self.cache_deadline = None;
                let metrics = &self.relay.metrics;
                self.connected.get_or_insert_with(|| metrics.connected());
                let response = self.session.on_response(response);
                self.respond(vec![response]).await
            }
            Event::Closed => {
                self.session.on_closed();
                self.connected = None;
                self.go_offline().await
            }
        }
    }

    /// Sends the cache's responses to Envoy, because the control plane does not respond.
    async fn go_offline(&mut self) -> Result<(), EnvoyEndedStream> {
        self.cache_deadline = None;
        let responses = self.session.go_offline(&self.relay.cache.lock());
        self.respond(responses).await
    }

    async fn respond(&mut self, responses: Vec<DeltaDiscoveryResponse>) -> Result<(), EnvoyEndedStream> {
        for response in responses {
            self.responses
                .send(Ok(response))
                .await
                .map_err(|_| EnvoyEndedStream)?;
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
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_RESPONSES);
        tokio::spawn(self.clone().relay_stream(request.into_inner(), sender));
        Box::pin(async { Ok(Response::new(ReceiverStream::new(receiver).boxed())) })
    }
}

impl GrpcService for Relay {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[DELTA_AGGREGATED_RESOURCES];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_SIZE);
            grpc.streaming(self, request).await
        })
    }
}
