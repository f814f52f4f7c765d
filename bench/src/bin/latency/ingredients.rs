//! `make bench-latency INGREDIENTS=1`: what single ingredients of the sidecars' configuration cost. The cost of an
//! ingredient is the difference between sidecars with it and sidecars without it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kermode_bench::config::Config;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::latency::{CallCost, Calls, Pace, Proxies, Testbed};
use kermode_bench::spread::Spread;

/// Default number of connections.
const CONNECTIONS: u16 = 16;

/// Measures all ingredients for the selected protocols.
pub(crate) async fn run(config: &Config, envoy: &Path, folder: &Path, bench: &Path) -> Result<()> {
    let (rounds, duration) = if config.quick {
        (3, Duration::from_millis(400))
    } else {
        (9, Duration::from_millis(800))
    };
    let connections = config
        .sizes
        .first()
        .map_or(Ok(CONNECTIONS), |size| u16::try_from(*size))?;
    let protocols = super::selected_protocols()?;
    let mut proxies: Vec<Proxies> = Vec::new();
    for protocol in &protocols {
        proxies.extend(Proxies::for_ingredients(*protocol));
    }
    let testbed = Testbed::start(envoy, folder, &proxies).await?;
    let mut figures = Figures::default();
    for protocol in protocols {
        let calls = Calls {
            protocol,
            connections,
            pace: Pace::Closed,
        };
        let proxies = Proxies::for_ingredients(protocol);
        let mut costs: Vec<_> = proxies.map(|proxies| (proxies, Vec::new())).collect();
        for round in 0..rounds {
            super::measure_round(&testbed, round, calls, duration, &mut costs).await?;
        }
        add(&mut figures, calls, &costs);
    }
    // The figures have no targets, so the benchmark cannot miss one.
    figures.write(&bench.join("latency-ingredients.json"))?;
    Ok(())
}

/// Adds the figures for one protocol, and prints their table.
fn add(figures: &mut Figures, calls: Calls, costs: &[(Proxies, Vec<CallCost>)]) {
    let title = super::table::title(calls);
    print_line(&format!("--- {title}: CPU time of both Envoys for a call in µs"));
    print_line(&format!(
        "{:<40}{:>24}{:>24}{:>16}",
        "", "", "cost of the ingredient", "p50 in ms"
    ));
    let is_sidecars = |(proxies, _): &&(Proxies, Vec<CallCost>)| *proxies == Proxies::Sidecars;
    let sidecars = costs
        .iter()
        .find(is_sidecars)
        .map_or(&[][..], |(_, rounds)| rounds);
    for (proxies, rounds) in costs {
        let name = super::table::name(*proxies);
        let total: Spread = rounds.iter().map(CallCost::cpu_us).collect();
        let pairs = sidecars.iter().zip(rounds);
        let cost: Spread = pairs
            .map(|(with, without)| with.cpu_us() - without.cpu_us())
            .collect();
        let p50: Spread = rounds.iter().map(|cost| cost.p50_ms).collect();
        print_line(&format!(
            "{name:<40}{:>24}{:>24}{:>16.2}",
            total.to_string(),
            cost.to_string(),
            p50.median()
        ));
        figures.record(&format!("{title}: {name}: CPU"), &total, "µs", Target::None);
        figures.record(
            &format!("{title}: {name}: sidecars beyond it"),
            &cost,
            "µs",
            Target::None,
        );
    }
}
