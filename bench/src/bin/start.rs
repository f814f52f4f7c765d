//! `make bench-start`: time from the execution of a sidecar until it is ready, with its milestones, in meshes with 10
//! and 1,000 services, and for a Pod that lists 10 of the 1,000. For comparison, the start of Envoy alone with a minimal
//! configuration for as many services.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::latency::start_bare;
use kermode_bench::start::{Lab, Milestone, Milestones};
use kermode_checkout::variable;

/// Maximum time until a sidecar is ready, in milliseconds.
const MAX_READY_MS: f64 = 500.0;
/// Number of services that a Pod lists as those that it calls.
const LISTED_SERVICES: usize = 10;

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
        add_bare_starts(&mut figures, envoy.as_ref(), services, rounds).await?;
        let lab = Lab::start(&config, envoy.clone().into(), "bench-start", services).await?;
        add_starts(&mut figures, &format!("{services} services"), &lab, rounds)?;
        if services > LISTED_SERVICES {
            lab.list_services(LISTED_SERVICES).await?;
            let mesh = format!("{services} services, {LISTED_SERVICES} of them on the Pod's list");
            add_starts(&mut figures, &mesh, &lab, rounds)?;
        }
    }
    let targets_met = figures.write(&bench.join("start.json"))?;
    Ok(if targets_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts an Envoy several times that has a minimal configuration, from a file, and adds the times until it was ready.
async fn add_bare_starts(figures: &mut Figures, envoy: &Path, services: usize, rounds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let elapsed = start_bare(envoy, folder.path(), u32::try_from(services)?).await?;
        times.push(elapsed.as_secs_f64() * 1e3);
    }
    let figure = format!("{services} services: Envoy alone, minimal and without statistics: ready");
    figures.add(&figure, &times.into_iter().collect(), "ms", Target::None);
    Ok(())
}

/// Starts a sidecar several times, and adds the times of its milestones.
fn add_starts(figures: &mut Figures, mesh: &str, lab: &Lab, rounds: usize) -> Result<()> {
    // The first start reads the programs from the disk, as at most the first Pod of a node does.
    lab.measure()?;
    let starts: Vec<Milestones> = (0..rounds).map(|_| lab.measure()).collect::<Result<_>>()?;
    for milestone in Milestone::ALL {
        let times = starts.iter().map(|milestones| milestones[&milestone]).collect();
        let target = match milestone {
            Milestone::Ready => Target::AtMost(MAX_READY_MS),
            _ => Target::None,
        };
        figures.add(
            &format!("{mesh}: {}", milestone.description()),
            &times,
            "ms",
            target,
        );
    }
    print_line("");
    Ok(())
}
