//! A connection in memory, with a client that speaks HTTP/2 and nothing above it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_removals::EndpointRemovals;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;

use super::*;
use crate::server::{Metrics, Settings};
use crate::store::Store;

/// A test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets nobody in: these tests are about other calls.
struct Closed;

impl Authenticator for Closed {
    fn authenticate<'a>(&'a self, _: &'a HeaderMap) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        Box::pin(async { Err(Status::unauthenticated("nobody")) })
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        Ok(())
    }
}

/// A service that answers with the body of the request and a trailer; with nothing at all to `/never`, of which it tells
/// beginning and end; and to `/endless` with an answer that does not end.
#[derive(Clone, Default)]
struct Echo {
    began: Arc<Notify>,
    ended: Arc<Notify>,
}

struct Ends(Arc<Notify>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (began, ends) = (self.began.clone(), Ends(self.ended.clone()));
        Box::pin(async move {
            if request.uri().path() == "/never" {
                began.notify_one();
                std::future::pending::<()>().await;
            }
            if request.uri().path() == "/endless" {
                let never = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
                let body = never.inspect(move |_| _ = &ends);
                return Ok(Response::new(Body::new(http_body_util::StreamBody::new(body))));
            }
            drop(ends);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            let end = futures::stream::iter([Ok(Frame::trailers(trailers))]);
            let data = request.into_body().into_data_stream();
            let data = data.map(|data| data.map(Frame::data));
            Ok(Response::new(Body::new(http_body_util::StreamBody::new(
                data.chain(end),
            ))))
        })
    }
}

struct World {
    client: SendRequest<Bytes>,
    echo: Echo,
    asked: Arc<AtomicBool>,
    close: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), h2::Error>>,
    /// What moves the client's bytes.
    connection: JoinHandle<()>,
    _shutdown: watch::Sender<bool>,
}

impl World {
    async fn new() -> Self {
        let (near, far) = tokio::io::duplex(1 << 14);
        let (shutdown, requested) = watch::channel(false);
        let ads = mk_ads(requested);
        let (close, closing) = oneshot::channel();
        let (echo, asked) = (Echo::default(), Arc::new(AtomicBool::new(false)));
        let note = asked.clone();
        let serving = Transport::new(ads, echo.clone()).serve(
            far,
            move || note.store(true, Ordering::Relaxed),
            async { drop(closing.await) },
        );
        let serving = tokio::spawn(serving);
        let (client, connection) = connect(near).await;
        Self {
            client,
            connection,
            echo,
            asked,
            close,
            serving,
            _shutdown: shutdown,
        }
    }

    async fn ask(&mut self, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.client.clone().ready().await.expect("a connection");
        let request = Request::post(format!("http://cp{path}")).body(());
        ready
            .send_request(request.expect("a request"), false)
            .expect("sent")
    }
}

async fn connect(near: DuplexStream) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let (client, connection) = h2::client::handshake(near).await.expect("a handshake");
    let moving = tokio::spawn(async { drop(connection.await) });
    (client, moving)
}

fn mk_ads(shutdown: watch::Receiver<bool>) -> AdsServer {
    AdsServer::new(
        Arc::new(Store::default()),
        Closed,
        Settings::default(),
        Metrics::default(),
        EndpointRemovals::default(),
        shutdown,
    )
}

/// The body and what comes after it.
async fn read(mut stream: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut read = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.expect("data");
        stream.flow_control().release_capacity(data.len()).expect("read");
        read.extend_from_slice(&data);
    }
    (read, stream.trailers().await.expect("trailers"))
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it takes too long")
}

