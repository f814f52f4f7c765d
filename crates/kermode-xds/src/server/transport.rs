//! The connections of proxies: HTTP/2, and the calls on them.
//!
//! A connection and all its calls are one task. General servers have one for the connection and one for each call, and
//! hand messages from one to the other; when thousands of proxies are told of a change at once, that costs more than
//! what is told.

mod other;

use std::convert::Infallible;
use std::future::poll_fn;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower::Service;

use super::AdsServer;
use super::again::Again;
use crate::wire::DELTA_AGGREGATED_RESOURCES;

/// Calls that a connection may have at once: `kuma-dp` has ADS, roots, now and then a certificate, at last its departure.
const CALLS: u32 = 32;
/// The largest head of a request, in bytes; a token takes two thousand.
const MAX_HEAD: u32 = 16 * 1024;
/// What may come on a connection before it was read, in bytes: one call that is not read shall not hold up the others,
/// which may have 64 KiB each.
const WINDOW: u32 = 1 << 20;
/// How much of a response waits in a call for a client that does not read as fast, in bytes: two frames.
const SEND_BUFFER: usize = 32 * 1024;

/// Serves delta ADS itself and leaves all other calls to a service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transport<S> {
    ads: AdsServer,
    others: S,
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

    /// Serves a connection until its end, and says with `asked` that a call came. From `closing` on no new calls are
    /// accepted, and it ends with the last one.
    ///
    /// # Errors
    /// When the connection breaks, or the client does not keep to the protocol.
    pub async fn serve<IO>(
        self,
        io: IO,
        asked: impl Fn() + Send + 'static,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Again::new(Box::pin(self.drive(io, asked, closing))).await
    }

    async fn drive<IO>(
        self,
        io: IO,
        asked: impl Fn() + Send + 'static,
        closing: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut connection = Builder::new()
            .max_concurrent_streams(CALLS)
            .max_header_list_size(MAX_HEAD)
            .initial_connection_window_size(WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(io)
            .await?;
        let mut calls = FuturesUnordered::new();
        let mut closing = std::pin::pin!(closing);
        let mut closes = false;
        loop {
            tokio::select! {
                // What calls send goes out with the connection, which therefore comes after them.
                biased;
                Some(()) = calls.next(), if !calls.is_empty() => {}
                call = connection.accept() => match call {
                    Some(Ok((request, respond))) => {
                        asked();
                        calls.push(self.call(request, respond));
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                () = &mut closing, if !closes => {
                    closes = true;
                    connection.graceful_shutdown();
                }
            }
        }
    }

    fn call(
        &self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> BoxFuture<'static, ()> {
        if request.uri().path() == DELTA_AGGREGATED_RESOURCES {
            Box::pin(self.ads.clone().call(request, respond))
        } else {
            Box::pin(other::serve(self.others.clone(), request, respond))
        }
    }
}

/// Sends data as the client takes it.
pub(super) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            match poll_fn(|context| stream.poll_capacity(context)).await {
                Some(capacity) => capacity?,
                None => return Err(h2::Reason::STREAM_CLOSED.into()),
            };
        }
        let part = data.split_to(data.len().min(stream.capacity()));
        if !part.is_empty() {
            stream.send_data(part, false)?;
        }
    }
    Ok(())
}

/// Completes when the client, or the end of its connection, has ended the call.
pub(super) async fn reset(stream: &mut SendStream<Bytes>) {
    let _ = poll_fn(|context| stream.poll_reset(context)).await;
}

#[cfg(test)]
mod tests;
