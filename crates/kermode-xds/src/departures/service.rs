//! The API by which a departing sidecar learns whether requests may still come: one server-streaming gRPC call.
//!
//! Proxies authenticate as they do for ADS. The first answer comes at once, the next ones whenever something changed, until
//! the caller has heard enough. Replicas do not talk to each other: each answer names the others, and the caller asks
//! them as well.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use kermode_authentication::Authenticator;
use kermode_limit::{KeyedLimit, LimitReached};
use kermode_model::ObjectKey;
use kermode_removals::{EndpointRemovals, PublishedSequence, RemovalReport, RemovalStatus, Replicas};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

use crate::rpc::Method;

/// Path of the call.
pub const WATCH_DEPARTURE: &str = "/kermode.departure.v1.DepartureService/WatchDeparture";
/// Name of the gRPC service.
pub const SERVICE_NAME: &str = "kermode.departure.v1.DepartureService";

/// The largest request, in bytes: it is empty.
const MAX_REQUEST: usize = 1024;

/// How many calls a proxy may have at once; one more ends the oldest. A sidecar makes one.
const EACH: usize = 4;
/// How many all proxies together may have: each looks every second how it stands.
const TOTAL: usize = 5_000;

/// Asks about the caller's own endpoint.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WatchDepartureRequest {}

/// How the departure stands, as far as this replica knows.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchDepartureResponse {
    /// Whether the control plane knows that the endpoint departs.
    #[prost(bool, tag = "1")]
    pub departing: bool,
    /// How many proxies have not acknowledged its removal. With `departing` and 0, none of those that are connected to
    /// this replica will begin a request any more.
    #[prost(uint64, tag = "2")]
    pub known_by: u64,
    /// How long it took until nobody had it, in milliseconds; 0 before that.
    #[prost(uint64, tag = "3")]
    pub took_ms: u64,
    /// Addresses (`<ip>:<port>`) at which the other replicas answer this call, each for the proxies that it has.
    #[prost(string, repeated, tag = "4")]
    pub others: Vec<String>,
    /// Whether nobody can have been missed, because no replica began or ended within the last minute.
    #[prost(bool, tag = "5")]
    pub complete: bool,
}

/// The service; cheap to clone.
#[derive(Clone)]
pub struct DepartureService {
    shared: Arc<Shared>,
}

struct Shared {
    removals: EndpointRemovals,
    published: Arc<PublishedSequence>,
    replicas: watch::Receiver<Replicas>,
    authenticator: Box<dyn Authenticator>,
    open: KeyedLimit<ObjectKey>,
}

// === impl WatchDepartureResponse ===

impl WatchDepartureResponse {
    /// Whether none of the proxies that are connected to this replica will begin a request any more, and nobody can have
    /// been missed.
    pub fn is_over(&self) -> bool {
        self.departing && self.known_by == 0 && self.complete
    }
}

impl From<RemovalReport> for WatchDepartureResponse {
    fn from(report: RemovalReport) -> Self {
        let (departing, known_by, took) = match report.status {
            RemovalStatus::NotRemoved => (false, 0, None),
            RemovalStatus::Pending { proxies } => (true, proxies as u64, None),
            RemovalStatus::Acknowledged { after } => (true, 0, Some(after.as_millis())),
        };
        Self {
            departing,
            known_by,
            took_ms: took.map_or(0, |took| took.try_into().unwrap_or(u64::MAX)),
            others: report.other_replicas.iter().map(ToString::to_string).collect(),
            complete: report.is_complete,
        }
    }
}

// === impl DepartureService ===

impl DepartureService {
    /// Answers from that account.
    pub fn new(
        removals: EndpointRemovals,
        published: Arc<PublishedSequence>,
        replicas: watch::Receiver<Replicas>,
        authenticator: impl Authenticator,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                removals,
                published,
                replicas,
                authenticator: Box::new(authenticator),
                open: KeyedLimit::new(EACH, TOTAL),
            }),
        }
    }
}

impl std::fmt::Debug for DepartureService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DepartureService").finish_non_exhaustive()
    }
}

impl Method for DepartureService {
    const SERVICE: &'static str = SERVICE_NAME;
    const PATH: &'static str = WATCH_DEPARTURE;

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        let method = WatchDeparture(self.shared);
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            grpc.server_streaming(method, request).await
        })
    }
}

struct WatchDeparture(Arc<Shared>);

