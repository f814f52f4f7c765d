//! Clients and applications of HTTP/2: gRPC calls, and HTTP/2 on one side only.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use crate::sidecars::{Sidecars, read_text, start_application};
use crate::{OK, TIMEOUT};

/// Path of a method that the application does not have.
const MISSING_METHOD: &str = "/shop.Cart/Missing";

/// An application of HTTP/2. Responds with the header `grpc-timeout` of the request and echoes each part of the body.
/// The trailers of the response are those of the request, and `grpc-status`. The response of [`MISSING_METHOD`] has
/// neither body nor trailers: `grpc-status` is one of its headers.
async fn serve_http2(listener: tokio::net::TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
            while let Some(Ok((request, mut responder))) = connection.accept().await {
                if request.uri().path() == MISSING_METHOD {
                    let response = Response::builder().header("grpc-status", "12").body(());
                    let response = response.expect("a response");
                    responder.send_response(response, true).expect("an open stream");
                    continue;
                }
                let timeout = request.headers().get("grpc-timeout").cloned();
                let response = timeout.iter().fold(Response::builder(), |response, timeout| {
                    response.header("grpc-timeout", timeout)
                });
                let response = response.body(()).expect("a response");
                let responses = responder.send_response(response, false).expect("an open stream");
                tokio::spawn(echo(request.into_body(), responses));
            }
        });
    }
}

async fn echo(mut requests: RecvStream, mut responses: SendStream<Bytes>) {
    while let Some(Ok(part)) = requests.data().await {
        let _ = requests.flow_control().release_capacity(part.len());
        responses.send_data(part, false).expect("an open stream");
    }
    let trailers = requests.trailers().await.expect("an open stream");
    let mut trailers = trailers.unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    responses.send_trailers(trailers).expect("an open stream");
}

/// Opens a connection of HTTP/2 with prior knowledge.
async fn open(address: SocketAddr) -> SendRequest<Bytes> {
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(connection);
    client.ready().await.expect("an open connection")
}

fn mk_call(method: &str) -> Request<()> {
    Request::post(format!("http://web{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "10S")
        .body(())
        .expect("a request")
}

/// Calls a method, and checks that both directions of the call stay open until the client closes its direction.
async fn check_streams(address: SocketAddr) {
    let mut client = open(address).await;
    let request = mk_call("/shop.Cart/Watch");
    let (response, mut requests) = client.send_request(request, false).expect("an open connection");
    let response = response.await.expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-timeout"], "10S");
    let mut responses = response.into_body();
    for part in ["first", "second"] {
        requests.send_data(part.into(), false).expect("an open stream");
        let received = responses.data().await.expect("a part").expect("an open stream");
        assert_eq!(received, part);
    }
    let trailers = HeaderMap::from_iter([("x-sum".parse().expect("a name"), "2".parse().expect("a value"))]);
    requests.send_trailers(trailers).expect("an open stream");
    assert!(responses.data().await.is_none());
    let trailers = responses
        .trailers()
        .await
        .expect("an open stream")
        .expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-sum"], "2");
}

/// Calls a method with one message in each direction, and a method that the application does not have.
async fn check_unary(address: SocketAddr) {
    let mut client = open(address).await;
    let request = mk_call("/shop.Cart/Get");
    let (response, mut requests) = client.send_request(request, false).expect("an open connection");
    requests
        .send_data("message".into(), true)
        .expect("an open stream");
    let mut response = response.await.expect("a response").into_body();
    let received = response.data().await.expect("a message").expect("an open stream");
    assert_eq!(received, "message");
    assert!(response.data().await.is_none());
    let trailers = response
        .trailers()
        .await
        .expect("an open stream")
        .expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");

    let mut client = client.ready().await.expect("an open connection");
    let request = mk_call(MISSING_METHOD);
    let (response, _) = client.send_request(request, true).expect("an open connection");
    let response = response.await.expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
    assert!(response.body().is_end_stream());
}

/// Starts the sidecars for an application of HTTP/2 with each of these protocols. Calls `check` with the address of each
/// service, and with that of its Pod for direct access.
async fn check_applications(protocols: [&'static str; 3], check: impl AsyncFn(SocketAddr)) {
    let mut applications = Vec::new();
    for protocol in protocols {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        applications.push((protocol, listener.local_addr().expect("an address")));
        tokio::spawn(serve_http2(listener));
    }
    let (_sidecars, addresses) = start(applications).await;
    for (of_service_and_pod, protocol) in addresses.into_iter().zip(protocols) {
        for address in of_service_and_pod {
            let check = tokio::time::timeout(TIMEOUT, check(address));
            check.await.unwrap_or_else(|_| panic!("{protocol}: no response"));
        }
    }
}

/// Starts the sidecars for services. Returns them with the addresses that the client connects to: that of each service,
/// and that of its Pod for direct access.
async fn start(services: Vec<(&'static str, SocketAddr)>) -> (Sidecars, Vec<[SocketAddr; 2]>) {
    let start = tokio::task::spawn_blocking(move || {
        let sidecars = Sidecars::start(&services);
        let indices = 0..services.len();
        let addresses = indices.map(|index| [sidecars.outbound(index), sidecars.direct(index)]);
        let addresses = addresses.collect();
        (sidecars, addresses)
    });
    start.await.expect("the sidecars")
}

#[tokio::test]
async fn grpc_streams_in_both_directions_keep_their_deadline_and_trailers() {
    check_applications(["grpc", "http2", "tcp"], check_streams).await;
}

#[tokio::test]
async fn unary_grpc_calls_get_their_message_or_an_error_without_trailers() {
    check_applications(["grpc", "http2", "tcp"], check_unary).await;
}

#[tokio::test]
async fn sidecar_of_the_server_counts_grpc_calls_that_fail() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let application = listener.local_addr().expect("an address");
    tokio::spawn(serve_http2(listener));
    let (sidecars, addresses) = start(vec![("grpc", application)]).await;
    for address in addresses[0] {
        let check = tokio::time::timeout(TIMEOUT, check_unary(address));
        check.await.expect("a response");
    }
    let count = move |name| {
        sidecars
            .server
            .counter_sum(&format!(r"cluster\..*\.endpoint\..*\.{name}"))
    };
    let counts = ["rq_total", "rq_success", "rq_error"].map(count);
    assert_eq!(counts, [4, 2, 2]);
}

#[tokio::test]
async fn client_of_http_2_is_served_by_an_application_of_http_1_1() {
    let (to_test, requests) = mpsc::channel();
    let application = start_application(move |connection| {
        let request = read_text(connection, "\r\n\r\n");
        to_test.send(request).expect("the test runs");
        connection.write_all(OK.as_bytes()).expect("a response");
    });
    let (_sidecars, addresses) = start(vec![("http", application)]).await;
    for address in addresses[0] {
        let mut client = open(address).await;
        let request = Request::get("http://web/cart").body(()).expect("a request");
        let (response, _) = client.send_request(request, true).expect("an open connection");
        let response = tokio::time::timeout(TIMEOUT, response).await.expect("no timeout");
        let mut body = response.expect("a response").into_body();
        let received = body.data().await.expect("a body").expect("an open stream");
        assert_eq!(received, "ok");
        let request = requests.try_recv().expect("a request");
        assert!(
            request.starts_with("GET /cart HTTP/1.1\r\nhost: web\r\n"),
            "{request}"
        );
    }
}
