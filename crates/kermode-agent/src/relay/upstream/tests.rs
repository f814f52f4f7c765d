//! Tests of the upstream stream's reconnections and their backoff.

use std::path::PathBuf;

use futures::stream;
use tonic::transport::Endpoint;

use super::*;

type ResponseResult = Result<DeltaDiscoveryResponse, Status>;

fn mk_stream() -> UpstreamStream {
    let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    UpstreamStream::new(Client::new(channel), TokenFile::new(PathBuf::new()))
}

fn backoff_after(failures: usize) -> Backoff {
    let mut backoff = Backoff::default();
    for _ in 0..failures {
        backoff.next(0.0);
    }
    backoff
}

/// Returns the state of a stream that receives an empty response, then `items`, and then ends.
fn mk_opening(items: Vec<ResponseResult>) -> State {
    let responses: Responses = stream::iter(items).boxed();
    State::Opening(Box::pin(std::future::ready(Ok((
        DeltaDiscoveryResponse::default(),
        responses,
    )))))
}

fn is_paused(upstream: &UpstreamStream) -> bool {
    matches!(upstream.state, State::Paused(_)) && upstream.requests.is_none()
}

#[tokio::test]
async fn denied_stream_increases_the_backoff_and_a_response_resets_it() {
    let mut upstream = mk_stream();
    for denials in 1..=2 {
        let denied = Status::unauthenticated("invalid token");
        upstream.state = State::Opening(Box::pin(std::future::ready(Err(denied))));
        assert!(matches!(upstream.next().await, Event::Closed));
        assert!(is_paused(&upstream));
        assert_eq!(upstream.backoff, backoff_after(denials));
    }
    upstream.state = mk_opening(vec![Err(Status::unavailable("this replica shuts down"))]);
    assert!(matches!(upstream.next().await, Event::Response(_)));
    assert_eq!(upstream.backoff, backoff_after(0));
    assert!(matches!(upstream.next().await, Event::Closed));
    assert_eq!(upstream.backoff, backoff_after(1));
}

#[tokio::test]
async fn ended_stream_is_reopened() {
    let mut upstream = mk_stream();
    upstream.state = mk_opening(Vec::new());
    assert!(matches!(upstream.next().await, Event::Response(_)));
    assert!(matches!(upstream.next().await, Event::Closed));
    assert!(matches!(upstream.next().await, Event::Opening));
    assert!(upstream.requests.is_some());
    // The attempt fails, because the token file does not exist.
    assert!(matches!(upstream.next().await, Event::Closed));
    assert!(is_paused(&upstream));
}

#[tokio::test]
async fn control_plane_that_reads_nothing_is_disconnected() {
    let mut upstream = mk_stream();
    let (sender, _receiver) = mpsc::channel(1);
    upstream.requests = Some(sender);
    upstream.state = State::Open(stream::pending().boxed());
    for _ in 0..2 {
        upstream.send(DeltaDiscoveryRequest::default());
    }
    assert!(matches!(upstream.next().await, Event::Closed));
}
