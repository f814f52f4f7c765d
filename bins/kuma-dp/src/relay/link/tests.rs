//! When a stream is opened again, and after how long.

use std::path::PathBuf;

use futures::stream;
use tonic::transport::Endpoint;

use super::*;
use crate::token::TokenFile;

type Item = Result<DeltaDiscoveryResponse, Status>;

fn mk_link() -> Link {
    let nowhere = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    Link::new(Upstream::new(nowhere, TokenFile::new(PathBuf::new())))
}

fn after(failures: usize) -> Backoff {
    let mut backoff = Backoff::default();
    for _ in 0..failures {
        backoff.next(0.0);
    }
    backoff
}

fn opened(items: Vec<Item>) -> State {
    let responses: Responses = stream::iter(items).boxed();
    State::Opening(Box::pin(std::future::ready(Ok((
        DeltaDiscoveryResponse::default(),
        responses,
    )))))
}

fn is_waiting(link: &Link) -> bool {
    matches!(link.state, State::Waiting(_)) && link.requests.is_none()
}

#[tokio::test]
async fn a_refusal_inside_the_stream_waits_and_counts_until_a_response_comes() {
    let mut link = mk_link();
    for refusals in 1..=2 {
        let refused = Status::unauthenticated("who?");
        link.state = State::Opening(Box::pin(std::future::ready(Err(refused))));
        assert!(matches!(link.next().await, Event::Closed));
        assert!(is_waiting(&link));
        assert_eq!(link.backoff, after(refusals));
    }
    link.state = opened(vec![Err(Status::unavailable("this replica shuts down"))]);
    assert!(matches!(link.next().await, Event::Response(_)));
    assert_eq!(link.backoff, after(0));
    assert!(matches!(link.next().await, Event::Closed));
    assert_eq!(link.backoff, after(1));
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again() {
    let mut link = mk_link();
    link.state = opened(Vec::new());
    assert!(matches!(link.next().await, Event::Response(_)));
    assert!(matches!(link.next().await, Event::Closed));
    // Nothing listens there, and there is no token.
    assert!(matches!(link.next().await, Event::Opening));
    assert!(link.requests.is_some());
    assert!(matches!(link.next().await, Event::Closed));
    assert!(is_waiting(&link));
}

#[tokio::test]
async fn a_control_plane_that_reads_nothing_is_left() {
    let mut link = mk_link();
    let (sender, _receiver) = mpsc::channel(1);
    link.requests = Some(sender);
    link.state = State::Open(stream::pending().boxed());
    for _ in 0..2 {
        link.send(DeltaDiscoveryRequest::default());
    }
    assert!(matches!(link.next().await, Event::Closed));
}
