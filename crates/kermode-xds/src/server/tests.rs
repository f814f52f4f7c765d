//! The server and clients in one process, without a network between them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use kermode_authentication::ProxyIdentity;
use kermode_envoy::{Resource, ResourceKind};
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
    DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_REQUEST, Node,
};

/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Knows one Pod by its token, and whether the rest of the control plane knows it.
#[derive(Clone, Default)]
struct Gate {
    known: Arc<AtomicBool>,
}

impl Authenticator for Gate {
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
                _ => Err(Status::unauthenticated("who are you?")),
            }
        })
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        let known = self.known.load(Ordering::Relaxed);
        known.then_some(()).ok_or_else(|| Status::not_found("not yet"))
    }
}

/// Remembers rejections.
#[derive(Clone, Default)]
struct Rejections(Arc<Mutex<Vec<String>>>);

impl StatusSink for Rejections {
    fn report(&self, _: &ProxyId, _: u64, report: Report<'_>) {
        if let Report::Rejected { message, .. } = report {
            self.0.lock().expect("no panic").push(message.to_owned());
        }
    }
}

struct World {
    store: Arc<Store>,
    gate: Gate,
    server: AdsServer,
    shutdown: watch::Sender<bool>,
}

type Answers = Streaming<DeltaDiscoveryResponse>;

impl World {
    /// With a proxy `web` that is known.
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let store = Arc::new(Store::default());
        let gate = Gate::default();
        gate.known.store(true, Ordering::Relaxed);
        let (shutdown, watch) = watch::channel(false);
        let server = AdsServer::new(
            store.clone(),
            gate.clone(),
            settings,
            Metrics::default(),
            EndpointRemovals::default(),
            watch,
        );
        let world = Self {
            store,
            gate,
            server,
            shutdown,
        };
        world.publish("1");
        world
    }

    /// That gives first configurations to one stream at a time, however long that takes.
    fn one_at_a_time() -> Self {
        Self::with(Settings {
            starting: 1,
            start: PATIENCE,
            ..Settings::default()
        })
    }

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

    async fn open(
        &self,
        token: &str,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
    ) -> Answers {
        let mut request = Request::new(requests);
        let token = format!("Bearer {token}").parse().expect("a token");
        request.metadata_mut().insert("authorization", token);
        let (channel, _serving) = self.connect().await;
        Self::open_on(channel, request).await
    }

    async fn open_on(
        channel: Channel,
        request: Request<impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static>,
    ) -> Answers {
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let path = PathAndQuery::from_static(DELTA_AGGREGATED_RESOURCES);
        let mut client = Client::new(channel);
        client.ready().await.expect("a connection");
        client
            .streaming(request, path, codec)
            .await
            .expect("headers")
            .into_inner()
    }

    /// A connection of its own, and what serves it.
    async fn connect(&self) -> (Channel, JoinHandle<Result<(), h2::Error>>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let transport = Transport::new(self.server.clone(), Routes::default());
        let serving = tokio::spawn(transport.serve(far, || (), std::future::pending()));
        let mut near = Some(TokioIo::new(near));
        let connector = tower::service_fn(move |_: http::Uri| {
            let near = near.take().ok_or_else(|| std::io::Error::other("only once"));
            std::future::ready(near)
        });
        let endpoint = Endpoint::from_static("http://cp");
        let channel = endpoint.connect_with_connector(connector).await;
        (channel.expect("connected"), serving)
    }

    /// A stream that subscribes to everything as `web` and stays open.
    async fn subscribe(&self) -> Answers {
        let requests = futures::stream::iter([subscription("default.web.shop")]);
        self.open("web", requests.chain(futures::stream::pending())).await
    }

    /// The same, of which more requests can be sent; it ends with their sender.
    async fn begin(&self) -> (mpsc::Sender<DeltaDiscoveryRequest>, Answers) {
        let (sender, requests) = mpsc::channel(4);
        let answers = self.open("web", ReceiverStream::new(requests)).await;
        let first = subscription("default.web.shop");
        sender.send(first).await.expect("open");
        (sender, answers)
    }
}

/// A call by HTTP/2 alone.
struct Call {
    _client: h2::client::SendRequest<Bytes>,
    requests: h2::SendStream<Bytes>,
    responses: h2::RecvStream,
}

/// Nearly as large as the server's window.
const LARGE: usize = 60_000;

