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
//!
//! CPU time and latency depend on the machine and on its other work. The number of instructions that an Envoy executes
//! for a call does not ([`count_instructions`]), but it contains nothing of the kernel.

mod application;
mod bare;
mod call;
mod ingredients;
mod instructions;
mod load;
mod sidecars;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kermode_model::Protocol;

pub use ingredients::{INGREDIENTS, Ingredient};
pub use instructions::{Instructions, count_instructions};
pub use load::Pace;

use self::load::Load;
use self::sidecars::{Callers, Configs};
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
    /// Two sidecars, with the permission that each new Mesh has: it allows all callers.
    Sidecars,
    /// Two sidecars with a permission that names the caller.
    SidecarsWithPermission,
    /// Two sidecars without the ingredient that has this index in [`INGREDIENTS`].
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
    /// Number of reads of both Envoys for a call. 0 without proxies.
    pub reads: f64,
    /// Number of waits for an event by threads of both Envoys, for a call. 0 without proxies.
    pub waits: f64,
}

/// Resources that an Envoy has used so far.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_time: Duration,
    reads: u64,
    waits: u64,
}

/// The proxies of a client and of a server.
struct Pair {
    client: Envoy,
    server: Envoy,
}

/// The running application and proxies.
pub struct Testbed {
    pairs: Vec<(Proxies, Pair)>,
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

    /// Returns the proxies whose comparison shows the costs of ingredients for a protocol: bare Envoys, sidecars, and
    /// sidecars without each ingredient.
    pub fn for_ingredients(protocol: Protocol) -> impl Iterator<Item = Self> {
        let without = INGREDIENTS.iter().enumerate();
        let without = without.filter(move |(_, ingredient)| ingredient.concerns(protocol));
        let compared = Self::of(protocol).iter().copied();
        compared
            .filter(|proxies| *proxies != Self::Plain)
            .chain([Self::SidecarsWithPermission])
            .chain(without.map(|(index, _)| Self::SidecarsWithout(index)))
    }

    /// Returns the proxies whose Envoys serve these proxies too.
    fn envoys(self) -> Self {
        if self == Self::BareHttp2 { Self::Bare } else { self }
    }

    /// Number of the sidecars, for their addresses.
    fn number(self) -> Result<u8> {
        match self {
            Self::SidecarsWithPermission => Ok(1),
            Self::SidecarsWithout(index) => u8::try_from(index + 2).context("too many ingredients"),
            _ => Ok(0),
        }
    }

    /// Returns the ingredient that the sidecars lack.
    fn missing_ingredient(self) -> Result<Option<Ingredient>> {
        match self {
            Self::SidecarsWithout(index) => {
                let ingredient = INGREDIENTS.get(index).context("no such ingredient")?;
                Ok(Some(*ingredient))
            }
            _ => Ok(None),
        }
    }

    /// Returns the configurations of both Envoys.
    fn configs(self) -> Result<Configs> {
        let callers = match self {
            Self::SidecarsWithPermission => Callers::Client,
            _ => Callers::All,
        };
        let sidecars = sidecars::generate(self.number()?, callers)?;
        match (self, self.missing_ingredient()?) {
            (Self::Bare | Self::BareHttp2, _) => bare::configs(&sidecars),
            (_, Some(ingredient)) => Ok(ingredient.removed_from(sidecars)),
            (_, None) => Ok(sidecars),
        }
    }

