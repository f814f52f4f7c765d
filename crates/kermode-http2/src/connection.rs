//! The task of one connection: accepts calls, polls them, and decides when the connection ends.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use h2::server::{Builder, Connection, Handshake};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::handler::{AfterCall, CallHandler};
use crate::repoll::Repoll;

/// Maximum number of concurrent calls of a connection. An agent makes at most six: ADS, trust bundles, a certificate,
/// the removal of its endpoint, the end of its application, and a closed port, besides lookups of names.
const MAX_CONCURRENT_CALLS: u32 = 32;
/// Maximum size of the headers of a request, in bytes. A service-account token takes about 2,000 bytes.
const MAX_HEADER_SIZE: u32 = 16 * 1024;
/// Receive window of a connection, in bytes. Larger than the 64 KiB window of a call, so that a call whose request body
/// is not read does not block other calls.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Size of the send buffer of a call, in bytes: two frames. Bounds the memory that a slow client takes.
const SEND_BUFFER_SIZE: usize = 32 * 1024;

/// Time without calls after which GOAWAY is sent to the client. Bounds how long an unused connection counts against
/// the server's limit on connections.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Time after GOAWAY at which the connection is dropped, even if calls are open.
const CLOSE_TIMEOUT: Duration = Duration::from_mins(1);

/// Output of a future that is polled together with the connection.
enum DriverEvent {
    CallEnded(AfterCall),
    ShutdownRequested,
}

/// Serves a connection until it ends. Calls `on_call` for every accepted call.
///
/// GOAWAY is sent to the client once `shutdown` completes, after a minute without calls, or when a call requests it
/// ([`AfterCall::CloseConnection`]). The connection then ends with its last call, at the latest a minute after GOAWAY.
/// This function has no timeout for the first call; the caller has to set one.
///
/// # Errors
/// When the connection breaks or the client violates HTTP/2.
pub fn serve<IO, H>(
    io: IO,
    handler: H,
    on_call: impl Fn() + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<(), h2::Error>> + Send + 'static
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: CallHandler,
{
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_CONCURRENT_CALLS)
        .max_header_list_size(MAX_HEADER_SIZE)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER_SIZE)
        .handshake(io);
    // The handshake is boxed, so that the future of `drive` does not reserve space for both the handshake and the
    // connection.
    Repoll::new(Box::pin(drive(Box::pin(handshake), handler, on_call, shutdown)))
}

/// Performs the handshake, then serves the connection.
async fn drive<IO, H>(
    handshake: Pin<Box<Handshake<IO>>>,
    handler: H,
    on_call: impl Fn() + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: CallHandler,
{
    let mut shutdown = shutdown.map(|()| DriverEvent::ShutdownRequested).boxed();
    let connection = tokio::select! {
        connection = handshake => Box::new(connection?),
        _ = &mut shutdown => return Ok(()),
    };
    // `FuturesUnordered` polls only futures that were woken. All connections share the shutdown signal, so polling it
    // at every wake-up would cause contention.
    let event_futures = FuturesUnordered::from_iter([shutdown]);
    let driver = Driver {
        connection,
        event_futures,
        open_calls: 0,
        is_closing: false,
        deadline: None,
    };
    driver.run(handler, on_call).await
}

/// State of a connection after its handshake.
struct Driver<IO> {
    connection: Box<Connection<IO, Bytes>>,
    /// The open calls, and the shutdown signal until it completes.
    event_futures: FuturesUnordered<BoxFuture<'static, DriverEvent>>,
    /// Number of open calls.
    open_calls: usize,
    /// Whether GOAWAY was sent.
    is_closing: bool,
    /// Time at which an idle connection is sent GOAWAY, or a closing connection is dropped.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async fn run(mut self, handler: impl CallHandler, on_call: impl Fn()) -> Result<(), h2::Error> {
        loop {
            tokio::select! {
                // Calls are polled before the connection, which then writes their responses.
                biased;
                Some(event) = self.event_futures.next() => match event {
                    DriverEvent::CallEnded(after) => self.end_call(after),
                    DriverEvent::ShutdownRequested => self.close(),
                },
                call = self.connection.accept() => {
                    let Some(call) = call else { return Ok(()) };
                    let (request, respond) = call?;
                    on_call();
                    self.start_call(handler.clone().serve(request, respond));
                }
                () = wait_for_deadline(&mut self.deadline) => {
                    if self.is_closing {
                        return Ok(());
                    }
                    self.close();
                }
            }
        }
    }

    fn start_call(&mut self, call: impl Future<Output = AfterCall> + Send + 'static) {
        self.open_calls += 1;
        if !self.is_closing {
            self.deadline = None;
        }
        self.event_futures.push(call.map(DriverEvent::CallEnded).boxed());
    }

    fn end_call(&mut self, after: AfterCall) {
        self.open_calls -= 1;
        if after == AfterCall::CloseConnection {
            self.close();
        } else if self.open_calls == 0 && !self.is_closing {
            self.deadline = Some(Box::pin(sleep(IDLE_TIMEOUT)));
        }
    }

    /// Sends GOAWAY, unless it was sent before.
    fn close(&mut self) {
        if !self.is_closing {
            self.is_closing = true;
            self.connection.graceful_shutdown();
            self.deadline = Some(Box::pin(sleep(CLOSE_TIMEOUT)));
        }
    }
}

/// Completes at the deadline, or never if there is none.
async fn wait_for_deadline(deadline: &mut Option<Pin<Box<Sleep>>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
