//! Parts of `make bench-latency`: what two sidecars cost a request, beside two bare Envoys.
//!
//! ```text
//! load generator ──────────────────────────────────────────────────────────▶ application
//! load generator ──▶ bare Envoy of the client ──mTLS──▶ bare Envoy of the server ──▶ application
//! load generator ──▶ sidecar of the client    ──mTLS──▶ sidecar of the server    ──▶ application
//! ```
//!
//! All run in one network namespace, on loopback addresses. All Envoys are the same program with the same number of
//! worker threads. The configuration of the sidecars is the one that the control plane generates. Redirection by the
//! kernel and `kuma-dp` are not part of the benchmark; neither handles single requests.

mod application;
mod bare;
mod call;
mod ingredients;
mod load;
mod sidecars;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kermode_model::Protocol;

pub use ingredients::{INGREDIENTS, Ingredient};
pub use load::Pace;

use self::load::Load;
use self::sidecars::Configs;
use crate::envoy::Envoy;

/// The measured protocols.
pub const PROTOCOLS: [Protocol; 4] = [Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Tcp];
/// Number of worker threads of each Envoy: the default of a sidecar.
const WORKERS: u32 = 2;
/// IP of the application.
const APPLICATION: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);

/// Proxies between the load generator and the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// None.
    Plain,
    /// Two bare Envoys, which keep the protocol of the caller.
    Bare,
    /// Two bare Envoys with HTTP/2 between them for callers of HTTP/1.1.
    BareHttp2,
    /// Two sidecars.
    Sidecars,
    /// Two sidecars without the ingredient with this index in the list that [`Testbed::start`] got.
    SidecarsWithout(usize),
}

/// A kind of calls.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Protocol of the load generator and of the application.
    pub protocol: Protocol,
    /// Number of connections of the load generator.
    pub connections: u16,
    /// Moments of the calls.
    pub pace: Pace,
}

/// Costs of calls in one round.
#[derive(Clone, Copy, Debug)]
pub struct CallCost {
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency in milliseconds.
    pub p99_ms: f64,
    /// Number of calls in a second.
    pub per_second: f64,
    /// CPU time of the client's Envoy for a call, in microseconds. 0 without proxies.
    pub client_us: f64,
    /// CPU time of the server's Envoy for a call, in microseconds. 0 without proxies.
    pub server_us: f64,
}

/// The proxies of a client and of a server.
struct Pair {
    client: Envoy,
    server: Envoy,
}

/// The running application and proxies.
pub struct Testbed {
    bare: Pair,
    sidecars: Pair,
    without: Vec<Pair>,
}

// === impl Proxies ===

impl Proxies {
    /// Returns the proxies that are measured for a protocol.
    pub fn of(protocol: Protocol) -> &'static [Self] {
        if protocol == Protocol::Http {
            &[Self::Plain, Self::Bare, Self::BareHttp2, Self::Sidecars]
        } else {
            &[Self::Plain, Self::Bare, Self::Sidecars]
        }
    }
}

// === impl CallCost ===

impl CallCost {
    /// CPU time of both proxies for a call, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.client_us + self.server_us
    }
}

// === impl Pair ===

impl Pair {
    async fn start(envoy: &Path, folders: &[PathBuf; 2], configs: Configs, workers: u32) -> Result<Self> {
        let [client_folder, server_folder] = folders;
        Ok(Self {
            client: Envoy::start(envoy, client_folder, configs.client, workers).await?,
            server: Envoy::start(envoy, server_folder, configs.server, workers).await?,
        })
    }

    /// Returns the CPU times of both Envoys.
    fn cpu_times(&self) -> Result<[Duration; 2]> {
        Ok([
            self.client.process()?.cpu_time_of_threads()?,
            self.server.process()?.cpu_time_of_threads()?,
        ])
    }
}

// === impl Testbed ===

