//! Network between a sidecar and its control plane that breaks connections: a forwarder of TCP connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The forwarder. Every second connection is closed at once, as by a control plane that is overloaded. Dropping the value
/// closes all connections.
#[derive(Debug)]
pub struct UnstableNetwork {
    /// Address that the sidecar connects to.
    pub address: SocketAddr,
    counts: Arc<Counts>,
    /// Increased to break all connections.
    breaks: watch::Sender<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Number of accepted connections.
    accepted: AtomicU64,
}

/// One connection that is forwarded.
struct Forwarding {
    target: SocketAddr,
    breaks: watch::Receiver<u64>,
}

impl UnstableNetwork {
    /// Starts to forward connections from an address of `host` to `target`.
    ///
    /// # Errors
    /// When no socket can be opened at `host`.
    pub async fn start(host: &str, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let (breaks, current_breaks) = watch::channel(0);
        let accepted = counts.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = accepted.accepted.fetch_add(1, Ordering::Relaxed);
                if number % 2 == 1 {
                    continue;
                }
                let forwarding = Forwarding {
                    target,
                    breaks: current_breaks.clone(),
                };
                tokio::spawn(forwarding.run(client));
            }
        });
        Ok(Self {
            address,
            counts,
            breaks,
            task,
        })
    }

    /// Number of connections of the sidecar so far.
    pub fn connection_count(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Breaks all connections of the sidecar.
    pub fn break_connections(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }
}

impl Drop for UnstableNetwork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarding {
    /// Forwards a connection until one side closes it, or until it is broken.
    async fn run(mut self, mut client: TcpStream) {
        self.breaks.mark_unchanged();
        let Ok(mut server) = TcpStream::connect(self.target).await else {
            return;
        };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = self.breaks.changed() => {}
        }
    }
}
