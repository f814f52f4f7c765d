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
use kermode_protocol::removals::{SERVICE_NAME, WATCH_REMOVAL, WatchRemovalRequest, WatchRemovalResponse};
use kermode_protocol::rpc::Method;
use kermode_removals::{EndpointRemovals, PublishedSequence, RemovalReport, RemovalStatus, Replicas};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

/// The largest request, in bytes: it is empty.
const MAX_REQUEST: usize = 1024;

/// How many calls a proxy may have at once; one more ends the oldest. A sidecar makes one.
const EACH: usize = 4;
/// How many all proxies together may have: each looks every second how it stands.
const TOTAL: usize = 5_000;

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

fn response(report: &RemovalReport) -> WatchRemovalResponse {
    let (removed, unacknowledged_by, took) = match report.status {
        RemovalStatus::NotRemoved => (false, 0, None),
        RemovalStatus::Pending { proxies } => (true, proxies as u64, None),
        RemovalStatus::Acknowledged { after } => (true, 0, Some(after.as_millis())),
    };
    WatchRemovalResponse {
        removed,
        unacknowledged_by,
        took_ms: took.map_or(0, |took| took.try_into().unwrap_or(u64::MAX)),
        other_replicas: report.other_replicas.iter().map(ToString::to_string).collect(),
        complete: report.is_complete,
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
    const PATH: &'static str = WATCH_REMOVAL;

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

impl ServerStreamingService<WatchRemovalRequest> for WatchDeparture {
    type Response = WatchRemovalResponse;
    type ResponseStream = BoxStream<'static, Result<WatchRemovalResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchRemovalRequest>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let metadata = request.into_parts().0.into_headers();
            let identity = shared.authenticator.authenticate(&metadata).await?;
            // A terminating Pod still has its Dataplane; one whose name another Pod has by now has no say.
            shared.authenticator.authorize(&identity)?;
            let mut permit = shared.open.acquire_superseding(&identity.key).map_err(too_many)?;
            let (published, replicas) = (shared.published.clone(), shared.replicas.clone());
            let reports = shared.removals.watch(identity.key, published, replicas);
            let responses = reports.map(|report| Ok(response(&report)));
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
    use kermode_protocol::rpc::Rpc;

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
    async fn ask(removals: EndpointRemovals, token: &'static str) -> Result<WatchRemovalResponse, Code> {
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
        let mut request = Request::new(WatchRemovalRequest {});
        request
            .metadata_mut()
            .insert("authorization", token.parse().expect("a token"));
        let codec = ProstCodec::<WatchRemovalRequest, WatchRemovalResponse>::default();
        let path = PathAndQuery::from_static(WATCH_REMOVAL);
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
            let mut request = Request::new(WatchRemovalRequest {});
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
        assert!(told.is_finished(), "{told:?}");
        assert_eq!(told.other_replicas, ["10.0.0.2:5678"]);
        assert_eq!(ask(removals, "Bearer db").await, Err(Code::Unauthenticated));
    }
}
