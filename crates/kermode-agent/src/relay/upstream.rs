//! ADS stream to the control plane. A stream that ends is reopened with backoff.

use std::error::Error as _;
use std::pin::Pin;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kermode_protocol::client::Client;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::token::TokenFile;

/// Timeout from the connection attempt to the first response. The timeout includes the time for which the control
/// plane waits for a Dataplane that it has not seen yet.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit on requests that wait to be sent. Above the limit, the agent disconnects from a control plane that does not
/// read.
const MAX_QUEUED_REQUESTS: usize = 1024;

type Responses = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

/// Event of the stream.
#[derive(Debug)]
pub(super) enum Event {
    /// A new stream is being opened. The new stream carries all requests that are sent from now on.
    Opening,
    /// Response of the control plane.
    Response(DeltaDiscoveryResponse),
    /// The stream ended or could not be opened.
    Closed,
}

/// The current stream to the control plane, or the pause before the next one.
pub(super) struct UpstreamStream {
    client: Client,
    token: TokenFile,
    backoff: Backoff,
    state: State,
    /// Queue of requests on the current stream; `None` during a pause.
    requests: Option<mpsc::Sender<DeltaDiscoveryRequest>>,
}

enum State {
    Paused(Pin<Box<Sleep>>),
    /// From the connection attempt to the first response. The control plane may accept a call and then end its stream
    /// with an error, so only a response proves success.
    Opening(BoxFuture<'static, Result<(DeltaDiscoveryResponse, Responses), Status>>),
    Open(Responses),
}

// === impl UpstreamStream ===

impl UpstreamStream {
    /// Returns a stream that opens with the first call of [`UpstreamStream::next`].
    pub(super) fn new(client: Client, token: TokenFile) -> Self {
        Self {
            client,
            token,
            backoff: Backoff::default(),
            state: State::Paused(Box::pin(sleep(Duration::ZERO))),
            requests: None,
        }
    }

    /// Sends a request on the current stream, if any. Disconnects if the queue is full.
    pub(super) fn send(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(requests) = &self.requests
            && let Err(mpsc::error::TrySendError::Full(_)) = requests.try_send(request)
        {
            // `next` then reports the end of the stream and starts a pause.
            let status = Status::unavailable("the control plane does not read requests");
            self.state = State::Opening(Box::pin(std::future::ready(Err(status))));
        }
    }

    /// Returns the next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> Event {
        match &mut self.state {
            State::Paused(pause) => {
                pause.await;
                let (sender, receiver) = mpsc::channel(MAX_QUEUED_REQUESTS);
                self.requests = Some(sender);
                let opened = open(
                    self.client.clone(),
                    self.token.clone(),
                    ReceiverStream::new(receiver),
                );
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
                    let pause = match status.code() {
                        Code::NotFound => self.backoff.next_after_not_found(jitter),
                        _ => self.backoff.next(jitter),
                    };
                    self.start_pause(&status, pause)
                }
            },
            State::Open(responses) => match responses.next().await {
                Some(Ok(response)) => Event::Response(response),
                ended => {
                    let status = ended
                        .and_then(Result::err)
                        .unwrap_or_else(|| Status::unavailable("the control plane ended the stream"));
                    let jitter = fastrand::f64();
                    // A replica that ends streams with a status ends only a few at a time. A lost connection affects
                    // all proxies of a replica, so the proxies spread their reconnections over a longer time.
                    let is_connection_lost = status.source().is_some();
                    let pause = if is_connection_lost {
                        self.backoff.next_after_loss(jitter)
                    } else {
                        self.backoff.next(jitter)
                    };
                    self.start_pause(&status, pause)
                }
            },
        }
    }

    /// Starts a pause after the stream ended, or could not be opened, with `status`.
    fn start_pause(&mut self, status: &Status, pause: Duration) -> Event {
        tracing::warn!(
            code = ?status.code(),
            error = status.message(),
            ?pause,
            "there is no ADS stream to the control plane; the agent opens one after a pause"
        );
        self.requests = None;
        self.state = State::Paused(Box::pin(sleep(pause)));
        Event::Closed
    }
}

/// Opens a stream and waits for its first response.
async fn open(
    client: Client,
    token: TokenFile,
    requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
) -> Result<(DeltaDiscoveryResponse, Responses), Status> {
    let opened = async {
        let authorization = token.authorization().await;
        let authorization =
            authorization.map_err(|error| Status::unavailable(error.root_cause().to_string()))?;
        let responses = client.stream_resources(authorization, requests).await;
        let mut responses = responses.map_err(root_cause)?;
        let first = responses.message().await?;
        match first {
            Some(first) => Ok((first, responses.boxed())),
            None => Err(Status::unavailable(
                "the control plane ended the stream without a response",
            )),
        }
    };
    let timed_out = Status::deadline_exceeded(format!("no response within {FIRST_RESPONSE_TIMEOUT:?}"));
    timeout(FIRST_RESPONSE_TIMEOUT, opened)
        .await
        .unwrap_or(Err(timed_out))
}

/// Replaces the message of a status by the message of its innermost source, if there is a source. For a connection that
/// failed, only the innermost source names the cause.
fn root_cause(status: Status) -> Status {
    let mut message = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        message = error.to_string();
        source = error.source();
    }
    Status::new(status.code(), message)
}

#[cfg(test)]
mod tests;