impl ServerStreamingService<WatchDepartureRequest> for WatchDeparture {
    type Response = WatchDepartureResponse;
    type ResponseStream = BoxStream<'static, Result<WatchDepartureResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchDepartureRequest>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let metadata = request.into_parts().0.into_headers();
            let identity = shared.authenticator.authenticate(&metadata).await?;
            // A terminating Pod still has its Dataplane; one whose name another Pod has by now has no say.
            shared.authenticator.authorize(&identity)?;
            let mut permit = shared.open.acquire_superseding(&identity.key).map_err(too_many)?;
            let (published, replicas) = (shared.published.clone(), shared.replicas.clone());
            let reports = shared.removals.watch(identity.key, published, replicas);
            let responses = reports.map(|report| Ok(report.into()));
            let revoked = async move { permit.revoked().await };
            Ok(Response::new(responses.take_until(revoked.boxed()).boxed()))
        })
    }
}

fn too_many(reached: LimitReached) -> Status {
    let (LimitReached::Total(most) | LimitReached::PerKey(most)) = reached;
    Status::resource_exhausted(format!("{most} proxies ask about their departure already"))
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use kermode_authentication::ProxyIdentity;
    use tonic::Code;
    use tonic::client::Grpc as Client;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::rpc::Rpc;

    /// Lets the Pod `web` in.
    struct Gate;

    impl Authenticator for Gate {
        fn authenticate<'a>(
            &'a self,
            metadata: &'a http::HeaderMap,
        ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
            let known = metadata
                .get("authorization")
                .is_some_and(|token| token == "Bearer web");
            let identity = ProxyIdentity {
                key: web(),
                service_account: "web".into(),
                uid: "1".into(),
            };
            let answer = known
                .then_some(identity)
                .ok_or_else(|| Status::unauthenticated("who are you?"));
            Box::pin(async { answer })
        }

        fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
            Ok(())
        }
    }

    fn web() -> ObjectKey {
        ObjectKey::new("shop", "web")
    }

    /// The first answer.
    async fn ask(removals: EndpointRemovals, token: &'static str) -> Result<WatchDepartureResponse, Code> {
        let other = ["10.0.0.2:5678".parse().expect("an address")];
        let (_sender, replicas) = watch::channel(Replicas {
            others: other.into(),
            unchanged_since: Some(tokio::time::Instant::now() - std::time::Duration::from_mins(1)),
            ..Replicas::default()
        });
        let service = Rpc(DepartureService::new(
            removals,
            Arc::new(|_| None),
            replicas,
            Gate,
        ));
        let mut request = Request::new(WatchDepartureRequest {});
        request
            .metadata_mut()
            .insert("authorization", token.parse().expect("a token"));
        let codec = ProstCodec::<WatchDepartureRequest, WatchDepartureResponse>::default();
        let path = PathAndQuery::from_static(WATCH_DEPARTURE);
        let answers = Client::new(service).server_streaming(request, path, codec).await;
        let mut answers = answers.map_err(|status| status.code())?.into_inner();
        let first = answers.message().await.map_err(|status| status.code())?;
        Ok(first.expect("an answer"))
    }

    #[tokio::test]
    async fn a_proxy_that_asks_again_and_again_has_few_calls_open() {
        let (_sender, replicas) = watch::channel(Replicas::default());
        let service = DepartureService::new(EndpointRemovals::default(), Arc::new(|_| None), replicas, Gate);
        let mut open = Vec::new();
        for _ in 0..=EACH {
            let mut request = Request::new(WatchDepartureRequest {});
            let token = "Bearer web".parse().expect("a token");
            request.metadata_mut().insert("authorization", token);
            let answers = WatchDeparture(service.shared.clone()).call(request).await;
            let mut answers = answers.expect("answers").into_inner();
            answers.next().await.expect("an answer").expect("good");
            open.push(answers);
        }
        assert!(open[0].next().await.is_none(), "the oldest has ended");
        let second = futures::poll!(open[1].next());
        assert!(second.is_pending(), "{second:?}");
        drop(open);
        assert_eq!(service.shared.open.keys(), 0);
    }

    #[tokio::test]
    async fn the_departing_pod_is_told_and_a_stranger_is_not() {
        let removals = EndpointRemovals::default();
        removals.endpoint_added(web(), "default".into());
        removals.endpoint_removed(&web(), |_| 1);
        let told = ask(removals.clone(), "Bearer web").await.expect("an answer");
        assert!(told.is_over(), "{told:?}");
        assert_eq!(told.others, ["10.0.0.2:5678"]);
        assert_eq!(ask(removals, "Bearer db").await, Err(Code::Unauthenticated));
    }
}
