//! Tests of the ADS server with clients in the same process, connected in memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use kermode_authentication::ProxyIdentity;
use kermode_envoy::{OnDemand, Resource, ResourceKind};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc as Client;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::*;
use crate::store::Profile;
use kermode_protocol::ads::{
    DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST_SIZE, Node,
    Resource as DiscoveryResource,
};

/// Time limit of each wait of a test. A test that waits longer fails.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Authenticates the Pod `web` by the token `web`, and authorizes the Pod while it has a Dataplane. Authentication of
/// the token `slow` never completes.
#[derive(Clone, Default)]
struct WebAuthenticator {
    has_dataplane: Arc<AtomicBool>,
}

impl Authenticator for WebAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        Box::pin(async move {
            match metadata.get("authorization") {
                Some(token) if token == "Bearer web" => Ok(ProxyIdentity {
                    key: web(),
                    service_account: "robot".into(),
                    uid: "1".into(),
                }),
                Some(token) if token == "Bearer slow" => std::future::pending().await,
                _ => Err(Status::unauthenticated("unknown token")),
            }
        })
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        let has_dataplane = self.has_dataplane.load(Ordering::Relaxed);
        has_dataplane
            .then_some(())
            .ok_or_else(|| Status::not_found("no Dataplane"))
    }
}

/// Records the error messages of rejections.
#[derive(Clone, Default)]
struct Rejections(Arc<Mutex<Vec<String>>>);

impl StatusSink for Rejections {
    fn report(&self, _: &ProxyId, _: u64, report: Report<'_>) {
        if let Report::Rejected { message, .. } = report {
            self.0.lock().expect("no panic").push(message.to_owned());
        }
    }
}

struct Fixture {
    store: Arc<Store>,
    authenticator: WebAuthenticator,
    server: AdsServer,
    shutdown: watch::Sender<bool>,
}

type Responses = Streaming<DeltaDiscoveryResponse>;

impl Fixture {
    /// Creates a server for which the Dataplane `web` exists.
    fn new() -> Self {
        Self::with_settings(Settings::default())
    }

    fn with_settings(settings: Settings) -> Self {
        let store = Arc::new(Store::default());
        let authenticator = WebAuthenticator::default();
        authenticator.has_dataplane.store(true, Ordering::Relaxed);
        let (shutdown, shutdown_receiver) = watch::channel(false);
        let server = AdsServer::new(
            store.clone(),
            authenticator.clone(),
            settings,
            Metrics::default(),
            EndpointRemovals::default(),
            shutdown_receiver,
        );
        let fixture = Self {
            store,
            authenticator,
            server,
            shutdown,
        };
        fixture.publish("1");
        fixture
    }

    /// Creates a server that starts one stream at a time, with a start timeout that no test reaches.
    fn with_one_start_at_a_time() -> Self {
        Self::with_settings(Settings {
            concurrent_starts: 1,
            start_timeout: TIMEOUT,
            ..Settings::default()
        })
    }

    /// Publishes the resources of the proxy `web`: one cluster with this version.
    fn publish(&self, version: &str) {
        let profile = Profile::new("default".into());
        let cluster = Resource {
            kind: ResourceKind::Cluster,
            name: "local".into(),
            version: version.into(),
            body: Bytes::new(),
            service: None,
            on_demand: None,
        };
        self.store.replace_proxy(&web(), profile, vec![cluster]);
    }

    /// Opens a stream on a connection of its own.
    async fn open(
        &self,
        token: &str,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
    ) -> Responses {
        let mut call = Request::new(requests);
        let token = format!("Bearer {token}").parse().expect("a token");
        call.metadata_mut().insert("authorization", token);
        let (channel, _serving) = self.connect().await;
        Self::open_on(channel, call).await
    }

    /// Opens a stream on the connection of `channel`.
    async fn open_on(
        channel: Channel,
        call: Request<impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static>,
    ) -> Responses {
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let path = PathAndQuery::from_static(DELTA_AGGREGATED_RESOURCES);
        let mut client = Client::new(channel);
        client.ready().await.expect("a connection");
        client
            .streaming(call, path, codec)
            .await
            .expect("the headers of a response")
            .into_inner()
    }

