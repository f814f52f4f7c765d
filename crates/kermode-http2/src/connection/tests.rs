//! Tests of connections in memory, with the HTTP/2 client of `h2`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::DuplexStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tower::Service;

use super::*;
use crate::service::{RequestBody, ServiceHandler, send_all};

/// Time limit of a wait. A test that waits longer fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A service that returns the body of the request and a trailer. A call of `/never` gets no response. A call of
/// `/endless` gets a response that does not end.
#[derive(Clone, Default)]
struct Echo {
    /// Notified when a call of `/never` begins.
    call_began: Arc<Notify>,
    /// Notified when a call of `/never` or `/endless` is dropped, and when the response to a call of any other path
    /// begins.
    call_ended_or_responded: Arc<Notify>,
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

type ResponseBody = StreamBody<BoxStream<'static, Result<Frame<Bytes>, h2::Error>>>;

impl Service<Request<RequestBody>> for Echo {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let call_began = self.call_began.clone();
        let notify_end = NotifyOnDrop(self.call_ended_or_responded.clone());
        Box::pin(async move {
            if request.uri().path() == "/never" {
                call_began.notify_one();
                std::future::pending::<()>().await;
            }
            if request.uri().path() == "/endless" {
                let never = futures::stream::pending::<Result<Frame<Bytes>, h2::Error>>();
                // The closure owns `notify_end`, so `call_ended_or_responded` is notified when the body is dropped.
                let body = never.inspect(move |_| _ = &notify_end);
                return Ok(Response::new(StreamBody::new(body.boxed())));
            }
            drop(notify_end);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            let end = futures::stream::iter([Ok(Frame::trailers(trailers))]);
            let data = request.into_body().into_data_stream();
            let data = data.map(|data| data.map(Frame::data));
            Ok(Response::new(StreamBody::new(data.chain(end).boxed())))
        })
    }
}

struct TestConnection {
    client: SendRequest<Bytes>,
    echo: Echo,
    /// Whether the server has called `on_call`.
    on_call_ran: Arc<AtomicBool>,
    /// Starts the shutdown of the server.
    shutdown: oneshot::Sender<()>,
    /// Task of the server's connection.
    serving: JoinHandle<Result<(), h2::Error>>,
    /// Task of the client's connection.
    client_connection: JoinHandle<()>,
}

impl TestConnection {
    async fn new() -> Self {
        let (client_io, server_io) = tokio::io::duplex(1 << 14);
        let (shutdown, shutdown_receiver) = oneshot::channel();
        let echo = Echo::default();
        let on_call_ran = Arc::new(AtomicBool::new(false));
        let on_call_ran_in_server = on_call_ran.clone();
        let serving = serve(
            server_io,
            ServiceHandler(echo.clone()),
            move || on_call_ran_in_server.store(true, Ordering::Relaxed),
            async { drop(shutdown_receiver.await) },
        );
        let serving = tokio::spawn(serving);
        let (client, client_connection) = connect(client_io).await;
        Self {
            client,
            echo,
            on_call_ran,
            shutdown,
            serving,
            client_connection,
        }
    }

    async fn call(&mut self, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.client.clone().ready().await.expect("a connection");
        let request = Request::post(format!("http://cp{path}")).body(());
        ready
            .send_request(request.expect("a request"), false)
            .expect("sending succeeds")
    }
}

/// Performs the handshake of the client. Returns the client and the task of its connection.
async fn connect(client_io: DuplexStream) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let (client, connection) = h2::client::handshake(client_io).await.expect("a handshake");
    let client_connection = tokio::spawn(async { drop(connection.await) });
    (client, client_connection)
}

/// Reads a stream to its end. Returns the body and the trailers.
async fn read(mut stream: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.expect("data without an error");
        stream
            .flow_control()
            .release_capacity(data.len())
            .expect("the capacity is released");
        body.extend_from_slice(&data);
    }
    (body, stream.trailers().await.expect("trailers"))
}

async fn within_timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future)
        .await
        .expect("the future completes in time")
}

#[tokio::test]
async fn service_receives_the_whole_request_and_the_client_the_whole_response() {
    let mut test = TestConnection::new().await;
    assert!(!test.on_call_ran.load(Ordering::Relaxed));
    let (response, mut body) = test.call("/echo").await;
    // The body is larger than all windows and buffers together.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let sending = async {
        send_all(&mut body, sent.clone().into())
            .await
            .expect("sending succeeds");
        body.send_data(Bytes::new(), true).expect("sending succeeds");
    };
    let reading = async { read(response.await.expect("a response").into_body()).await };
    let ((), (received, trailers)) = within_timeout(async { tokio::join!(sending, reading) }).await;
    assert!(received == sent, "{} bytes came back", received.len());
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    assert!(test.on_call_ran.load(Ordering::Relaxed));
}

