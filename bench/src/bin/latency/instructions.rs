//! `make bench-latency INSTRUCTIONS=1`: the instructions that proxies execute for a call in user space. With
//! `INGREDIENTS=1`, also those of sidecars without single ingredients.

use std::path::Path;

use anyhow::Result;
use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::latency::{Instructions, Proxies, count_instructions};
use kermode_bench::spread::Spread;
use kermode_checkout::is_on;
use kermode_model::Protocol;

/// Counts instructions for the selected protocols.
pub(crate) async fn run(envoy: &Path, folder: &Path, bench: &Path) -> Result<()> {
    let protocols = super::selected_protocols()?;
    let mut wanted = Vec::new();
    for protocol in protocols.iter().copied() {
        let proxies = Proxies::for_ingredients(protocol);
        let proxies =
            proxies.filter(|proxies| is_on("INGREDIENTS") || !matches!(proxies, Proxies::SidecarsWithout(_)));
        wanted.extend(proxies.map(|proxies| (protocol, proxies)));
    }
    let counts = count_instructions(envoy, folder, &wanted).await?;
    let mut figures = Figures::default();
    for protocol in protocols {
        let counts = counts.iter().filter(|(counted, _, _)| *counted == protocol);
        let counts: Vec<_> = counts.map(|(_, proxies, count)| (*proxies, *count)).collect();
        add(&mut figures, protocol, &counts);
    }
    // The figures have no targets, so the benchmark cannot miss one.
    figures.write(&bench.join("latency-instructions.json"))?;
    Ok(())
}

/// Adds the figures for one protocol, and prints their table.
fn add(figures: &mut Figures, protocol: Protocol, counts: &[(Proxies, Instructions)]) {
    let title = super::table::protocol_name(protocol);
    print_line(&format!("--- {title}: instructions in user space for a call"));
    print_line(&format!(
        "{:<40}{:>12}{:>12}{:>12}{:>16}",
        "", "client", "server", "both", "sidecars / it"
    ));
    let sidecars = counts.iter().find(|(proxies, _)| *proxies == Proxies::Sidecars);
    let sidecars = sidecars.map_or(f64::NAN, |(_, count)| count.total());
    for (proxies, count) in counts {
        let name = super::table::name(*proxies);
        let total = count.total();
        print_line(&format!(
            "{name:<40}{:>12.0}{:>12.0}{total:>12.0}{:>16.3}",
            count.client,
            count.server,
            sidecars / total
        ));
        let value: Spread = std::iter::once(total).collect();
        figures.record(
            &format!("{title}: {name}: instructions"),
            &value,
            "instructions",
            Target::None,
        );
    }
}
