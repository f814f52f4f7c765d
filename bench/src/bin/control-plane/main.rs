//! `make bench-control-plane`: `kuma-cp` beside an API server with many injected Pods, no kubelet, and a simulated sidecar for
//! each Pod. Measures time and cost of the initial configuration and of changes.

mod bench;
mod changes;
mod connect;

use std::process::ExitCode;

use anyhow::Result;
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, print_line};

use bench::{Bench, Effort};

fn main() -> Result<ExitCode> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.target.join("bench"))?;
    let sizes: &[usize] = match &config.sizes {
        sizes if !sizes.is_empty() => sizes,
        _ if config.quick => &[100, 1_000],
        _ => &[100, 1_000, 5_000, 10_000],
    };
    let effort = Effort::of(config.quick);
    // One thread, so that the sidecars leave the other cores to the control plane.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut figures = Figures::default();
    for sidecars in sizes.iter().copied() {
        runtime.block_on(measure(&config, sidecars, effort, &mut figures))?;
    }
    let met = figures.write(&config.target.join("bench/control-plane.json"))?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(config: &Config, sidecars: usize, effort: Effort, figures: &mut Figures) -> Result<()> {
    let mut bench = Bench::start(config, sidecars, effort, figures).await?;
    let fleet = bench.connect().await?;
    bench.memory(&fleet)?;
    bench.idle(&fleet).await?;
    bench.changes(&fleet).await?;
    bench.heartbeats(&fleet).await?;
    bench.churn(&fleet).await?;
    let reconnected = bench.reconnect(fleet).await?;
    reconnected.stop().await;
    print_line("");
    Ok(())
}