#[tokio::test]
async fn call_that_the_client_resets_is_dropped() {
    let mut test = TestConnection::new().await;
    let (_response, mut body) = test.call("/never").await;
    within_timeout(test.echo.call_began.notified()).await;
    body.send_reset(h2::Reason::CANCEL);
    within_timeout(test.echo.call_ended_or_responded.notified()).await;
}

#[tokio::test(start_paused = true)]
async fn call_without_a_response_is_cancelled_at_the_response_timeout() {
    let mut test = TestConnection::new().await;
    let (response, _body) = test.call("/never").await;
    let error = within_minutes(response).await.expect_err("a reset");
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    within_minutes(test.echo.call_ended_or_responded.notified()).await;
}

#[tokio::test]
async fn call_is_dropped_with_its_connection() {
    let mut test = TestConnection::new().await;
    let (_response, _body) = test.call("/never").await;
    within_timeout(test.echo.call_began.notified()).await;
    test.client_connection.abort();
    within_timeout(test.echo.call_ended_or_responded.notified()).await;
    let _ = within_timeout(test.serving).await.expect("no panic");
}

#[tokio::test]
async fn connection_without_a_handshake_ends_at_shutdown() {
    let (_client_io, server_io) = tokio::io::duplex(1 << 14);
    let (shutdown, shutdown_receiver) = oneshot::channel::<()>();
    let serving = serve(server_io, ServiceHandler(Echo::default()), || (), async {
        drop(shutdown_receiver.await);
    });
    let serving = tokio::spawn(serving);
    shutdown.send(()).expect("the connection runs");
    within_timeout(serving)
        .await
        .expect("no panic")
        .expect("the connection ends without an error");
}

#[tokio::test]
async fn closing_connection_ends_with_its_last_call() {
    let mut test = TestConnection::new().await;
    let (response, mut body) = test.call("/echo").await;
    let response = within_timeout(response).await.expect("a response");
    test.shutdown.send(()).expect("the connection runs");
    let goaway_received = async {
        // Until GOAWAY arrives, the client accepts calls.
        while let Ok(ready) = test.client.clone().ready().await {
            drop(ready);
            tokio::task::yield_now().await;
        }
    };
    within_timeout(goaway_received).await;
    assert!(!test.serving.is_finished());
    body.send_data("late".into(), true).expect("sending succeeds");
    assert_eq!(within_timeout(read(response.into_body())).await.0, b"late");
    within_timeout(test.serving)
        .await
        .expect("no panic")
        .expect("the connection ends without an error");
}

/// Like [`within_timeout`] with a longer limit, for waits until a timeout of the connection on a paused clock.
async fn within_minutes<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(10 * IDLE_TIMEOUT, future)
        .await
        .expect("the future completes in time")
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_after_a_minute() {
    let mut test = TestConnection::new().await;
    for _ in 0..3 {
        let (response, mut body) = test.call("/echo").await;
        body.send_data(Bytes::new(), true).expect("sending succeeds");
        read(response.await.expect("a response").into_body()).await;
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
        assert!(!test.serving.is_finished());
    }
    let (response, body) = test.call("/endless").await;
    let response = response.await.expect("a response");
    tokio::time::sleep(3 * IDLE_TIMEOUT).await;
    assert!(!test.serving.is_finished(), "an open call keeps the connection");
    drop((response, body));
    let idle_since = tokio::time::Instant::now();
    // Either side may close the connection first, so the server's result may be an error.
    let _ = within_minutes(test.serving).await.expect("no panic");
    let elapsed = idle_since.elapsed();
    assert!((IDLE_TIMEOUT..2 * IDLE_TIMEOUT).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn closing_connection_with_calls_is_dropped_after_a_minute() {
    let mut test = TestConnection::new().await;
    // An open call keeps the connection from ending.
    let (response, _body) = test.call("/endless").await;
    let _response = response.await.expect("a response");
    test.shutdown.send(()).expect("the connection runs");
    let closing_since = tokio::time::Instant::now();
    within_minutes(test.serving)
        .await
        .expect("no panic")
        .expect("the connection ends without an error");
    let elapsed = closing_since.elapsed();
    assert!(
        (CLOSE_TIMEOUT..2 * CLOSE_TIMEOUT).contains(&elapsed),
        "{elapsed:?}"
    );
    within_minutes(test.echo.call_ended_or_responded.notified()).await;
}
