//! Network between a sidecar and its control plane that breaks connections: a forwarder of TCP connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Number of bytes from the control plane after which a connection counts as established: more than the messages of the
/// TLS handshake.
const ESTABLISHED_BYTES: u64 = 8 * 1024;
/// Size of the buffer of a connection, in bytes.
const BUFFER_SIZE: usize = 16 * 1024;

/// The forwarder. Every second connection is closed at once, as by a control plane that is overloaded. Dropping the value
/// closes all connections.
#[derive(Debug)]
pub struct UnstableNetwork {
    /// Address that the sidecar connects to.
    pub address: SocketAddr,
    counts: Arc<Counts>,
    /// Increased to break all connections.
    breaks: watch::Sender<u64>,
    /// Number of connections that were established.
    established: watch::Receiver<u64>,
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
    established: watch::Sender<u64>,
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
        let (established_sender, established) = watch::channel(0);
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
                    established: established_sender.clone(),
                };
                tokio::spawn(forwarding.run(client));
            }
        });
        Ok(Self {
            address,
            counts,
            breaks,
            established,
            task,
        })
    }

    /// Number of connections of the sidecar so far.
    pub fn connection_count(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Breaks the connection of the sidecar, and waits until the sidecar has another one.
    ///
    /// # Errors
    /// When the sidecar does not reconnect within `timeout`.
    pub async fn break_connection(&mut self, timeout: Duration) -> Result<()> {
        self.established.mark_unchanged();
        self.breaks.send_modify(|breaks| *breaks += 1);
        tokio::time::timeout(timeout, self.established.changed())
            .await
            .context("the sidecar does not reconnect")??;
        Ok(())
    }
}

impl Drop for UnstableNetwork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarding {
    /// Forwards a connection until one side closes it, or until it is broken.
    async fn run(mut self, client: TcpStream) {
        self.breaks.mark_unchanged();
        let Ok(server) = TcpStream::connect(self.target).await else {
            return;
        };
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let requests = tokio::io::copy(&mut from_client, &mut to_server);
        let responses = async {
            let mut buffer = vec![0; BUFFER_SIZE];
            let mut total = 0;
            loop {
                let size = from_server.read(&mut buffer).await?;
                if size == 0 {
                    return std::io::Result::Ok(());
                }
                to_client.write_all(&buffer[..size]).await?;
                let before = total;
                total += size as u64;
                if before < ESTABLISHED_BYTES && total >= ESTABLISHED_BYTES {
                    self.established.send_modify(|established| *established += 1);
                }
            }
        };
        tokio::select! {
            _ = requests => {}
            _ = responses => {}
            _ = self.breaks.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Starts a server that sends [`ESTABLISHED_BYTES`] bytes on each connection.
    async fn start_server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let bytes = vec![0; usize::try_from(ESTABLISHED_BYTES).unwrap_or_default()];
                    let _ = stream.write_all(&bytes).await;
                    // The connection stays open until the client closes it.
                    let _ = stream.read_u8().await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn broken_connection_is_replaced_and_every_second_connection_is_refused() {
        let server = start_server().await;
        let mut network = UnstableNetwork::start("127.0.0.1", server)
            .await
            .expect("a socket");
        let address = network.address;
        // A client that reconnects at once.
        let client = tokio::spawn(async move {
            loop {
                let mut stream = TcpStream::connect(address).await?;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            #[allow(unreachable_code, reason = "names the type of the error")]
            std::io::Result::Ok(())
        });
        network.established.changed().await.expect("a connection");
        for breaks in 1..4 {
            network
                .break_connection(TIMEOUT)
                .await
                .expect("another connection");
            assert_eq!(network.connection_count(), 1 + 2 * breaks);
        }
        client.abort();
    }
}