impl Call {
    /// With a first request that long, and a window of the client's.
    async fn open(world: &World, token: &str, size: usize, window: u32) -> Self {
        let (near, far) = tokio::io::duplex(1 << 17);
        let transport = Transport::new(world.server.clone(), Routes::default());
        tokio::spawn(transport.serve(far, || (), std::future::pending()));
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .handshake::<_, Bytes>(near)
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        let mut client = client.ready().await.expect("a connection");
        let request = http::Request::post(format!("http://cp{DELTA_AGGREGATED_RESOURCES}"))
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request");
        let (response, mut requests) = client.send_request(request, false).expect("sent");
        let mut message = subscription("default.web.shop");
        message.resource_names_subscribe = vec!["*".to_owned(), "x".repeat(size)];
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).expect("small").to_be_bytes();
        let message = [&[0], &length[..], &message].concat();
        requests.send_data(message.into(), false).expect("sent");
        let responses = response.await.expect("an answer").into_body();
        Self {
            _client: client,
            requests,
            responses,
        }
    }

    /// Whether the server made room for more by reading what was sent.
    fn is_read(&mut self) -> bool {
        self.requests.reserve_capacity(LARGE);
        self.requests.capacity() == LARGE
    }

    /// Whether the call breaks, rather than ends, after so many bytes.
    async fn is_reset_after(&mut self, bytes: usize) -> bool {
        let mut received = 0;
        loop {
            let data = tokio::time::timeout(PATIENCE, self.responses.data()).await;
            match data.expect("an end") {
                Some(Ok(data)) => received += data.len(),
                Some(Err(error)) => return error.reason() == Some(h2::Reason::CANCEL) && received == bytes,
                None => return false,
            }
        }
    }

    async fn status(mut self) -> String {
        let trailers = tokio::time::timeout(PATIENCE, self.responses.trailers()).await;
        let trailers = trailers.expect("no end").expect("trailers").expect("trailers");
        trailers["grpc-status"].to_str().expect("a number").to_owned()
    }
}

