//! Idle connections that Pods hold to a server, as many as the server lets them have.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Pause before a closed connection is replaced. Without it, the attempts would take the CPU time of the cluster.
const PAUSE: Duration = Duration::from_millis(50);
/// Time limit of an attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections from one Pod. Dropping this value closes them.
pub(crate) struct IdleConnections {
    /// Number of open connections.
    open: Arc<AtomicUsize>,
    /// Number of connections that the server has closed.
    closed: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl IdleConnections {
    /// Opens `count` connections to a server from the network namespace of a process in a Pod. Sends nothing on them.
    /// Replaces each connection that the server closes.
    pub(crate) fn hold(process: Pid, server: SocketAddr, count: usize) -> Result<Self> {
        let namespace = File::open(format!("/proc/{process}/ns/net"))
            .with_context(|| format!("the network namespace of process {process} cannot be opened"))?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (open, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (stop, stopped) = oneshot::channel();
        let counters = (open.clone(), closed.clone());
        let thread = std::thread::spawn(move || {
            // Only this thread changes its namespace.
            if setns(namespace, CloneFlags::CLONE_NEWNET).is_ok() {
                run(&runtime, server, count, &counters, stopped);
            }
        });
        Ok(Self {
            open,
            closed,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that the server has closed.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Holds the connections until the sender of `stopped` is dropped.
fn run(
    runtime: &Runtime,
    server: SocketAddr,
    count: usize,
    (open, closed): &(Arc<AtomicUsize>, Arc<AtomicUsize>),
    stopped: oneshot::Receiver<()>,
) {
    for _ in 0..count {
        let (open, closed) = (open.clone(), closed.clone());
        runtime.spawn(async move {
            loop {
                if let Ok(Ok(mut stream)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await {
                    open.fetch_add(1, Ordering::Relaxed);
                    let mut buffer = [0; 64];
                    while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
                    open.fetch_sub(1, Ordering::Relaxed);
                    closed.fetch_add(1, Ordering::Relaxed);
                }
                sleep(PAUSE).await;
            }
        });
    }
    // The sender sends nothing.
    let _ = runtime.block_on(stopped);
}