    /// Opens a connection. Returns its channel and the task that serves it.
    async fn connect(&self) -> (Channel, JoinHandle<Result<(), h2::Error>>) {
        let (client_io, server_io) = tokio::io::duplex(1 << 16);
        let transport = Transport::new(self.server.clone(), Routes::default());
        let serving = tokio::spawn(transport.serve(server_io, || (), std::future::pending()));
        let mut client_io = Some(TokioIo::new(client_io));
        let connector = tower::service_fn(move |_: http::Uri| {
            let io = client_io
                .take()
                .ok_or_else(|| std::io::Error::other("a second connection"));
            std::future::ready(io)
        });
        let endpoint = Endpoint::from_static("http://cp");
        let channel = endpoint.connect_with_connector(connector).await;
        (channel.expect("a connection"), serving)
    }

    /// Opens a stream that subscribes to all clusters as `web` and stays open.
    async fn subscribe(&self) -> Responses {
        let requests = futures::stream::iter([subscription("default.web.shop")]);
        self.open("web", requests.chain(futures::stream::pending())).await
    }

    /// Like [`Self::subscribe`], but returns a sender of further requests, too. Dropping the sender ends the stream.
    async fn subscribe_with_sender(&self) -> (mpsc::Sender<DeltaDiscoveryRequest>, Responses) {
        let (sender, requests) = mpsc::channel(4);
        let responses = self.open("web", ReceiverStream::new(requests)).await;
        let first = subscription("default.web.shop");
        sender.send(first).await.expect("an open stream");
        (sender, responses)
    }
}

/// A call made with `h2` directly, so that the test can observe flow control.
struct RawCall {
    /// Keeps the connection open.
    _client: h2::client::SendRequest<Bytes>,
    requests: h2::SendStream<Bytes>,
    responses: h2::RecvStream,
}

/// `size` for [`RawCall::open`], in bytes: a request that is far below every limit.
const SMALL_REQUEST: usize = 1;
/// `size` for [`RawCall::open`], in bytes: a request that nearly fills the server's receive window.
const LARGE_REQUEST: usize = 60_000;
/// Default size of a receive window of HTTP/2, in bytes.
const DEFAULT_WINDOW: u32 = 65_535;

impl RawCall {
    /// Opens a call with a first request of at least `size` bytes. `window` is the client's receive window in bytes.
    async fn open(fixture: &Fixture, token: &str, size: usize, window: u32) -> Self {
        let (client_io, server_io) = tokio::io::duplex(1 << 17);
        let transport = Transport::new(fixture.server.clone(), Routes::default());
        tokio::spawn(transport.serve(server_io, || (), std::future::pending()));
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .handshake::<_, Bytes>(client_io)
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        let mut client = client.ready().await.expect("a connection");
        let request = http::Request::post(format!("http://cp{DELTA_AGGREGATED_RESOURCES}"))
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request");
        let (response, mut requests) = client.send_request(request, false).expect("sending succeeds");
        let mut message = subscription("default.web.shop");
        message.resource_names_subscribe = vec!["*".to_owned(), "x".repeat(size)];
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len())
            .expect("a small message")
            .to_be_bytes();
        let message = [&[0], &length[..], &message].concat();
        requests
            .send_data(message.into(), false)
            .expect("sending succeeds");
        let responses = response.await.expect("a response").into_body();
        Self {
            _client: client,
            requests,
            responses,
        }
    }

    /// Opens a call of `web` whose client reads no response: the client's receive window has 0 bytes.
    async fn open_unread(fixture: &Fixture) -> Self {
        Self::open(fixture, "web", SMALL_REQUEST, 0).await
    }

    /// Returns whether the server has read the first request, which must be a [`LARGE_REQUEST`]. Once the server has
    /// read the request, the server's receive window has room for another request of this size.
    fn is_first_request_read(&mut self) -> bool {
        self.requests.reserve_capacity(LARGE_REQUEST);
        self.requests.capacity() == LARGE_REQUEST
    }

    /// Returns whether the server sends this number of bytes and then resets the call. A call that ends with a status
    /// was not reset.
    async fn is_reset_after(&mut self, bytes: usize) -> bool {
        let mut received = 0;
        loop {
            let data = tokio::time::timeout(TIMEOUT, self.responses.data()).await;
            match data.expect("data or the end in time") {
                Some(Ok(data)) => received += data.len(),
                Some(Err(error)) => return error.reason() == Some(h2::Reason::CANCEL) && received == bytes,
                None => return false,
            }
        }
    }

    /// Returns the status with which the server ends the call.
    async fn status(mut self) -> Code {
        let trailers = tokio::time::timeout(TIMEOUT, self.responses.trailers()).await;
        let trailers = trailers
            .expect("the end in time")
            .expect("a call without a reset")
            .expect("trailers");
        Code::from_bytes(trailers["grpc-status"].as_bytes())
    }
}