impl Testbed {
    /// Starts the application, bare Envoys, sidecars, and sidecars without each of the ingredients. `envoy` is the path of
    /// Envoy; `folder` gets its files.
    ///
    /// # Errors
    /// When a program does not start, or the process is not in a network namespace of its own.
    pub async fn start(envoy: &Path, folder: &Path, ingredients: &[Ingredient]) -> Result<Self> {
        start_application()?;
        let configs = sidecars::generate(0)?;
        let bare = bare::configs(&configs)?;
        let bare = Pair::start(envoy, &create_folders(folder, "bare")?, bare, WORKERS).await?;
        let sidecars = Pair::start(envoy, &create_folders(folder, "sidecar")?, configs, WORKERS).await?;
        let mut without = Vec::new();
        for (index, ingredient) in ingredients.iter().enumerate() {
            let folders = create_folders(folder, &format!("without-{index}"))?;
            let configs = ingredient.removed_from(sidecars::generate(number_of(index)?)?);
            let starting = Pair::start(envoy, &folders, configs, ingredient.workers).await;
            without.push(starting.with_context(|| format!("sidecars without {}", ingredient.name))?);
        }
        Ok(Self {
            bare,
            sidecars,
            without,
        })
    }

    /// Calls for `duration` and returns the costs.
    ///
    /// # Errors
    /// When a call fails, or a program has ended.
    pub async fn measure(&self, proxies: Proxies, calls: Calls, duration: Duration) -> Result<CallCost> {
        let (pair, address) = match proxies {
            Proxies::Plain => (None, application_address(calls.protocol)),
            Proxies::Bare => (Some(&self.bare), bare::address(calls.protocol, false)),
            Proxies::BareHttp2 => (Some(&self.bare), bare::address(calls.protocol, true)),
            Proxies::Sidecars => (Some(&self.sidecars), sidecars::cluster_address(0, calls.protocol)),
            Proxies::SidecarsWithout(index) => {
                let pair = self.without.get(index).context("no such ingredient")?;
                let address = sidecars::cluster_address(number_of(index)?, calls.protocol);
                (Some(pair), address)
            }
        };
        let measuring = measure(pair, address, calls, duration).await;
        measuring.with_context(|| format!("{calls:?} through {proxies:?}"))
    }

    /// Returns the resident memory of a client's and of a server's Envoy, in bytes: bare Envoys, and sidecars.
    ///
    /// # Errors
    /// When an Envoy has ended.
    pub fn resident_bytes(&self) -> Result<[[f64; 2]; 2]> {
        let of = |pair: &Pair| anyhow::Ok([pair.client.resident_bytes()?, pair.server.resident_bytes()?]);
        Ok([of(&self.bare)?, of(&self.sidecars)?])
    }
}

/// Number, for the addresses, of the sidecars without an ingredient. The number 0 is that of unchanged sidecars.
fn number_of(ingredient: usize) -> Result<u8> {
    u8::try_from(ingredient + 1).context("too many ingredients")
}

/// Starts the application in the network namespace of the process.
fn start_application() -> Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(status.success(), "the loopback interface cannot be set up");
    let http = PROTOCOLS.into_iter().filter(|protocol| protocol.is_http());
    let http = http.map(application_address).collect();
    application::start(http, application_address(Protocol::Tcp))
}

/// Creates the folders of a client's and of a server's Envoy.
fn create_folders(folder: &Path, name: &str) -> Result<[PathBuf; 2]> {
    let folders = ["client", "server"].map(|side| folder.join(format!("{name}-{side}")));
    for folder in &folders {
        std::fs::create_dir(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    Ok(folders)
}

async fn measure(
    pair: Option<&Pair>,
    address: SocketAddr,
    calls: Calls,
    duration: Duration,
) -> Result<CallCost> {
    let load = Load {
        protocol: calls.protocol,
        address,
        connections: calls.connections,
        pace: calls.pace,
        duration,
    };
    let read = || pair.map_or(Ok([Duration::ZERO; 2]), Pair::cpu_times);
    let (outcome, before, after) = load.run(read).await?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = outcome.count as f64;
    let [client_us, server_us] =
        [0, 1].map(|side| after[side].saturating_sub(before[side]).as_secs_f64() * 1e6 / count);
    Ok(CallCost {
        p50_ms: outcome.p50.as_secs_f64() * 1e3,
        p99_ms: outcome.p99.as_secs_f64() * 1e3,
        per_second: count / outcome.elapsed.as_secs_f64(),
        client_us,
        server_us,
    })
}

fn application_address(protocol: Protocol) -> SocketAddr {
    (APPLICATION, port_of(protocol)).into()
}

/// Port of the application for a protocol.
fn port_of(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Http => 8_081,
        Protocol::Http2 => 8_082,
        Protocol::Grpc => 8_083,
        Protocol::Tcp | Protocol::Kafka => 8_084,
    }
}