    /// Returns the address that the load generator calls.
    fn address(self, protocol: Protocol) -> Result<SocketAddr> {
        Ok(match self {
            Self::Plain => application_address(protocol),
            Self::Bare => bare::address(protocol, false),
            Self::BareHttp2 => bare::address(protocol, true),
            _ => sidecars::cluster_address(self.number()?, protocol),
        })
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
    /// Starts the Envoys of `proxies`. `folder` gets their files.
    async fn start(envoy: &Path, folder: &Path, proxies: Proxies) -> Result<Self> {
        let [client_folder, server_folder] = create_folders(folder)?;
        let configs = proxies.configs()?;
        let workers = proxies
            .missing_ingredient()?
            .map_or(WORKERS, |ingredient| ingredient.workers);
        Ok(Self {
            client: Envoy::start(envoy, &client_folder, configs.client, workers).await?,
            server: Envoy::start(envoy, &server_folder, configs.server, workers).await?,
        })
    }

    /// Like [`Self::start`], in valgrind.
    async fn start_in_valgrind(envoy: &Path, folder: &Path, proxies: Proxies) -> Result<Self> {
        let [client_folder, server_folder] = create_folders(folder)?;
        let configs = proxies.configs()?;
        let client = Envoy::start_in_valgrind(envoy, &client_folder, configs.client);
        let server = Envoy::start_in_valgrind(envoy, &server_folder, configs.server);
        let (client, server) = tokio::try_join!(client, server)?;
        Ok(Self { client, server })
    }

    /// Returns what the client's and the server's Envoy have used.
    fn usage(&self) -> Result<[Usage; 2]> {
        Ok([Usage::of(&self.client)?, Usage::of(&self.server)?])
    }
}

// === impl Usage ===

impl Usage {
    fn of(envoy: &Envoy) -> Result<Self> {
        let process = envoy.process()?;
        Ok(Self {
            cpu_time: process.cpu_time_of_threads()?,
            reads: process.read_count()?,
            waits: process.wait_count()?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            cpu_time: self.cpu_time.saturating_sub(before.cpu_time),
            reads: self.reads.saturating_sub(before.reads),
            waits: self.waits.saturating_sub(before.waits),
        }
    }
}

// === impl Testbed ===

impl Testbed {
    /// Starts the application and proxies. `envoy` is the path of Envoy; `folder` gets its files.
    ///
    /// # Errors
    /// When a program does not start, or the process is not in a network namespace of its own.
    pub async fn start(envoy: &Path, folder: &Path, proxies: &[Proxies]) -> Result<Self> {
        start_application()?;
        let mut pairs: Vec<(Proxies, Pair)> = Vec::new();
        for proxies in proxies.iter().map(|proxies| proxies.envoys()) {
            if proxies == Proxies::Plain || pairs.iter().any(|(running, _)| *running == proxies) {
                continue;
            }
            let folder = folder.join(format!("{}", pairs.len()));
            let starting = Pair::start(envoy, &folder, proxies).await;
            pairs.push((proxies, starting.with_context(|| format!("{proxies:?}"))?));
        }
        Ok(Self { pairs })
    }

    /// Calls for `duration` and returns the costs.
    ///
    /// # Errors
    /// When a call fails, a program has ended, or the proxies were not started.
    pub async fn measure(&self, proxies: Proxies, calls: Calls, duration: Duration) -> Result<CallCost> {
        let pair = match proxies {
            Proxies::Plain => None,
            _ => Some(self.pair(proxies)?),
        };
        let measuring = measure(pair, proxies.address(calls.protocol)?, calls, duration).await;
        measuring.with_context(|| format!("{calls:?} through {proxies:?}"))
    }

    /// Returns the resident memory of a client's and of a server's Envoy, in bytes.
    ///
    /// # Errors
    /// When an Envoy has ended, or the proxies were not started.
    pub fn resident_bytes(&self, proxies: Proxies) -> Result<[f64; 2]> {
        let pair = self.pair(proxies)?;
        Ok([pair.client.resident_bytes()?, pair.server.resident_bytes()?])
    }

    fn pair(&self, proxies: Proxies) -> Result<&Pair> {
        let mut pairs = self.pairs.iter();
        let pair = pairs.find(|(running, _)| *running == proxies.envoys());
        pair.map(|(_, pair)| pair)
            .with_context(|| format!("{proxies:?} were not started"))
    }
}

/// Starts an Envoy whose configuration is a file with a minimal listener and cluster for each of `services` services, and
/// ends it. Returns the time until Envoy was ready. `folder` gets its files.
///
/// # Errors
/// When Envoy does not start.
pub async fn start_bare(envoy: &Path, folder: &Path, services: u32) -> Result<Duration> {
    let sidecars = sidecars::generate(0, Callers::All)?;
    let config = bare::config_with_services(&sidecars, services)?;
    let started_at = Instant::now();
    let started = Envoy::start(envoy, folder, config, WORKERS).await?;
    let elapsed = started_at.elapsed();
    drop(started);
    Ok(elapsed)
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
fn create_folders(folder: &Path) -> Result<[PathBuf; 2]> {
    let folders = ["client", "server"].map(|side| folder.join(side));
    for folder in &folders {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
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
    let read = || pair.map_or(Ok([Usage::default(); 2]), Pair::usage);
    let (outcome, before, after) = load.run(read).await?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = outcome.count as f64;
    let used = [0, 1].map(|side| after[side].since(before[side]));
    let [client_us, server_us] = used.map(|usage| usage.cpu_time.as_secs_f64() * 1e6 / count);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let of_both = |value: fn(Usage) -> u64| used.map(value).iter().sum::<u64>() as f64 / count;
    Ok(CallCost {
        p50_ms: outcome.p50.as_secs_f64() * 1e3,
        p99_ms: outcome.p99.as_secs_f64() * 1e3,
        per_second: count / outcome.elapsed.as_secs_f64(),
        client_us,
        server_us,
        reads: of_both(|usage| usage.reads),
        waits: of_both(|usage| usage.waits),
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