#[tokio::test]
async fn other_calls_are_passed_on_and_their_answers_come_back_whole() {
    let mut world = World::new().await;
    assert!(!world.asked.load(Ordering::Relaxed));
    let (response, mut body) = world.ask("/echo").await;
    // More than all windows and buffers on the way.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let sending = async {
        other::send(&mut body, sent.clone().into()).await.expect("sent");
        body.send_data(Bytes::new(), true).expect("sent");
    };
    let reading = async { read(response.await.expect("an answer").into_body()).await };
    let ((), (received, trailers)) = soon(async { tokio::join!(sending, reading) }).await;
    assert!(received == sent, "{} bytes came back", received.len());
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    assert!(world.asked.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_call_that_the_client_ends_is_not_worked_on() {
    let mut world = World::new().await;
    let (_response, mut body) = world.ask("/never").await;
    soon(world.echo.began.notified()).await;
    body.send_reset(h2::Reason::CANCEL);
    soon(world.echo.ended.notified()).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_get_to_an_answer_is_ended() {
    let mut world = World::new().await;
    let (response, _body) = world.ask("/never").await;
    let ended = in_time(response).await.expect_err("no answer");
    assert_eq!(ended.reason(), Some(h2::Reason::CANCEL));
    in_time(world.echo.ended.notified()).await;
}

#[tokio::test]
async fn a_call_ends_with_its_connection() {
    let mut world = World::new().await;
    let (_response, _body) = world.ask("/never").await;
    soon(world.echo.began.notified()).await;
    world.connection.abort();
    soon(world.echo.ended.notified()).await;
    let _ = soon(world.serving).await.expect("no panic");
}

#[tokio::test]
async fn nobody_is_waited_for_who_has_not_even_begun() {
    let (_near, far) = tokio::io::duplex(1 << 14);
    let (close, closing) = oneshot::channel::<()>();
    let (_shutdown, requested) = watch::channel(false);
    let serving = Transport::new(mk_ads(requested), Echo::default()).serve(far, || (), async {
        drop(closing.await);
    });
    let serving = tokio::spawn(serving);
    close.send(()).expect("it runs");
    soon(serving).await.expect("no panic").expect("a good end");
}

#[tokio::test]
async fn a_connection_that_closes_ends_with_its_last_call() {
    let mut world = World::new().await;
    let (response, mut body) = world.ask("/echo").await;
    let answer = soon(response).await.expect("an answer");
    world.close.send(()).expect("it runs");
    let refused = async {
        // The client learns of it a little later.
        while let Ok(ready) = world.client.clone().ready().await {
            drop(ready);
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    assert!(!world.serving.is_finished());
    body.send_data("late".into(), true).expect("sent");
    assert_eq!(soon(read(answer.into_body())).await.0, b"late");
    soon(world.serving).await.expect("no panic").expect("a good end");
}

/// The same for what takes minutes of a clock that does not run.
async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(10 * STAY, what)
        .await
        .expect("it takes too long")
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_call_ends_after_a_while_and_another_call_keeps_it() {
    let mut world = World::new().await;
    for _ in 0..3 {
        let (response, mut body) = world.ask("/echo").await;
        body.send_data(Bytes::new(), true).expect("sent");
        read(response.await.expect("an answer").into_body()).await;
        tokio::time::sleep(STAY / 2).await;
        assert!(!world.serving.is_finished());
    }
    let (response, body) = world.ask("/endless").await;
    let response = response.await.expect("an answer");
    tokio::time::sleep(3 * STAY).await;
    assert!(!world.serving.is_finished(), "a call may last");
    drop((response, body));
    let quiet = tokio::time::Instant::now();
    // Whoever of the two closes it first.
    let _ = in_time(world.serving).await.expect("no panic");
    let stayed = quiet.elapsed();
    assert!((STAY..2 * STAY).contains(&stayed), "{stayed:?}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_leave_when_told_to_is_cut_off() {
    let mut world = World::new().await;
    // A call that goes on keeps its connection from ending with the last one.
    let (response, _body) = world.ask("/endless").await;
    let _response = response.await.expect("an answer");
    world.close.send(()).expect("it runs");
    let told = tokio::time::Instant::now();
    in_time(world.serving).await.expect("no panic").expect("an end");
    let stayed = told.elapsed();
    assert!((STAY..2 * STAY).contains(&stayed), "{stayed:?}");
    in_time(world.echo.ended.notified()).await;
}

#[tokio::test]
async fn ads_is_answered_by_the_server_itself() {
    let mut world = World::new().await;
    let (response, _body) = world.ask(DELTA_AGGREGATED_RESOURCES).await;
    let (_, trailers) = soon(read(soon(response).await.expect("an answer").into_body())).await;
    assert_eq!(trailers.expect("trailers")["grpc-status"], "16");
}
