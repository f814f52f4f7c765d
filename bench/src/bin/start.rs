//! `make bench-start`: time from the execution of a sidecar until it is ready, with its milestones, in meshes with 10
//! and 1,000 services.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::start::{Lab, Milestone, Milestones};
use kermode_checkout::variable;

/// Maximum time until a sidecar is ready, in milliseconds.
const MAX_READY_MS: f64 = 500.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    let bench = config.checkout.target.join("bench");
    std::fs::create_dir_all(&bench)?;
    let envoy = variable("KERMODE_ENVOY").context("KERMODE_ENVOY is not set: run make bench-start")?;
    let sizes: &[usize] = match &config.sizes {
        sizes if !sizes.is_empty() => sizes,
        _ => &[10, 1_000],
    };
    let rounds = if config.quick { 5 } else { 25 };
    let mut figures = Figures::default();
    for services in sizes.iter().copied() {
        let starts = measure(&config, &envoy, services, rounds).await?;
        for milestone in Milestone::ALL {
            let times = starts.iter().map(|milestones| milestones[&milestone]).collect();
            let target = match milestone {
                Milestone::Ready => Target::AtMost(MAX_READY_MS),
                _ => Target::None,
            };
            let figure = format!("{services} services: {}", milestone.description());
            figures.add(&figure, &times, "ms", target);
        }
        print_line("");
    }
    let targets_met = figures.write(&bench.join("start.json"))?;
    Ok(if targets_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts a sidecar several times in a mesh with this number of services.
async fn measure(config: &Config, envoy: &str, services: usize, rounds: usize) -> Result<Vec<Milestones>> {
    let lab = Lab::start(config, envoy.into(), "bench-start", services).await?;
    // The first start reads the programs from the disk, as at most the first Pod of a node does.
    lab.measure()?;
    (0..rounds).map(|_| lab.measure()).collect()
}
