//! The ADS that Envoy sees on the unix socket: every stream of Envoy's is passed on to the control plane, and ends
//! when that one does. Resources are not decoded.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use kermode_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST, SERVICE_NAME};
use tokio::time::sleep;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::backoff::Backoff;
use crate::upstream::Upstream;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay {
    upstream: Upstream,
    backoff: Arc<Mutex<Backoff>>,
}

/// A stream that is relayed.
struct State {
    relay: Relay,
    responses: BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>,
    /// Whether a response has come.
    connected: bool,
}

impl Relay {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            backoff: Arc::default(),
        }
    }

    /// Relays one stream of Envoy's.
    async fn open(
        self,
        requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>, Status> {
        let requests = requests.filter_map(|request| {
            let request = request.inspect_err(|status| {
                if status.code() == Code::OutOfRange {
                    tracing::error!("a request of Envoy's is too large: {}", status.message());
                }
            });
            std::future::ready(request.ok())
        });
        match self.upstream.open(requests).await {
            Ok(responses) => Ok(self.relay(responses).boxed()),
            Err(error) => {
                let code = error.downcast_ref().map_or(Code::Unavailable, Status::code);
                self.wait(code, &format!("{error:#}")).await;
                Err(Status::unavailable("the control plane cannot be reached"))
            }
        }
    }

    /// Passes responses on. The control plane refuses inside the stream, so only a response says that it is well.
    fn relay(
        self,
        responses: impl Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send + 'static {
        let state = State {
            relay: self,
            responses: Box::pin(responses),
            connected: false,
        };
        stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            let response = state.responses.next().await;
            if state.connected {
                return response.map(|response| (response, Some(state)));
            }
            let refused = match response {
                Some(Ok(response)) => {
                    state.connected = true;
                    tracing::info!("connected to the control plane");
                    state.relay.with_backoff(Backoff::reset);
                    return Some((Ok(response), Some(state)));
                }
                Some(Err(status)) => status,
                None => Status::unavailable("the control plane ended the stream without a response"),
            };
            state.relay.wait(refused.code(), refused.message()).await;
            Some((Err(refused), None))
        })
    }

    /// Envoy tries again almost at once after an error, so the error is what has to wait.
    async fn wait(&self, code: Code, error: &str) {
        let jitter = fastrand::f64();
        let wait = self.with_backoff(|backoff| match code {
            Code::NotFound => backoff.next_early(jitter),
            _ => backoff.next(jitter),
        });
        tracing::warn!(?code, error, ?wait, "no configuration from the control plane");
        sleep(wait).await;
    }

    fn with_backoff<T>(&self, change: impl FnOnce(&mut Backoff) -> T) -> T {
        change(&mut self.backoff.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Relay {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(Response::new(relay.open(request.into_inner()).await?)) })
    }
}

impl NamedService for Relay {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Relay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.streaming(relay, request).await)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures::FutureExt as _;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::token::TokenFile;

    type Item = Result<DeltaDiscoveryResponse, Status>;

    fn mk_relay() -> Relay {
        let nowhere = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Relay::new(Upstream::new(nowhere, TokenFile::new(PathBuf::new())))
    }

    /// Relays a stream to its end; whether anything came without a wait, and how it ended.
    async fn relayed(relay: &Relay, items: Vec<Item>) -> (bool, Option<Code>) {
        let responses = stream::iter(items).chain(stream::pending());
        let mut relayed = Box::pin(relay.clone().relay(responses));
        let at_once = relayed.next().now_or_never();
        let is_at_once = at_once.is_some();
        let mut last = at_once.flatten();
        while let Some(Ok(_)) | None = last {
            last = relayed.next().await;
        }
        (is_at_once, last.and_then(Result::err).map(|status| status.code()))
    }

    fn failures(relay: &Relay) -> Backoff {
        relay.with_backoff(|backoff| backoff.clone())
    }

    fn after(failures: usize) -> Backoff {
        let mut backoff = Backoff::default();
        for _ in 0..failures {
            backoff.next(0.0);
        }
        backoff
    }

    #[tokio::test]
    async fn a_refusal_inside_the_stream_waits_and_counts_until_a_response_comes() {
        let relay = mk_relay();
        for refusals in 1..=2 {
            let refused = relayed(&relay, vec![Err(Status::unauthenticated("who?"))]).await;
            assert_eq!(refused, (false, Some(Code::Unauthenticated)));
            assert_eq!(failures(&relay), after(refusals));
        }
        let response = Ok(DeltaDiscoveryResponse::default());
        let broken = Err(Status::unavailable("this replica shuts down"));
        let served = relayed(&relay, vec![response, broken]).await;
        assert_eq!(served, (true, Some(Code::Unavailable)));
        assert_eq!(failures(&relay), after(0));
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_a_response_is_a_failure() {
        let relay = mk_relay();
        let mut relayed = Box::pin(relay.clone().relay(stream::empty()));
        assert!(relayed.next().now_or_never().is_none(), "it waits");
        let status = relayed.next().await.expect("an end").expect_err("a failure");
        assert_eq!(status.code(), Code::Unavailable);
        assert!(relayed.next().await.is_none());
        assert_eq!(failures(&relay), after(1));
    }
}
