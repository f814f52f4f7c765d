//! Tests of the removal service, with an authenticator that accepts one token.

use http::uri::PathAndQuery;
use kermode_authentication::ProxyIdentity;
use kermode_protocol::rpc::Rpc;
use tonic::Code;
use tonic::client::Grpc as Client;
use tonic_prost::ProstCodec;

use super::*;
use crate::replicas::RECONNECT_TIMEOUT;

/// Authenticates the Pod `web` by the token `web`.
struct WebAuthenticator;

impl Authenticator for WebAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        let is_web = metadata
            .get("authorization")
            .is_some_and(|value| value == "Bearer web");
        let identity = ProxyIdentity {
            key: web_key(),
            service_account: "web".into(),
            uid: "1".into(),
        };
        let result = is_web
            .then_some(identity)
            .ok_or_else(|| Status::unauthenticated("unknown token"));
        Box::pin(async { result })
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        Ok(())
    }
}

/// Returns the key of the Pod that the authenticator accepts.
fn web_key() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

fn request(authorization: &'static str) -> Request<WatchRemovalRequest> {
    let mut request = Request::new(WatchRemovalRequest {});
    let authorization = authorization.parse().expect("a header value");
    request.metadata_mut().insert("authorization", authorization);
    request
}

/// Calls a service that knows one other replica. Returns the first response.
async fn first_response(
    removals: EndpointRemovals,
    authorization: &'static str,
) -> Result<WatchRemovalResponse, Code> {
    let others = ["10.0.0.2:5678".parse().expect("an address")];
    let (_sender, replicas) = watch::channel(Replicas {
        others: others.into(),
        unchanged_since: Some(tokio::time::Instant::now() - RECONNECT_TIMEOUT),
        ..Replicas::default()
    });
    let service = RemovalService::new(removals, Arc::new(|_| None), replicas, WebAuthenticator);
    let codec = ProstCodec::<WatchRemovalRequest, WatchRemovalResponse>::default();
    let path = PathAndQuery::from_static(WATCH_REMOVAL);
    let mut client = Client::new(Rpc(service));
    let responses = client.server_streaming(request(authorization), path, codec).await;
    let mut responses = responses.map_err(|status| status.code())?.into_inner();
    let first = responses.message().await.map_err(|status| status.code())?;
    Ok(first.expect("a response"))
}

#[tokio::test]
async fn call_above_the_limit_of_a_proxy_supersedes_its_oldest_call() {
    let (_sender, replicas) = watch::channel(Replicas::default());
    let service = RemovalService::new(
        EndpointRemovals::default(),
        Arc::new(|_| None),
        replicas,
        WebAuthenticator,
    );
    let mut response_streams = Vec::new();
    for _ in 0..=MAX_CALLS_PER_PROXY {
        let call = WatchRemoval(service.inner.clone()).call(request("Bearer web"));
        let mut responses = call.await.expect("an accepted call").into_inner();
        responses
            .next()
            .await
            .expect("a response")
            .expect("a stream without an error");
        response_streams.push(responses);
    }
    assert!(
        response_streams[0].next().await.is_none(),
        "the oldest call has ended"
    );
    let second_stream = futures::poll!(response_streams[1].next());
    assert!(second_stream.is_pending(), "{second_stream:?}");
    drop(response_streams);
    assert_eq!(service.inner.calls.key_count(), 0);
}

#[tokio::test]
async fn only_the_authenticated_pod_gets_the_status_of_its_endpoint() {
    let removals = EndpointRemovals::default();
    removals.on_endpoint_added(web_key(), "default".into());
    removals.on_endpoint_removed(&web_key(), |_| 1);
    // No proxy has a stream, so the removal is complete at once.
    let response = first_response(removals.clone(), "Bearer web").await;
    let response = response.expect("a response");
    assert!(response.is_complete(), "{response:?}");
    assert_eq!(response.other_replicas, ["10.0.0.2:5678"]);
    let rejected = first_response(removals, "Bearer db").await;
    assert_eq!(rejected, Err(Code::Unauthenticated));
}