/// Yields to the other tasks of the test's thread until each of them waits.
async fn run_other_tasks() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

fn subscription(node_id: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: node_id.to_owned(),
            ..Node::default()
        }),
        type_url: ResourceKind::Cluster.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Returns the next response, or the status with which the stream ended: [`Code::Ok`] if it ended without an error.
async fn next_response(responses: &mut Responses) -> Result<DeltaDiscoveryResponse, Code> {
    let response = tokio::time::timeout(TIMEOUT, responses.message())
        .await
        .expect("a response in time");
    response.map_err(|status| status.code())?.ok_or(Code::Ok)
}

#[tokio::test]
async fn request_is_not_read_before_authentication() {
    let fixture = Fixture::new();
    let mut slow = RawCall::open(&fixture, "slow", LARGE_REQUEST, DEFAULT_WINDOW).await;
    run_other_tasks().await;
    assert!(!slow.is_first_request_read(), "the request was read");
    let denied = RawCall::open(&fixture, "unknown", LARGE_REQUEST, DEFAULT_WINDOW).await;
    assert_eq!(denied.status().await, Code::Unauthenticated);
}

#[tokio::test]
async fn slow_authentication_ends_with_unavailable() {
    let fixture = Fixture::with_settings(Settings {
        authentication_timeout: Duration::from_millis(10),
        ..Settings::default()
    });
    let mut responses = fixture.open("slow", futures::stream::pending()).await;
    assert_eq!(next_response(&mut responses).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn stream_with_the_node_id_of_another_proxy_is_denied() {
    let fixture = Fixture::new();
    for (node, code) in [
        ("default.other.shop", Code::PermissionDenied),
        ("default.web.other", Code::PermissionDenied),
        ("web", Code::InvalidArgument),
    ] {
        let requests = futures::stream::iter([subscription(node)]).chain(futures::stream::pending());
        let mut responses = fixture.open("web", requests).await;
        assert_eq!(next_response(&mut responses).await, Err(code), "{node}");
    }
}

#[tokio::test]
async fn request_above_the_size_limit_is_rejected() {
    let fixture = Fixture::new();
    let mut request = subscription("default.web.shop");
    request.resource_names_subscribe = vec!["x".repeat(MAX_REQUEST_SIZE)];
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut responses = fixture.open("web", requests).await;
    assert_eq!(next_response(&mut responses).await, Err(Code::OutOfRange));
}

#[tokio::test]
async fn stream_opened_before_its_dataplane_exists_is_served_once_the_dataplane_exists() {
    let fixture = Fixture::new();
    fixture
        .authenticator
        .has_dataplane
        .store(false, Ordering::Relaxed);
    let mut responses = fixture.subscribe().await;
    tokio::task::yield_now().await;
    fixture.authenticator.has_dataplane.store(true, Ordering::Relaxed);
    fixture.publish("2");
    assert_eq!(
        next_response(&mut responses)
            .await
            .expect("clusters")
            .resources
            .len(),
        1
    );
}

#[tokio::test]
async fn on_demand_cluster_held_for_a_never_requested_listener_is_sent_at_the_deadline_of_the_hold() {
    let fixture = Fixture::with_settings(Settings {
        limits: Limits {
            hold: Duration::from_millis(10),
            ..Limits::default()
        },
        ..Settings::default()
    });
    let resource = |kind, name: &str, on_demand| Resource {
        kind,
        name: name.into(),
        version: "1".into(),
        body: Bytes::new(),
        service: None,
        on_demand,
    };
    let after_listener = OnDemand {
        after: vec![(ResourceKind::Listener, "inbound".into())],
    };
    let resources = vec![
        resource(ResourceKind::Listener, "inbound", None),
        resource(ResourceKind::Cluster, "local", None),
        resource(ResourceKind::Cluster, "remote", Some(Box::new(after_listener))),
    ];
    fixture
        .store
        .replace_proxy(&web(), Profile::new("default".into()), resources);
    let (sender, requests) = mpsc::channel(4);
    let mut responses = fixture.open("web", ReceiverStream::new(requests)).await;
    let first_request = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".to_owned(), "remote".to_owned()],
        ..subscription("default.web.shop")
    };
    sender.send(first_request).await.expect("an open stream");
    let names = |response: &DeltaDiscoveryResponse| {
        let resources = response.resources.iter();
        let decoded = resources.map(|bytes| DiscoveryResource::decode(bytes.clone()).expect("a resource"));
        decoded.map(|resource| resource.name).collect::<Vec<_>>()
    };
    let first_response = next_response(&mut responses).await.expect("clusters");
    assert_eq!(names(&first_response), ["local"]);
    let ack = DeltaDiscoveryRequest {
        type_url: first_response.type_url,
        response_nonce: first_response.nonce,
        ..DeltaDiscoveryRequest::default()
    };
    sender.send(ack).await.expect("an open stream");
    let second_response = next_response(&mut responses).await.expect("clusters");
    assert_eq!(names(&second_response), ["remote"]);
}

#[tokio::test]
async fn proxy_without_a_dataplane_gets_not_found() {
    let fixture = Fixture::with_settings(Settings {
        // A stream waits this long for its Dataplane, too.
        authentication_timeout: Duration::from_millis(10),
        ..Settings::default()
    });
    fixture
        .authenticator
        .has_dataplane
        .store(false, Ordering::Relaxed);
    let mut responses = fixture.subscribe().await;
    assert_eq!(next_response(&mut responses).await, Err(Code::NotFound));
}

#[tokio::test]
async fn stream_ends_when_its_pod_is_no_longer_authorized() {
    let fixture = Fixture::new();
    let mut responses = fixture.subscribe().await;
    next_response(&mut responses).await.expect("clusters");
    fixture
        .authenticator
        .has_dataplane
        .store(false, Ordering::Relaxed);
    fixture.publish("2");
    assert_eq!(next_response(&mut responses).await, Err(Code::NotFound));
}

#[tokio::test]
async fn stream_above_the_limit_of_its_proxy_supersedes_the_oldest() {
    let fixture = Fixture::new();
    let mut streams = Vec::new();
    for _ in 0..=Settings::default().streams_per_proxy {
        let mut responses = fixture.subscribe().await;
        next_response(&mut responses).await.expect("clusters");
        streams.push(responses);
    }
    assert_eq!(next_response(&mut streams[0]).await, Err(Code::Aborted));
    fixture.publish("2");
    // No client has ACKed its first response, so no stream sends version 2. The next item of an open stream is thus
    // pending, while that of an ended stream would be ready.
    for stream in &mut streams[1..] {
        assert!(futures::poll!(stream.next()).is_pending());
    }
}

#[tokio::test]
async fn long_error_message_of_a_rejection_is_truncated() {
    let fixture = Fixture::new();
    let rejections = Rejections::default();
    fixture.server.report_to(rejections.clone());
    let (sender, requests) = mpsc::channel(1);
    sender
        .send(subscription("default.web.shop"))
        .await
        .expect("an open stream");
    let mut responses = fixture.open("web", ReceiverStream::new(requests)).await;
    let nonce = next_response(&mut responses).await.expect("clusters").nonce;
    let rejection = DeltaDiscoveryRequest {
        response_nonce: nonce,
        error_detail: Some(kermode_protocol::ads::Status {
            code: 13,
            // The limit of 1024 bytes falls between the two bytes of the first `é`.
            message: format!("{}é", "x".repeat(1023)).repeat(1000),
        }),
        ..subscription("default.web.shop")
    };
    sender.send(rejection).await.expect("an open stream");
    drop(sender);
    assert_eq!(
        next_response(&mut responses).await,
        Err(Code::Ok),
        "the stream must end without an error"
    );
    assert_eq!(*rejections.0.lock().expect("no panic"), ["x".repeat(1023)]);
}

#[test]
fn node_id_is_parsed_into_mesh_and_dataplane() {
    let id = ProxyId::from_node_id("default.web-0.x.shop").expect("a valid node id");
    assert_eq!(
        id,
        ProxyId {
            mesh: "default".into(),
            key: ObjectKey::new("shop", "web-0.x")
        }
    );
    for wrong in ["", "default", "default.web", ".web.shop", "default..shop"] {
        assert_eq!(ProxyId::from_node_id(wrong), None, "{wrong:?}");
    }
}

#[tokio::test]
async fn waiting_stream_is_read_after_the_starting_stream_has_its_configuration() {
    let fixture = Fixture::with_one_start_at_a_time();
    let (first_sender, mut first_responses) = fixture.subscribe_with_sender().await;
    let clusters = next_response(&mut first_responses).await.expect("clusters");

    let mut waiting_call = RawCall::open(&fixture, "web", LARGE_REQUEST, DEFAULT_WINDOW).await;
    run_other_tasks().await;
    assert!(
        !waiting_call.is_first_request_read(),
        "the waiting stream was read"
    );
    let waiting_gauge = &fixture.server.state.metrics.waiting;
    assert_eq!(waiting_gauge.get(), 1);

    // The first stream ACKs its clusters and requests listeners.
    for (kind, nonce) in [
        (ResourceKind::Cluster, clusters.nonce.clone()),
        (ResourceKind::Listener, String::new()),
    ] {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce,
            ..DeltaDiscoveryRequest::default()
        };
        first_sender.send(request).await.expect("an open stream");
    }
    let listeners = next_response(&mut first_responses).await.expect("listeners");
    let ack = DeltaDiscoveryRequest {
        type_url: listeners.type_url,
        response_nonce: listeners.nonce,
        ..DeltaDiscoveryRequest::default()
    };
    first_sender.send(ack).await.expect("an open stream");
    let data = waiting_call.responses.data();
    let data = tokio::time::timeout(TIMEOUT, data)
        .await
        .expect("a response in time");
    data.expect("an open stream").expect("clusters");
    assert!(waiting_call.is_first_request_read());
    assert_eq!(waiting_gauge.get(), 0);
}

