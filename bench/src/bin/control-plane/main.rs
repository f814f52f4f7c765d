//! `make bench-control-plane`: `kuma-cp` beside an API server with many injected Pods, no kubelet, and a simulated
//! sidecar for each Pod. Measures time and cost of the initial configuration and of changes.

mod bench;
mod changes;
mod connect;

use std::process::ExitCode;

use anyhow::Result;
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, print_line};

use bench::{Bench, MeasurementPlan};

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.checkout.target.join("bench"))?;
    let sizes: &[usize] = match &config.sizes {
        sizes if !sizes.is_empty() => sizes,
        _ if config.quick => &[100, 1_000],
        _ => &[100, 1_000, 5_000, 10_000],
    };
    let plan = MeasurementPlan::new(config.quick);
    // One thread, so that the simulated sidecars leave the other cores to the control plane.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut figures = Figures::default();
    for sidecar_count in sizes.iter().copied() {
        runtime.block_on(measure(&config, sidecar_count, plan, &mut figures))?;
    }
    let targets_met = figures.write(&config.checkout.target.join("bench/control-plane.json"))?;
    Ok(if targets_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn measure(
    config: &Config,
    sidecar_count: usize,
    plan: MeasurementPlan,
    figures: &mut Figures,
) -> Result<()> {
    let mut bench = Bench::start(config, sidecar_count, plan, figures).await?;
    let fleet = bench.measure_connect().await?;
    bench.measure_memory(&fleet)?;
    bench.measure_idle(&fleet).await?;
    bench.measure_changes(&fleet).await?;
    bench.measure_heartbeats(&fleet).await?;
    bench.measure_churn(&fleet).await?;
    let reconnected_fleet = bench.measure_reconnect(fleet).await?;
    reconnected_fleet.stop().await;
    print_line("");
    Ok(())
}
