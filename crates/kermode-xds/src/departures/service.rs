//! The API by which a departing sidecar learns whether requests may still come: one server-streaming gRPC call.
//!
//! Proxies authenticate as they do for ADS. The first answer comes at once, the next ones when something changed, the
//! last one when every proxy that is connected to this replica has acknowledged the removal.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

use super::{Departures, Standing};
use crate::rpc::Method;
use crate::server::Authenticator;

/// Path of the call.
pub const WATCH_DEPARTURE: &str = "/kermode.departure.v1.DepartureService/WatchDeparture";
/// Name of the gRPC service.
pub const SERVICE_NAME: &str = "kermode.departure.v1.DepartureService";

/// The largest request, in bytes: it is empty.
const MAX_REQUEST: usize = 1024;

/// Asks about the caller's own endpoint.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WatchDepartureRequest {}

/// How the departure stands.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct WatchDepartureResponse {
    /// Whether the control plane knows that the endpoint departs.
    #[prost(bool, tag = "1")]
    pub departing: bool,
    /// How many proxies have not acknowledged its removal. With `departing` and 0, nobody will begin a request any
    /// more, and this is the last answer.
    #[prost(uint64, tag = "2")]
    pub known_by: u64,
    /// How long it took until nobody had it, in milliseconds; 0 before that.
    #[prost(uint64, tag = "3")]
    pub took_ms: u64,
}

/// The service; cheap to clone.
#[derive(Clone)]
pub struct DepartureService {
    shared: Arc<Shared>,
}

struct Shared {
    departures: Departures,
    authenticator: Box<dyn Authenticator>,
}

// === impl WatchDepartureResponse ===

impl WatchDepartureResponse {
    /// Whether nobody will begin a request any more.
    pub fn is_over(&self) -> bool {
        self.departing && self.known_by == 0
    }
}

impl From<Standing> for WatchDepartureResponse {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Present => Self::default(),
            Standing::Known { by } => Self {
                departing: true,
                known_by: by as u64,
                took_ms: 0,
            },
            Standing::Forgotten { took } => Self {
                departing: true,
                known_by: 0,
                took_ms: took.as_millis().try_into().unwrap_or(u64::MAX),
            },
        }
    }
}

// === impl DepartureService ===

impl DepartureService {
    /// Answers from that account.
    pub fn new(departures: Departures, authenticator: impl Authenticator) -> Self {
        Self {
            shared: Arc::new(Shared {
                departures,
                authenticator: Box::new(authenticator),
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
            let told = shared
                .departures
                .watch(identity.key)
                .map(|standing| Ok(standing.into()));
            Ok(Response::new(told.boxed()))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use kermode_model::ObjectKey;
    use tonic::Code;
    use tonic::client::Grpc as Client;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::rpc::Rpc;
    use crate::server::ProxyIdentity;

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

    async fn ask(departures: Departures, token: &'static str) -> Result<Vec<WatchDepartureResponse>, Code> {
        let service = Rpc(DepartureService::new(departures, Gate));
        let mut request = Request::new(WatchDepartureRequest {});
        request
            .metadata_mut()
            .insert("authorization", token.parse().expect("a token"));
        let codec = ProstCodec::<WatchDepartureRequest, WatchDepartureResponse>::default();
        let path = PathAndQuery::from_static(WATCH_DEPARTURE);
        let answers = Client::new(service).server_streaming(request, path, codec).await;
        let mut answers = answers.map_err(|status| status.code())?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await.map_err(|status| status.code())? {
            all.push(answer);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn the_departing_pod_is_told_and_a_stranger_is_not() {
        let departures = Departures::default();
        departures.arrive(web(), "default".into());
        departures.depart(&web(), |_| 1);
        let told = ask(departures.clone(), "Bearer web").await.expect("answers");
        assert!(told.len() == 1 && told[0].is_over(), "{told:?}");
        assert_eq!(ask(departures, "Bearer db").await, Err(Code::Unauthenticated));
    }
}