/// Lets everything run that can run on the one thread of a test.
async fn everything_else_runs() {
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

async fn answer(answers: &mut Answers) -> Result<DeltaDiscoveryResponse, Code> {
    let answer = tokio::time::timeout(PATIENCE, answers.message())
        .await
        .expect("no answer");
    answer.map_err(|status| status.code())?.ok_or(Code::Ok)
}

#[tokio::test]
async fn nothing_is_read_of_a_stranger() {
    let world = World::new();
    let mut unknown = Call::open(&world, "slow", LARGE, 65_535).await;
    everything_else_runs().await;
    assert!(!unknown.is_read(), "its request was read");
    let stranger = Call::open(&world, "stranger", LARGE, 65_535).await;
    assert_eq!(stranger.status().await, "16");
}

#[tokio::test]
async fn a_stream_is_not_silent_while_nobody_can_say_who_it_is() {
    let world = World::with(Settings {
        first_request: Duration::from_millis(10),
        ..Settings::default()
    });
    let mut answers = world.open("slow", futures::stream::pending()).await;
    assert_eq!(answer(&mut answers).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn the_node_id_has_to_be_the_callers_own() {
    let world = World::new();
    for (node, code) in [
        ("default.other.shop", Code::PermissionDenied),
        ("default.web.other", Code::PermissionDenied),
        ("web", Code::InvalidArgument),
    ] {
        let requests = futures::stream::iter([subscription(node)]).chain(futures::stream::pending());
        let mut answers = world.open("web", requests).await;
        assert_eq!(answer(&mut answers).await, Err(code), "{node}");
    }
}

#[tokio::test]
async fn a_request_larger_than_the_relay_reads_is_not_read_here_either() {
    let world = World::new();
    let mut request = subscription("default.web.shop");
    request.resource_names_subscribe = vec!["x".repeat(MAX_REQUEST)];
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut answers = world.open("web", requests).await;
    assert_eq!(answer(&mut answers).await, Err(Code::OutOfRange));
}

#[tokio::test]
async fn a_proxy_that_is_early_is_served_once_it_is_known_and_without_asking_again() {
    let world = World::new();
    world.gate.known.store(false, Ordering::Relaxed);
    let mut answers = world.subscribe().await;
    tokio::task::yield_now().await;
    world.gate.known.store(true, Ordering::Relaxed);
    world.publish("2");
    assert_eq!(answer(&mut answers).await.expect("clusters").resources.len(), 1);
}

#[tokio::test]
async fn a_proxy_that_stays_unknown_is_told_so() {
    let world = World::with(Settings {
        first_request: Duration::from_millis(10),
        ..Settings::default()
    });
    world.gate.known.store(false, Ordering::Relaxed);
    let mut answers = world.subscribe().await;
    assert_eq!(answer(&mut answers).await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_stream_ends_when_its_pod_is_no_longer_the_dataplanes() {
    let world = World::new();
    let mut answers = world.subscribe().await;
    answer(&mut answers).await.expect("clusters");
    world.gate.known.store(false, Ordering::Relaxed);
    world.publish("of the next Pod");
    assert_eq!(answer(&mut answers).await, Err(Code::NotFound));
}

#[tokio::test]
async fn one_stream_too_many_ends_the_oldest() {
    let world = World::new();
    let mut streams = Vec::new();
    for _ in 0..=Settings::default().streams {
        let mut answers = world.subscribe().await;
        answer(&mut answers).await.expect("clusters");
        streams.push(answers);
    }
    assert_eq!(answer(&mut streams[0]).await, Err(Code::Aborted));
    world.publish("2");
    // One response is in flight until it is acknowledged, so only the end could come.
    for open in &mut streams[1..] {
        assert!(futures::poll!(open.next()).is_pending());
    }
}

#[tokio::test]
async fn a_long_explanation_of_a_rejection_is_cut() {
    let world = World::new();
    let rejections = Rejections::default();
    world.server.report_to(rejections.clone());
    let (sender, receiver) = mpsc::channel(1);
    sender.send(subscription("default.web.shop")).await.expect("open");
    let mut answers = world.open("web", ReceiverStream::new(receiver)).await;
    let nonce = answer(&mut answers).await.expect("clusters").nonce;
    let rejection = DeltaDiscoveryRequest {
        response_nonce: nonce,
        error_detail: Some(kermode_protocol::ads::Status {
            code: 13,
            message: format!("{}é", "x".repeat(1023)).repeat(1000),
        }),
        ..subscription("default.web.shop")
    };
    sender.send(rejection).await.expect("open");
    drop(sender);
    assert_eq!(answer(&mut answers).await, Err(Code::Ok), "the stream ends");
    assert_eq!(*rejections.0.lock().expect("no panic"), ["x".repeat(1023)]);
}

#[test]
fn a_node_id_names_mesh_and_dataplane() {
    let id = ProxyId::from_node_id("default.web-0.x.shop").expect("valid");
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
async fn so_many_streams_start_at_once_and_the_next_one_is_read_when_one_has_all_it_asks_for() {
    let world = World::one_at_a_time();
    let (first, mut answers) = world.begin().await;
    let clusters = answer(&mut answers).await.expect("clusters");

    let mut other = Call::open(&world, "web", LARGE, 65_535).await;
    everything_else_runs().await;
    assert!(!other.is_read(), "it has to wait");
    let waiting = &world.server.shared.metrics.waiting;
    assert_eq!(waiting.get(), 1);

    for (kind, nonce) in [
        (ResourceKind::Cluster, clusters.nonce.clone()),
        (ResourceKind::Listener, String::new()),
    ] {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce,
            ..DeltaDiscoveryRequest::default()
        };
        first.send(request).await.expect("open");
    }
    let listeners = answer(&mut answers).await.expect("listeners");
    let request = DeltaDiscoveryRequest {
        type_url: listeners.type_url,
        response_nonce: listeners.nonce,
        ..DeltaDiscoveryRequest::default()
    };
    first.send(request).await.expect("open");
    let turn = other.responses.data();
    let turn = tokio::time::timeout(PATIENCE, turn).await.expect("its turn");
    turn.expect("open").expect("clusters");
    assert!(other.is_read());
    assert_eq!(waiting.get(), 0);
}

#[tokio::test]
async fn a_stream_that_never_has_all_it_asks_for_keeps_others_waiting_for_a_while_only() {
    let world = World::with(Settings {
        starting: 1,
        start: Duration::from_millis(50),
        ..Settings::default()
    });
    let mut first = world.subscribe().await;
    answer(&mut first).await.expect("clusters");
    let mut second = world.subscribe().await;
    answer(&mut second).await.expect("its turn");
}

#[tokio::test]
async fn a_proxy_whose_pod_goes_while_it_waits_for_its_turn_is_not_served() {
    let world = World::one_at_a_time();
    let (first, mut answers) = world.begin().await;
    answer(&mut answers).await.expect("clusters");
    let mut second = world.subscribe().await;
    everything_else_runs().await;
    world.gate.known.store(false, Ordering::Relaxed);
    drop(first);
    assert_eq!(answer(&mut second).await, Err(Code::NotFound));
}

#[tokio::test]
async fn a_proxy_that_waits_too_long_for_its_turn_is_told_to_come_again() {
    let world = World::with(Settings {
        starting: 1,
        start: PATIENCE,
        turn: Duration::from_millis(1),
        ..Settings::default()
    });
    let mut first = world.subscribe().await;
    answer(&mut first).await.expect("clusters");
    let mut second = world.subscribe().await;
    assert_eq!(answer(&mut second).await, Err(Code::Unavailable));
}

#[tokio::test]
async fn a_proxy_for_which_there_is_no_room_is_told_so_and_has_to_connect_anew() {
    let world = World::with(Settings {
        total_streams: 1,
        ..Settings::default()
    });
    let _elsewhere = world
        .server
        .shared
        .open
        .acquire_superseding(&ObjectKey::new("shop", "api"));
    let (channel, serving) = world.connect().await;
    let mut answers = World::open_on(channel.clone(), as_web(futures::stream::pending())).await;
    assert_eq!(answer(&mut answers).await, Err(Code::ResourceExhausted));
    drop(answers);
    closed(serving).await;
    drop(channel);
}

#[tokio::test]
async fn a_proxy_that_is_sent_elsewhere_is_told_so_and_has_to_connect_anew() {
    let world = World::new();
    let (channel, serving) = world.connect().await;
    let requests = futures::stream::iter([subscription("default.web.shop")]);
    let requests = as_web(requests.chain(futures::stream::pending()));
    let mut answers = World::open_on(channel.clone(), requests).await;
    answer(&mut answers).await.expect("a response");
    assert_eq!(world.server.proxies(), 1);
    assert_eq!(world.server.send_elsewhere(3), 1);
    assert_eq!(answer(&mut answers).await, Err(Code::Unavailable));
    drop(answers);
    closed(serving).await;
    drop(channel);
    assert_eq!(world.server.proxies(), 0);
}

/// With the token of `web`.
fn as_web<T>(requests: T) -> Request<T> {
    let mut request = Request::new(requests);
    let token = "Bearer web".parse().expect("a token");
    request.metadata_mut().insert("authorization", token);
    request
}

/// Completes when a connection has ended.
async fn closed(serving: JoinHandle<Result<(), h2::Error>>) {
    let ended = tokio::time::timeout(PATIENCE, serving).await.expect("an end");
    // Whoever of the two closes it first.
    let _ = ended.expect("no panic");
}

#[tokio::test]
async fn a_client_that_does_not_read_gives_its_place_up_too() {
    let world = World::new();
    let mut unread = Vec::new();
    for _ in 0..=Settings::default().streams {
        unread.push(Call::open(&world, "web", 1, 0).await);
        everything_else_runs().await;
    }
    let connected = &world.server.shared.metrics.connected;
    assert_eq!(
        connected.get(),
        i64::try_from(Settings::default().streams).expect("few")
    );
    assert_eq!(unread.swap_remove(0).status().await, "10");
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_others_waiting_for_a_while_only() {
    let world = World::with(Settings {
        starting: 1,
        start: Duration::from_millis(50),
        ..Settings::default()
    });
    let _unread = Call::open(&world, "web", 1, 0).await;
    let mut second = world.subscribe().await;
    answer(&mut second).await.expect("its turn");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_ended_in_the_end() {
    let world = World::with(Settings {
        reading: Duration::from_millis(50),
        ..Settings::default()
    });
    let unread = Call::open(&world, "web", 1, 0).await;
    assert_eq!(unread.status().await, "4");
    let mut read_in_part = Call::open(&world, "web", 1, 10).await;
    assert!(read_in_part.is_reset_after(10).await);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_waited_for_at_shutdown() {
    let world = World::with(Settings {
        handover: Duration::ZERO,
        ..Settings::default()
    });
    let unread = Call::open(&world, "web", 1, 0).await;
    everything_else_runs().await;
    world.shutdown.send_replace(true);
    assert_eq!(unread.status().await, "14");
}

#[tokio::test]
async fn ads_call_without_a_token_is_rejected_by_the_ads_server() {
    let world = World::new();
    let call = Call::open(&world, "unknown", 1, 65_535).await;
    assert_eq!(call.status().await, "16");
}