#[tokio::test]
async fn starting_stream_without_acks_delays_others_only_until_the_start_timeout() {
    let fixture = Fixture::with_settings(Settings {
        concurrent_starts: 1,
        start_timeout: Duration::from_millis(50),
        ..Settings::default()
    });
    let mut first = fixture.subscribe().await;
    next_response(&mut first).await.expect("clusters");
    let mut second = fixture.subscribe().await;
    next_response(&mut second).await.expect("clusters");
}

#[tokio::test]
async fn stream_whose_dataplane_is_deleted_during_the_wait_to_start_gets_not_found() {
    let fixture = Fixture::with_one_start_at_a_time();
    let (first_sender, mut first_responses) = fixture.subscribe_with_sender().await;
    next_response(&mut first_responses).await.expect("clusters");
    let mut second = fixture.subscribe().await;
    run_other_tasks().await;
    fixture
        .authenticator
        .has_dataplane
        .store(false, Ordering::Relaxed);
    // The first stream ends, so the second one gets the start permit.
    drop(first_sender);
    assert_eq!(next_response(&mut second).await, Err(Code::NotFound));
}

#[tokio::test]
async fn stream_that_waits_too_long_to_start_gets_unavailable() {
    let fixture = Fixture::with_settings(Settings {
        concurrent_starts: 1,
        start_timeout: TIMEOUT,
        start_queue_timeout: Duration::from_millis(1),
        ..Settings::default()
    });
    let mut first = fixture.subscribe().await;
    next_response(&mut first).await.expect("clusters");
    let mut second = fixture.subscribe().await;
    assert_eq!(next_response(&mut second).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn stream_above_the_total_limit_is_denied_and_its_connection_is_closed() {
    let fixture = Fixture::with_settings(Settings {
        total_streams: 1,
        ..Settings::default()
    });
    let _other_stream = fixture
        .server
        .state
        .open_streams
        .acquire_superseding(&ObjectKey::new("shop", "api"));
    let (channel, serving) = fixture.connect().await;
    let mut responses = Fixture::open_on(channel.clone(), mk_web_call(futures::stream::pending())).await;
    assert_eq!(next_response(&mut responses).await, Err(Code::ResourceExhausted));
    drop(responses);
    wait_for_connection_end(serving).await;
    drop(channel);
}

#[tokio::test]
async fn evicted_proxy_gets_unavailable_and_its_connection_is_closed() {
    let fixture = Fixture::new();
    let (channel, serving) = fixture.connect().await;
    let requests = futures::stream::iter([subscription("default.web.shop")]);
    let call = mk_web_call(requests.chain(futures::stream::pending()));
    let mut responses = Fixture::open_on(channel.clone(), call).await;
    next_response(&mut responses).await.expect("a response");
    assert_eq!(fixture.server.proxy_count(), 1);
    assert_eq!(fixture.server.evict_proxies(3), 1);
    assert_eq!(next_response(&mut responses).await, Err(Code::Unavailable));
    drop(responses);
    wait_for_connection_end(serving).await;
    drop(channel);
    assert_eq!(fixture.server.proxy_count(), 0);
}

/// Returns a call of `web` that sends `requests`.
fn mk_web_call<T>(requests: T) -> Request<T> {
    let mut call = Request::new(requests);
    let token = "Bearer web".parse().expect("a token");
    call.metadata_mut().insert("authorization", token);
    call
}

/// Waits for the end of a connection.
async fn wait_for_connection_end(serving: JoinHandle<Result<(), h2::Error>>) {
    let result = tokio::time::timeout(TIMEOUT, serving)
        .await
        .expect("the end in time");
    // The result is an error if the client closes the connection first.
    let _ = result.expect("no panic");
}

#[tokio::test]
async fn stream_of_a_client_that_does_not_read_can_be_superseded() {
    let fixture = Fixture::new();
    let mut unread = Vec::new();
    for _ in 0..=Settings::default().streams_per_proxy {
        unread.push(RawCall::open_unread(&fixture).await);
        run_other_tasks().await;
    }
    let connected_gauge = &fixture.server.state.metrics.connected;
    assert_eq!(
        connected_gauge.get(),
        i64::try_from(Settings::default().streams_per_proxy).expect("a small number")
    );
    assert_eq!(unread.swap_remove(0).status().await, Code::Aborted);
}

#[tokio::test]
async fn starting_client_that_does_not_read_delays_others_only_until_the_start_timeout() {
    let fixture = Fixture::with_settings(Settings {
        concurrent_starts: 1,
        start_timeout: Duration::from_millis(50),
        ..Settings::default()
    });
    let _unread = RawCall::open_unread(&fixture).await;
    let mut second = fixture.subscribe().await;
    next_response(&mut second).await.expect("clusters");
}

#[tokio::test]
async fn stream_of_a_client_that_does_not_read_ends_after_the_read_timeout() {
    let fixture = Fixture::with_settings(Settings {
        read_timeout: Duration::from_millis(50),
        ..Settings::default()
    });
    let unread = RawCall::open_unread(&fixture).await;
    assert_eq!(unread.status().await, Code::DeadlineExceeded);
    // With a receive window of 10 bytes, the client reads only a part of the response.
    let mut read_in_part = RawCall::open(&fixture, "web", SMALL_REQUEST, 10).await;
    assert!(read_in_part.is_reset_after(10).await);
}

#[tokio::test]
async fn client_that_does_not_read_does_not_delay_shutdown() {
    let fixture = Fixture::with_settings(Settings {
        shutdown_period: Duration::ZERO,
        ..Settings::default()
    });
    let unread = RawCall::open_unread(&fixture).await;
    run_other_tasks().await;
    fixture.shutdown.send_replace(true);
    assert_eq!(unread.status().await, Code::Unavailable);
}

#[tokio::test]
async fn ads_call_with_an_unknown_token_is_denied() {
    let fixture = Fixture::new();
    let call = RawCall::open(&fixture, "unknown", SMALL_REQUEST, DEFAULT_WINDOW).await;
    assert_eq!(call.status().await, Code::Unauthenticated);
}
