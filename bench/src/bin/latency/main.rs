//! `make bench-latency`: what two sidecars cost a request, in CPU time and latency, beside two bare Envoys with the same
//! mTLS and beside no proxies, for each protocol, number of connections, and for open and closed loop. With
//! `INGREDIENTS=1`, it measures single ingredients of the sidecars' configuration instead. With `INSTRUCTIONS=1`, it counts
//! instructions instead of measuring times.

mod ingredients;
mod instructions;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, Target};
use kermode_bench::latency::{CallCost, Calls, PROTOCOLS, Pace, Proxies, Testbed};
use kermode_checkout::{is_on, variable};
use kermode_model::Protocol;

use self::table::Ratios;

/// Numbers of connections.
const CONNECTIONS: [u16; 3] = [1, 16, 64];
/// Rate of the calls of one connection in open loop: below what the slowest proxies can do.
const RATE_OF_ONE: u32 = 200;
/// Rate of the calls of several connections in open loop.
const RATE: u32 = 800;

/// Scope of a run.
struct Scope {
    rounds: usize,
    duration: Duration,
    calls: Vec<Calls>,
}

/// Costs of one kind of calls: for each kind of proxies, the costs of all rounds.
type Costs = Vec<(Proxies, Vec<CallCost>)>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let config = Config::read()?;
    let bench = config.checkout.target.join("bench");
    std::fs::create_dir_all(&bench)?;
    let envoy = variable("KERMODE_ENVOY").context("KERMODE_ENVOY is not set: run make bench-latency")?;
    let folder = tempfile::tempdir()?;
    if is_on("INSTRUCTIONS") {
        return instructions::run(Path::new(&envoy), folder.path(), &bench).await;
    }
    if is_on("INGREDIENTS") {
        return ingredients::run(&config, Path::new(&envoy), folder.path(), &bench).await;
    }
    let scope = Scope::of(&config)?;
    let all = Proxies::of(Protocol::Http);
    let testbed = Testbed::start(Path::new(&envoy), folder.path(), all).await?;
    let mut costs: Vec<Costs> = Vec::new();
    for calls in &scope.calls {
        let proxies = Proxies::of(calls.protocol).iter();
        costs.push(proxies.map(|proxies| (*proxies, Vec::new())).collect());
    }
    for round in 0..scope.rounds {
        for (calls, costs) in scope.calls.iter().zip(&mut costs) {
            measure_round(&testbed, round, *calls, scope.duration, costs).await?;
        }
    }
    let mut figures = Figures::default();
    let mut ratios = Ratios::default();
    for (calls, costs) in scope.calls.iter().zip(&costs) {
        table::add(&mut figures, &mut ratios, *calls, costs);
    }
    ratios.add_means(&mut figures);
    for (name, proxies) in [("bare Envoy", Proxies::Bare), ("sidecar", Proxies::Sidecars)] {
        let memory = testbed.resident_bytes(proxies)?;
        for (side, bytes) in ["client", "server"].into_iter().zip(memory) {
            let memory = std::iter::once(bytes / 1e6).collect();
            let figure = format!("{name} of the {side}: resident memory");
            figures.add(&figure, &memory, "MB", Target::None);
        }
    }
    let met = figures.write(&bench.join("latency.json"))?;
    ensure!(met, "a target is missed");
    Ok(())
}

/// Measures each kind of proxies once. The kinds alternate, in reverse order in every second round, so that a change of the
/// machine's speed or load affects all of them.
async fn measure_round(
    testbed: &Testbed,
    round: usize,
    calls: Calls,
    duration: Duration,
    costs: &mut Costs,
) -> Result<()> {
    let mut costs: Vec<_> = costs.iter_mut().collect();
    if round % 2 == 1 {
        costs.reverse();
    }
    for (proxies, rounds) in costs {
        rounds.push(testbed.measure(*proxies, calls, duration).await?);
    }
    Ok(())
}

// === impl Scope ===

impl Scope {
    fn of(config: &Config) -> Result<Self> {
        let connections = if config.sizes.is_empty() {
            CONNECTIONS.to_vec()
        } else {
            let sizes = config.sizes.iter().map(|size| u16::try_from(*size));
            sizes.collect::<Result<_, _>>().context("too many connections")?
        };
        let protocols = selected_protocols()?;
        let mut calls = Vec::new();
        for protocol in protocols {
            for connections in connections.iter().copied() {
                let rate = if connections == 1 { RATE_OF_ONE } else { RATE };
                let is_measured_open = !config.quick || connections == 16;
                let open = is_measured_open.then_some(Pace::Open(rate));
                calls.extend([Pace::Closed].into_iter().chain(open).map(|pace| Calls {
                    protocol,
                    connections,
                    pace,
                }));
            }
        }
        // Each round opens other connections, and the costs of a call depend on the worker threads that serve its
        // connections, and on the cores that run these threads. So many short rounds show more than a few long ones.
        let (rounds, duration) = if config.quick {
            (7, Duration::from_millis(200))
        } else {
            (25, Duration::from_millis(300))
        };
        Ok(Self {
            rounds,
            duration,
            calls,
        })
    }
}

/// Returns the protocols in `PROTOCOLS`, or all protocols.
fn selected_protocols() -> Result<Vec<Protocol>> {
    let Some(names) = variable("PROTOCOLS") else {
        return Ok(PROTOCOLS.into());
    };
    let protocols = names.split(',').map(|name| {
        let mut protocols = PROTOCOLS.into_iter();
        let protocol = protocols.find(|protocol| protocol.as_str() == name);
        protocol.with_context(|| format!("PROTOCOLS names {name}, which is no protocol of this benchmark"))
    });
    protocols.collect()
}
