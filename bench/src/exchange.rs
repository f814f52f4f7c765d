//! What it costs to tell each of many clients something over a connection of its own and to hear that it has come, with
//! nothing but the libraries that `kuma-cp` uses: no xDS, no resources, no state.
//!
//! That much of the CPU time of a control plane is the price of its transport: it can be lowered by another transport only.

mod client;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use crate::figures::say;
use crate::process::Process;

/// What is told, in bytes. `make bench-control-plane` sends a sidecar 280 of a change at 100 sidecars, 690 at 1,000.
const TOLD: usize = 500;
/// What is answered, in bytes: an acknowledgement.
const ANSWER: usize = 120;
/// No exchange takes that long; this only bounds a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP alone.
    Tcp,
    /// TLS over it.
    Tls,
    /// One stream of HTTP/2 over both, as gRPC has it.
    Http2,
}

/// Connected clients and their server.
pub struct Exchange {
    told: watch::Sender<u64>,
    heard: Arc<Heard>,
    server: Runtime,
    clients: Clients,
    process: Process,
}

/// All clients, on one thread, which ends with this.
struct Clients {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    /// The thread's.
    usage: Process,
}

/// What some exchanges took of the server's CPU time, and in all until the last answer was there.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// CPU time of the server.
    pub cpu: Duration,
    /// Wall time.
    pub wall: Duration,
}

/// Counts answers.
struct Heard {
    answers: AtomicUsize,
    clients: usize,
    all: Notify,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Says why something failed; that it did shows in answers that do not come.
async fn report(what: &str, work: impl Future<Output = Result<()>>) {
    if let Err(error) = work.await {
        say(&format!("  {what}: {error:#}"));
    }
}

// === impl Exchange ===

impl Exchange {
    /// Connects so many clients, by loopback, and has each answer once.
    ///
    /// # Errors
    /// When they cannot be connected.
    pub fn start(transport: Transport, clients: usize) -> Result<Self> {
        let server = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let listener = server.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (told, telling) = watch::channel(0);
        let heard = Arc::new(Heard {
            answers: AtomicUsize::default(),
            clients,
            all: Notify::new(),
        });
        let (acceptor, trusted) = server::acceptor()?;
        let serving = server::accept(listener, transport, acceptor, telling, heard.clone());
        server.spawn(report("the server cannot accept", serving));
        let clients = Clients::start(client::connect(address, transport, clients, trusted))?;
        let exchange = Self {
            told,
            heard,
            server,
            clients,
            process: Process::new(std::process::id())?,
        };
        exchange.all()?;
        Ok(exchange)
    }

    /// Tells all clients something, so many times, each time when all have answered.
    ///
    /// # Errors
    /// When they do not answer.
    pub fn rounds(&self, times: usize) -> Result<Took> {
        let (before, begun) = (self.cpu()?, Instant::now());
        for _ in 0..times {
            self.all()?;
        }
        Ok(Took {
            cpu: self.cpu()?.saturating_sub(before),
            wall: begun.elapsed(),
        })
    }

    fn all(&self) -> Result<()> {
        self.heard.answers.store(0, Ordering::SeqCst);
        self.told.send_modify(|round| *round += 1);
        let all = async { tokio::time::timeout(PATIENCE, self.heard.all.notified()).await };
        self.server.block_on(all).context("not all clients answered")
    }

    fn cpu(&self) -> Result<Duration> {
        Ok(self.process.cpu()?.saturating_sub(self.clients.usage.cpu()?))
    }
}

// === impl Clients ===

impl Clients {
    fn start(connecting: impl Future<Output = Result<()>> + Send + 'static) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // An error means that nobody wants to know.
            let _ = tell.send(nix::unistd::gettid());
            runtime.block_on(async {
                tokio::spawn(report("clients cannot connect", connecting));
                stopped.notified().await;
            });
        });
        let thread_id = told.recv().context("the clients' thread is gone")?;
        Ok(Self {
            stop,
            thread: Some(thread),
            usage: Process::thread(u32::try_from(thread_id.as_raw())?)?,
        })
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.notify_one();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

// === impl Heard ===

impl Heard {
    fn one(&self) {
        if self.answers.fetch_add(1, Ordering::SeqCst) + 1 == self.clients {
            self.all.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_told_and_answers_whatever_is_between() {
        for transport in [Transport::Tcp, Transport::Tls, Transport::Http2] {
            let exchange = Exchange::start(transport, 3).expect("connected");
            exchange.rounds(5).expect("answers");
            let answers = exchange.heard.answers.load(Ordering::SeqCst);
            assert_eq!(answers, 3, "one of each in the last round, {transport:?}");
        }
    }
}
