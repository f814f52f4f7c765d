//! Parts of `make bench-direct-access`: what direct access to Pods costs an Envoy.
//!
//! ```text
//! client ──127.0.x.y:listener──▶ Envoy ──mTLS──▶ 127.0.x.y:server
//!                                  ▲ ADS: the product's server and generated resources
//! ```
//!
//! Connections are not redirected. Each Pod has an address of the loopback network, so the destination of a connection
//! is the address of a Pod and the port of the listener itself. `resources` changes the generated resources for this
//! reason, and makes Envoy read its certificate from a file instead of requesting it from `kuma-dp`.

mod ads;
mod resources;
mod servers;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

pub use resources::Form;

use self::resources::Pods;
use crate::envoy::Envoy;

/// Maximum number of Pods that are called.
const MAX_CALLED: usize = 50;
/// Number of worker threads of Envoy: the default of a sidecar.
const WORKERS: u32 = 2;
/// Time limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Costs of one Envoy.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Number of listeners before the first call.
    pub listeners: u64,
    /// Number of clusters before the first call, without the cluster of the control plane.
    pub clusters: u64,
    /// Encoded size of the resources that Envoy has before the first call, in bytes.
    pub configuration_bytes: usize,
    /// Allocated memory before the first call, in bytes.
    pub allocated: f64,
    /// Resident memory before the first call, in bytes.
    pub resident: f64,
    /// Costs of calls; only for [`Form::OnDemand`].
    pub calls: Option<CallCosts>,
}

/// Costs of calls, each to another Pod.
#[derive(Clone, Copy, Debug)]
pub struct CallCosts {
    /// Median time of the first calls, until the Pod's first byte.
    pub first: Duration,
    /// Median time of the second calls.
    pub later: Duration,
    /// Increase of the allocated memory for each called Pod while its connection is open, in bytes.
    pub allocated_per_pod: f64,
}

/// Starts an Envoy whose proxy may call `pods` Pods, calls some of them, and returns the costs.
///
/// # Errors
/// When a server or Envoy does not start, or a call fails.
pub async fn measure(envoy: &Path, form: Form, pods: usize) -> Result<Costs> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let servers = servers::start(folder.path()).await?;
    let pods = Pods::new(pods, free_port()?, servers.port(), folder.path())?;
    let resources = pods.resources(form)?;
    let configuration_bytes = resources
        .iter()
        .filter(|resource| resource.on_demand.is_none())
        .map(|resource| resource.body.len())
        .sum();
    let control_plane = ads::start(folder.path(), resources)?;
    let envoy = Envoy::start(envoy, folder.path(), ads::bootstrap(folder.path()), WORKERS).await?;
    let (allocated, resident) = (envoy.allocated_bytes().await?, envoy.resident_bytes()?);
    let mut costs = Costs {
        listeners: envoy.statistic("listener_manager.total_listeners_active").await?,
        clusters: envoy
            .statistic("cluster_manager.active_clusters")
            .await?
            .saturating_sub(1),
        configuration_bytes,
        allocated,
        resident,
        calls: None,
    };
    // The cluster of Kuma's form needs redirected connections.
    if form == Form::OnDemand {
        let calls = call(&envoy, &pods, allocated).await;
        costs.calls = Some(calls.with_context(|| format!("log of Envoy: {}", envoy.log()))?);
    }
    drop((control_plane, servers));
    Ok(costs)
}

async fn call(envoy: &Envoy, pods: &Pods, allocated_before: f64) -> Result<CallCosts> {
    let called: Vec<_> = pods.addresses().take(MAX_CALLED).collect();
    let (mut first, mut later, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for address in &called {
        let (time, connection) = connect(*address).await?;
        first.push(time);
        open.push(connection);
    }
    let allocated = envoy.allocated_bytes().await?;
    for address in &called {
        later.push(connect(*address).await?.0);
    }
    #[allow(clippy::cast_precision_loss, reason = "at most `MAX_CALLED`")]
    let count = called.len() as f64;
    Ok(CallCosts {
        first: median(first),
        later: median(later),
        allocated_per_pod: (allocated - allocated_before) / count,
    })
}

/// Connects to a Pod through Envoy. Returns the time until the Pod's first byte, and the open connection.
async fn connect(address: SocketAddr) -> Result<(Duration, TcpStream)> {
    let started_at = Instant::now();
    let calling = async {
        let mut stream = TcpStream::connect(address).await?;
        let count = stream.read(&mut [0]).await?;
        ensure!(count == 1, "Envoy closed the connection to {address}");
        Ok(stream)
    };
    let stream = tokio::time::timeout(CALL_TIMEOUT, calling)
        .await
        .with_context(|| format!("no response from {address} within {CALL_TIMEOUT:?}"))??;
    Ok((started_at.elapsed(), stream))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Returns a port that no process listens on.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}
