//! Tests that reviews get responses while hostile clients hold as many connections as the server permits.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::api_server::Mode;
use super::caller::Caller;
use super::fixture::{Fixture, MAX_CONNECTIONS};
use super::review::{AdmissionResponse, pod, review};

/// Number of hostile clients, which hold connections.
const HOSTILE_CLIENTS: u8 = 8;
/// Number of connections that each hostile client tries to hold. All clients together try to hold twice as many
/// connections as the server permits.
const CONNECTIONS_EACH: usize = MAX_CONNECTIONS / 4;
/// Number of reviews that the API server sends.
const REVIEWS: usize = 100;
/// Number of reviews that the API server sends concurrently.
const CONCURRENT_REVIEWS: usize = 20;
/// Time limit of the test.
const TIMEOUT: Duration = Duration::from_mins(2);

/// Beginning of a review whose body never ends.
const ENDLESS_REVIEW: &[u8] =
    b"POST /inject-sidecar?timeout=30s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
/// A complete request, after which the connection stays open.
const COMPLETE_REQUEST: &[u8] =
    b"POST /inject-sidecar HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";

/// Opens a connection, brings it to one of four states, and holds it until the server closes it. Adds a permit to
/// `opened` when the connection is in the state.
///
/// The states are: 0, without TLS; 1, after the TLS handshake; 2, in the middle of a request; 3, after a complete
/// request.
async fn hold(caller: &Caller, from: IpAddr, state: usize, opened: &Semaphore) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut tcp = socket.connect(caller.address).await?;
    if state == 0 {
        opened.add_permits(1);
        return tcp.read(&mut [0]).await.map(drop);
    }
    let mut tls = caller.start_tls(tcp, b"http/1.1").await?;
    match state {
        1 => {}
        2 => tls.write_all(ENDLESS_REVIEW).await?,
        _ => tls.write_all(COMPLETE_REQUEST).await?,
    }
    opened.add_permits(1);
    let mut buffer = [0; 256];
    while tls.read(&mut buffer).await? > 0 {}
    Ok(())
}

#[tokio::test]
async fn every_review_gets_a_response_while_hostile_clients_hold_all_connections() {
    let fixture = Fixture::new(Mode::Responds).await;
    let opened = Arc::new(Semaphore::new(0));
    let mut holders = JoinSet::new();
    for client in 0..HOSTILE_CLIENTS {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, client));
        for number in 0..CONNECTIONS_EACH {
            let (caller, opened) = (fixture.caller.clone(), opened.clone());
            holders.spawn(async move {
                loop {
                    // When the server closes the connection, the client opens a new connection.
                    let _ = hold(&caller, from, number % 4, &opened).await;
                    tokio::task::yield_now().await;
                }
            });
        }
    }
    let send_reviews = async {
        // Wait until the hostile clients have opened as many connections as the server permits.
        let permitted = u32::try_from(MAX_CONNECTIONS).expect("a small number");
        let _permits = opened.acquire_many(permitted).await.expect("an open semaphore");
        let reviews = stream::iter(0..REVIEWS).map(|number| {
            let caller = fixture.caller.clone();
            async move {
                let body = review(&format!("u-{number}"), "shop", "Pod", pod()).to_string();
                AdmissionResponse::read(&caller.post("/inject-sidecar?timeout=10s", body).await)
            }
        });
        let responses: Vec<_> = reviews.buffer_unordered(CONCURRENT_REVIEWS).collect().await;
        assert_eq!(responses.len(), REVIEWS);
        assert!(responses.iter().all(|response| response.allowed));
    };
    tokio::time::timeout(TIMEOUT, send_reviews)
        .await
        .expect("every review gets a response");
}
