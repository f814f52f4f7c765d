//! The stream to the control plane, opened again whenever it ends, after a wait.

use std::error::Error as _;
use std::pin::Pin;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::upstream::Upstream;

/// How long the control plane may take from the attempt to connect to the first response. It waits itself for a while for
/// a proxy that it has not heard of.
const FIRST_RESPONSE: Duration = Duration::from_secs(30);
/// How many requests may wait for a control plane that does not read.
const QUEUED: usize = 1024;

type Responses = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

/// What happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A stream begins: what is sent from now on goes there.
    Opening,
    /// The control plane says something.
    Response(DeltaDiscoveryResponse),
    /// The stream has ended, or could not be had.
    Closed,
}

/// The stream, or the wait for the next one.
pub(super) struct Link {
    upstream: Upstream,
    backoff: Backoff,
    state: State,
    requests: Option<mpsc::Sender<DeltaDiscoveryRequest>>,
}

enum State {
    Waiting(Pin<Box<Sleep>>),
    /// From the attempt to connect to the first response: the control plane refuses inside the stream, so only a response
    /// says that it is well.
    Opening(BoxFuture<'static, Result<(DeltaDiscoveryResponse, Responses), Status>>),
    Open(Responses),
}

// === impl Link ===

impl Link {
    /// Opens streams with the first call of [`Link::next`].
    pub(super) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            backoff: Backoff::default(),
            state: State::Waiting(Box::pin(sleep(Duration::ZERO))),
            requests: None,
        }
    }

    /// Sends on the stream there is. A control plane that does not read is left.
    pub(super) fn send(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(requests) = &self.requests
            && let Err(mpsc::error::TrySendError::Full(_)) = requests.try_send(request)
        {
            let status = Status::unavailable("the control plane does not read requests");
            self.state = State::Opening(Box::pin(std::future::ready(Err(status))));
        }
    }

    /// What happens next. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Event {
        match &mut self.state {
            State::Waiting(wait) => {
                wait.await;
                let (sender, receiver) = mpsc::channel(QUEUED);
                self.requests = Some(sender);
                let opened = open(self.upstream.clone(), ReceiverStream::new(receiver));
                self.state = State::Opening(Box::pin(opened));
                Event::Opening
            }
            State::Opening(opening) => match opening.await {
                Ok((response, responses)) => {
                    tracing::info!("connected to the control plane");
                    self.backoff.reset();
                    self.state = State::Open(responses);
                    Event::Response(response)
                }
                Err(status) => {
                    let jitter = fastrand::f64();
                    let wait = match status.code() {
                        Code::NotFound => self.backoff.next_early(jitter),
                        _ => self.backoff.next(jitter),
                    };
                    self.wait(&status, wait)
                }
            },
            State::Open(responses) => match responses.next().await {
                Some(Ok(response)) => Event::Response(response),
                ended => {
                    let status = ended
                        .and_then(Result::err)
                        .unwrap_or_else(|| Status::unavailable("the control plane ended the stream"));
                    let jitter = fastrand::f64();
                    // Who is told to go elsewhere is told with few others. Those whose connection breaks have company.
                    let wait = if status.source().is_some() {
                        self.backoff.lost(jitter)
                    } else {
                        self.backoff.next(jitter)
                    };
                    self.wait(&status, wait)
                }
            },
        }
    }

    fn wait(&mut self, status: &Status, wait: Duration) -> Event {
        tracing::warn!(code = ?status.code(), error = status.message(), ?wait, "no stream from the control plane");
        self.requests = None;
        self.state = State::Waiting(Box::pin(sleep(wait)));
        Event::Closed
    }
}

/// Opens a stream and waits for its first response.
async fn open(
    upstream: Upstream,
    requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
) -> Result<(DeltaDiscoveryResponse, Responses), Status> {
    let first = async {
        let opened = upstream.open(requests).await;
        let mut responses = opened.map_err(|error| refusal(&error))?;
        let first = responses.message().await?;
        let ended = || Status::unavailable("the control plane ended the stream without a response");
        Ok((first.ok_or_else(ended)?, responses.boxed()))
    };
    let late = Status::deadline_exceeded(format!("no response within {FIRST_RESPONSE:?}"));
    timeout(FIRST_RESPONSE, first).await.unwrap_or(Err(late))
}

/// Why a stream could not be had: in the control plane's words, or by what is at the bottom of it.
fn refusal(error: &anyhow::Error) -> Status {
    match error.downcast_ref::<Status>() {
        Some(status) if status.source().is_none() => Status::new(status.code(), status.message()),
        other => {
            let code = other.map_or(Code::Unavailable, Status::code);
            Status::new(code, error.root_cause().to_string())
        }
    }
}

#[cfg(test)]
mod tests;
