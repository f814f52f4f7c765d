//! `make bench-cni`: time that `kuma-cni` adds to the start of a Pod's network. `cnitool` runs ADD of the chained plugins
//! with and without `kuma-cni`, in turn, so that other work on the machine adds to both.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use kermode_bench::cluster::ApiServer;
use kermode_bench::cni::{Cost, Network, Node, PodName};
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, Target};
use kermode_bench::spread::Spread;

/// Largest time that `kuma-cni` may add, in milliseconds.
const MAX_ADDED_MILLIS: f64 = 20.0;
/// Number of pairs before the measurement, in which the programs are read from the disk.
const WARM_UP_PAIRS: usize = 3;

/// Cost of ADD of two Pods that start directly after each other.
struct Pair {
    without: Cost,
    with: Cost,
}

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.checkout.target.join("bench"))?;
    let api_server = ApiServer::up("bench-cni", &config)?;
    let node = Node::new(&api_server, &config)?;
    let count = if config.quick { 40 } else { 200 };
    let mut figures = Figures::default();
    for (pod, name) in [
        (PodName::Injected, "injected Pod"),
        (PodName::Outside, "Pod outside of the mesh"),
    ] {
        let pairs = measure(&node, pod, count)?;
        add_figures(&mut figures, name, &pairs);
    }
    let met = figures.write(&config.checkout.target.join("bench/cni.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures ADD without and with `kuma-cni`, in pairs. The order within a pair alternates.
fn measure(node: &Node<'_>, pod: PodName, count: usize) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for number in 0..WARM_UP_PAIRS + count {
        let pair = if number % 2 == 0 {
            let without = node.add(Network::WithoutPlugin, pod)?;
            Pair {
                without,
                with: node.add(Network::WithPlugin, pod)?,
            }
        } else {
            let with = node.add(Network::WithPlugin, pod)?;
            Pair {
                without: node.add(Network::WithoutPlugin, pod)?,
                with,
            }
        };
        if number >= WARM_UP_PAIRS {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

fn add_figures(figures: &mut Figures, name: &str, pairs: &[Pair]) {
    let spread = |select: fn(&Pair) -> f64| pairs.iter().map(select).collect::<Spread>();
    let mut add = |figure: &str, values: Spread, target| {
        figures.add(&format!("{name}: {figure}"), &values, "ms", target);
    };
    add(
        "ADD of ptp and portmap",
        spread(|pair| to_millis(pair.without.wall)),
        Target::None,
    );
    add(
        "ADD with kuma-cni",
        spread(|pair| to_millis(pair.with.wall)),
        Target::None,
    );
    let added = spread(|pair| to_millis(pair.with.wall) - to_millis(pair.without.wall));
    add("added by kuma-cni", added, Target::AtMost(MAX_ADDED_MILLIS));
    // The resolution of a single value is too low, so the figure is the mean.
    let mean = |select: fn(&Pair) -> Duration| {
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX).max(1);
        to_millis(pairs.iter().map(select).sum::<Duration>()) / f64::from(count)
    };
    let added_cpu = mean(|pair| pair.with.cpu) - mean(|pair| pair.without.cpu);
    add(
        "mean CPU time, added",
        [added_cpu].into_iter().collect(),
        Target::None,
    );
}

fn to_millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
