//! Connections in memory, with a plain HTTP/2 client.

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

/// Time after which a test fails.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A service that returns the body of the request and a trailer. `/never` sends no response and signals its start.
/// `/endless` sends a response that does not end. Every call signals when it is dropped.
#[derive(Clone, Default)]
struct Echo {
    began: Arc<Notify>,
    ended: Arc<Notify>,
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
        let (began, ends) = (self.began.clone(), NotifyOnDrop(self.ended.clone()));
        Box::pin(async move {
            if request.uri().path() == "/never" {
                began.notify_one();
                std::future::pending::<()>().await;
            }
            if request.uri().path() == "/endless" {
                let never = futures::stream::pending::<Result<Frame<Bytes>, h2::Error>>();
                let body = never.inspect(move |_| _ = &ends);
                return Ok(Response::new(StreamBody::new(body.boxed())));
            }
            drop(ends);
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
    called: Arc<AtomicBool>,
    close: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), h2::Error>>,
    /// Task of the client's connection.
    connection: JoinHandle<()>,
}

impl TestConnection {
    async fn new() -> Self {
        let (near, far) = tokio::io::duplex(1 << 14);
        let (close, closing) = oneshot::channel();
        let (echo, called) = (Echo::default(), Arc::new(AtomicBool::new(false)));
        let called_by_server = called.clone();
        let serving = serve(
            far,
            ServiceHandler(echo.clone()),
            move || called_by_server.store(true, Ordering::Relaxed),
            async { drop(closing.await) },
        );
        let serving = tokio::spawn(serving);
        let (client, connection) = connect(near).await;
        Self {
            client,
            echo,
            called,
            close,
            serving,
            connection,
        }
    }

    async fn call(&mut self, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = self.client.clone().ready().await.expect("a connection");
        let request = Request::post(format!("http://cp{path}")).body(());
        ready
            .send_request(request.expect("a request"), false)
            .expect("sent")
    }
}

async fn connect(near: DuplexStream) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let (client, connection) = h2::client::handshake(near).await.expect("a handshake");
    let driving = tokio::spawn(async { drop(connection.await) });
    (client, driving)
}

/// Returns the body and the trailers.
async fn read(mut stream: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut read = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.expect("data");
        stream.flow_control().release_capacity(data.len()).expect("read");
        read.extend_from_slice(&data);
    }
    (read, stream.trailers().await.expect("trailers"))
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .expect("the future completes in time")
}

#[tokio::test]
async fn service_receives_the_whole_request_and_the_client_the_whole_response() {
    let mut test = TestConnection::new().await;
    assert!(!test.called.load(Ordering::Relaxed));
    let (response, mut body) = test.call("/echo").await;
    // Larger than all windows and buffers together.
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let sending = async {
        send_all(&mut body, sent.clone().into()).await.expect("sent");
        body.send_data(Bytes::new(), true).expect("sent");
    };
    let reading = async { read(response.await.expect("a response").into_body()).await };
    let ((), (received, trailers)) = soon(async { tokio::join!(sending, reading) }).await;
    assert!(received == sent, "{} bytes came back", received.len());
    assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    assert!(test.called.load(Ordering::Relaxed));
}

#[tokio::test]
async fn call_that_the_client_resets_is_dropped() {
    let mut test = TestConnection::new().await;
    let (_response, mut body) = test.call("/never").await;
    soon(test.echo.began.notified()).await;
    body.send_reset(h2::Reason::CANCEL);
    soon(test.echo.ended.notified()).await;
}

#[tokio::test(start_paused = true)]
async fn call_without_a_response_is_cancelled() {
    let mut test = TestConnection::new().await;
    let (response, _body) = test.call("/never").await;
    let ended = within_minutes(response).await.expect_err("a reset");
    assert_eq!(ended.reason(), Some(h2::Reason::CANCEL));
    within_minutes(test.echo.ended.notified()).await;
}

#[tokio::test]
async fn call_is_dropped_with_its_connection() {
    let mut test = TestConnection::new().await;
    let (_response, _body) = test.call("/never").await;
    soon(test.echo.began.notified()).await;
    test.connection.abort();
    soon(test.echo.ended.notified()).await;
    let _ = soon(test.serving).await.expect("no panic");
}

#[tokio::test]
async fn connection_without_a_handshake_ends_at_shutdown() {
    let (_near, far) = tokio::io::duplex(1 << 14);
    let (close, closing) = oneshot::channel::<()>();
    let serving = serve(far, ServiceHandler(Echo::default()), || (), async {
        drop(closing.await);
    });
    let serving = tokio::spawn(serving);
    close.send(()).expect("the connection runs");
    soon(serving).await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn closing_connection_ends_with_its_last_call() {
    let mut test = TestConnection::new().await;
    let (response, mut body) = test.call("/echo").await;
    let response = soon(response).await.expect("a response");
    test.close.send(()).expect("the connection runs");
    let refuses_calls = async {
        // Until GOAWAY arrives, the client accepts calls.
        while let Ok(ready) = test.client.clone().ready().await {
            drop(ready);
            tokio::task::yield_now().await;
        }
    };
    soon(refuses_calls).await;
    assert!(!test.serving.is_finished());
    body.send_data("late".into(), true).expect("sent");
    assert_eq!(soon(read(response.into_body())).await.0, b"late");
    soon(test.serving).await.expect("no panic").expect("no error");
}

/// Like [`soon`], for a paused clock that advances by minutes.
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
        body.send_data(Bytes::new(), true).expect("sent");
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
    // Either side may close it first.
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
    test.close.send(()).expect("the connection runs");
    let closing_since = tokio::time::Instant::now();
    within_minutes(test.serving)
        .await
        .expect("no panic")
        .expect("an end");
    let elapsed = closing_since.elapsed();
    assert!((IDLE_TIMEOUT..2 * IDLE_TIMEOUT).contains(&elapsed), "{elapsed:?}");
    within_minutes(test.echo.ended.notified()).await;
}
