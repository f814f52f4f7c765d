//! Cost of an exchange: the server sends one message to each of many clients, and each client sends one response. Each
//! client has a connection of its own. The server uses only the transport libraries of `kuma-cp`.
//!
//! The cost is the part of a control plane's CPU time that the transport determines. Two variants compare libraries:
//! tonic's server with a server on `h2`, and the client of `make bench-control-plane` with a client on `h2`.

mod client;
mod server;
mod tonic_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use crate::figures::print_line;
use crate::process::Process;

/// Size of a message, in bytes, with the prefix that gRPC adds. In `make bench-control-plane`, a sidecar receives 280
/// bytes for a change with 100 sidecars, and 690 bytes with 1,000.
const MESSAGE_SIZE: usize = 500;
/// Size of a response, in bytes, with the prefix that gRPC adds. An ACK has this size.
const RESPONSE_SIZE: usize = 120;
/// Size of the prefix of a gRPC message, in bytes.
const GRPC_PREFIX: usize = 5;
/// Timeout of an exchange.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Transport between server and clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP alone.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// One HTTP/2 stream over TLS, as in gRPC, on `h2` on both sides.
    Http2,
    /// Like [`Transport::Http2`], with tonic's server.
    TonicServer,
    /// Like [`Transport::Http2`], with the client of the simulated sidecars.
    SidecarClient,
}

/// Connected clients and their server, between which exchanges run.
pub struct Exchange {
    /// Number of the current exchange. When it increases, the server sends a message to each client.
    number: watch::Sender<u64>,
    responses: Arc<ResponseCounter>,
    server: Runtime,
    clients: Clients,
    /// This process, which runs the server and the clients.
    process: Process,
}

/// All clients, on one thread. Dropping the value ends the thread.
struct Clients {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    /// The thread in `/proc`, for its CPU time.
    thread_usage: Process,
}

/// Cost of a round of exchanges.
#[derive(Clone, Copy, Debug)]
pub struct RoundCost {
    /// CPU time of the server.
    pub server_cpu: Duration,
    /// CPU time of the clients.
    pub client_cpu: Duration,
    /// Wall time until the last response.
    pub wall: Duration,
}

/// Counts the responses of an exchange.
struct ResponseCounter {
    /// Number of responses in the current exchange.
    received: AtomicUsize,
    /// Number of clients, each of which responds once.
    clients: usize,
    all_received: Notify,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Returns a gRPC message of `size` bytes with its prefix.
fn grpc_message(size: usize) -> Result<Bytes> {
    let length = size - GRPC_PREFIX;
    let mut message = BytesMut::with_capacity(size);
    message.put_u8(0);
    message.put_u32(u32::try_from(length)?);
    message.put_bytes(7, length);
    Ok(message.freeze())
}

/// Runs a task. If the task fails, prints the description of the failure and the error; the exchange then fails with a
/// timeout.
async fn run_and_print_error(description: &str, task: impl Future<Output = Result<()>>) {
    if let Err(error) = task.await {
        print_line(&format!("  {description}: {error:#}"));
    }
}

// === impl Exchange ===

impl Exchange {
    /// Connects the clients over loopback and exchanges one message with each.
    ///
    /// # Errors
    /// When a client cannot be connected.
    pub fn start(transport: Transport, clients: usize) -> Result<Self> {
        let server = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let listener = server.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (number, exchange_numbers) = watch::channel(0);
        let responses = Arc::new(ResponseCounter {
            received: AtomicUsize::default(),
            clients,
            all_received: Notify::new(),
        });
        let (acceptor, ca_pem) = server::acceptor()?;
        let serving = server::accept(listener, transport, acceptor, exchange_numbers, responses.clone());
        server.spawn(run_and_print_error("the server cannot accept", serving));
        let clients = Clients::start(client::connect(address, transport, clients, ca_pem))?;
        let exchange = Self {
            number,
            responses,
            server,
            clients,
            process: Process::new(std::process::id())?,
        };
        exchange.exchange()?;
        Ok(exchange)
    }

    /// Runs a round of consecutive exchanges. Each begins after all clients have responded in the previous exchange.
    ///
    /// # Errors
    /// When a client does not respond.
    pub fn run_round(&self, exchanges: usize) -> Result<RoundCost> {
        let server_cpu_before = self.server_cpu_time()?;
        let client_cpu_before = self.clients.thread_usage.cpu_time()?;
        let started_at = Instant::now();
        for _ in 0..exchanges {
            self.exchange()?;
        }
        let client_cpu = self.clients.thread_usage.cpu_time()?;
        Ok(RoundCost {
            server_cpu: self.server_cpu_time()?.saturating_sub(server_cpu_before),
            client_cpu: client_cpu.saturating_sub(client_cpu_before),
            wall: started_at.elapsed(),
        })
    }

    /// Sends a message to each client and waits for all responses.
    fn exchange(&self) -> Result<()> {
        self.responses.received.store(0, Ordering::SeqCst);
        self.number.send_modify(|number| *number += 1);
        let all_received =
            async { tokio::time::timeout(TIMEOUT, self.responses.all_received.notified()).await };
        self.server
            .block_on(all_received)
            .context("not all clients responded")
    }

    /// Returns the CPU time of the process without the thread of the clients.
    fn server_cpu_time(&self) -> Result<Duration> {
        Ok(self
            .process
            .cpu_time()?
            .saturating_sub(self.clients.thread_usage.cpu_time()?))
    }
}

// === impl Clients ===

impl Clients {
    /// Starts the thread, which runs `connect` and then the tasks that `connect` spawns.
    fn start(connect: impl Future<Output = Result<()>> + Send + 'static) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Sending fails only if the starting thread has ended.
            let _ = sender.send(nix::unistd::gettid());
            runtime.block_on(async {
                tokio::spawn(run_and_print_error("clients cannot connect", connect));
                stopped.notified().await;
            });
        });
        let thread_id = receiver.recv().context("the clients' thread panicked")?;
        Ok(Self {
            stop,
            thread: Some(thread),
            thread_usage: Process::thread(u32::try_from(thread_id.as_raw())?)?,
        })
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.notify_one();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

// === impl ResponseCounter ===

impl ResponseCounter {
    /// Counts a response.
    fn count_one(&self) {
        if self.received.fetch_add(1, Ordering::SeqCst) + 1 == self.clients {
            self.all_received.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_receives_and_responds_over_each_transport() {
        for transport in [
            Transport::Tcp,
            Transport::Tls,
            Transport::Http2,
            Transport::TonicServer,
            Transport::SidecarClient,
        ] {
            let exchange = Exchange::start(transport, 3).expect("connected");
            exchange.run_round(5).expect("responses");
            let received = exchange.responses.received.load(Ordering::SeqCst);
            assert_eq!(
                received, 3,
                "one response of each client in the last exchange, {transport:?}"
            );
        }
    }
}
