//! The connections of proxies: HTTP/2, and the calls on them.
//!
//! A connection and all its calls are one task. General servers have one for the connection and one for each call, and
//! hand messages from one to the other; when thousands of proxies are told of a change at once, that costs more than
//! what is told.

mod other;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use h2::server::{Builder, Handshake, SendResponse};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tower::Service;

use super::AdsServer;
use super::again::Again;
use kermode_protocol::ads::DELTA_AGGREGATED_RESOURCES;

/// Calls that a connection may have at once: `kuma-dp` has ADS, roots, now and then a certificate, at last its departure.
const CALLS: u32 = 32;
/// The largest head of a request, in bytes; a token takes two thousand.
const MAX_HEAD: u32 = 16 * 1024;
/// What may come on a connection before it was read, in bytes: one call that is not read shall not hold up the others,
/// which may have 64 KiB each.
const WINDOW: u32 = 1 << 20;
/// How much of a response waits in a call for a client that does not read as fast, in bytes: two frames.
const SEND_BUFFER: usize = 32 * 1024;

/// How long a connection stays without a call, and how long one that is to end with its last call waits for that: whoever
/// has no use for it, or makes ever new calls, shall not keep its place.
const STAY: Duration = Duration::from_mins(1);

/// Serves delta ADS itself and leaves all other calls to a service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transport<S> {
    ads: AdsServer,
    others: S,
}

/// What has ended.
enum Part {
    Call(After),
    /// The time in which calls are accepted.
    Closing,
}

/// What a call's end means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Stay,
    /// The client is better off elsewhere: it has to connect anew, by the Service, for its next call.
    Leave,
}

// === impl Transport ===

impl<S> Transport<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    /// With what answers other calls.
    pub fn new(ads: AdsServer, others: S) -> Self {
        Self { ads, others }
    }

    /// Serves a connection until its end, and says with `asked` that a call came. When `closing` completes, the client is
    /// told to make no more calls here, and the connection ends with the last one, or a minute later. It also ends when there
    /// was no call for a minute.
    ///
    /// # Errors
    /// When the connection breaks, or the client does not keep to the protocol.
    pub fn serve<IO>(
        self,
        io: IO,
        asked: impl Fn() + Send + 'static,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), h2::Error>> + Send + 'static
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = Builder::new()
            .max_concurrent_streams(CALLS)
            .max_header_list_size(MAX_HEAD)
            .initial_connection_window_size(WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(io);
        // The handshake in a box of its own: the task would have room for it beside the connection.
        Again::new(Box::pin(self.drive(Box::pin(handshake), asked, closing)))
    }

    async fn drive<IO>(
        self,
        handshake: Pin<Box<Handshake<IO>>>,
        asked: impl Fn() + Send + 'static,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut closing = closing.map(|()| Part::Closing).boxed();
        let mut connection = tokio::select! {
            connection = handshake => Box::new(connection?),
            _ = &mut closing => return Ok(()),
        };
        // All that is waited for beside the connection. Of these only what was woken is polled: what tells of the end
        // is one for all connections, and a look at it costs each of them more than it seems.
        let mut parts = FuturesUnordered::new();
        parts.push(closing);
        let (mut calls, mut leaving) = (0_usize, false);
        // What comes before the first call has a deadline of its own.
        let mut end: Option<Pin<Box<Sleep>>> = None;
        loop {
            let leaves = tokio::select! {
                // What calls send goes out with the connection, which therefore comes after them.
                biased;
                Some(ended) = parts.next() => match ended {
                    Part::Call(after) => {
                        calls -= 1;
                        if calls == 0 && !leaving {
                            end = Some(Box::pin(sleep(STAY)));
                        }
                        after == After::Leave
                    }
                    Part::Closing => true,
                },
                call = connection.accept() => match call {
                    Some(Ok((request, respond))) => {
                        asked();
                        calls += 1;
                        if !leaving {
                            end = None;
                        }
                        parts.push(self.call(request, respond).map(Part::Call).boxed());
                        false
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                () = passed(&mut end) => {
                    if leaving {
                        return Ok(());
                    }
                    true
                }
            };
            if leaves && !leaving {
                leaving = true;
                connection.graceful_shutdown();
                end = Some(Box::pin(sleep(STAY)));
            }
        }
    }

    fn call(
        &self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Either<impl Future<Output = After> + Send + use<S>, impl Future<Output = After> + Send + use<S>>
    {
        if request.uri().path() == DELTA_AGGREGATED_RESOURCES {
            Either::Left(self.ads.clone().call(request, respond))
        } else {
            let serving = Box::pin(other::serve(self.others.clone(), request, respond));
            Either::Right(serving.map(|()| After::Stay))
        }
    }
}

/// Completes when the time has passed; never when there is none.
async fn passed(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// Sends some of the data, as soon as the client takes any, and removes it.
pub(super) async fn send_part(stream: &mut SendStream<Bytes>, data: &mut Bytes) -> Result<(), h2::Error> {
    stream.reserve_capacity(data.len());
    let mut capacity = stream.capacity();
    while capacity == 0 {
        capacity = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(capacity) => capacity?,
            None => return Err(h2::Reason::STREAM_CLOSED.into()),
        };
    }
    let part = data.split_to(data.len().min(capacity));
    stream.send_data(part, false)
}

/// Completes when the client, or the end of its connection, has ended the call.
pub(super) async fn until_reset(stream: &mut SendStream<Bytes>) {
    let _ = poll_fn(|context| stream.poll_reset(context)).await;
}

#[cfg(test)]
mod tests;
