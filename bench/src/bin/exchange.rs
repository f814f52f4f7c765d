//! `make bench-exchange`: what of a control plane's CPU time is the price of a connection for each sidecar.

use anyhow::Result;
use kermode_bench::config::Config;
use kermode_bench::exchange::{Exchange, Took, Transport};
use kermode_bench::figures::{Figures, Target};

/// Exchanges of a round: CPU time is counted in steps of 10 ms.
const EXCHANGES: u32 = 20;

fn main() -> Result<()> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.target.join("bench"))?;
    let sizes: &[usize] = match &config.sizes {
        sizes if !sizes.is_empty() => sizes,
        _ => &[100, 1_000],
    };
    let rounds = if config.quick { 5 } else { 15 };
    let mut figures = Figures::default();
    for clients in sizes.iter().copied() {
        for (transport, name) in [
            (Transport::Tcp, "TCP"),
            (Transport::Tls, "TLS"),
            (Transport::Http2, "HTTP/2 over TLS"),
        ] {
            let exchange = Exchange::start(transport, clients)?;
            let rounds = (0..rounds).map(|_| exchange.rounds(EXCHANGES as usize));
            let rounds: Vec<Took> = rounds.collect::<Result<_>>()?;
            let mut add = |what: &str, of: fn(&Took) -> std::time::Duration| {
                let each = |took| of(took).as_secs_f64() * 1000.0 / f64::from(EXCHANGES);
                let figure = format!("{clients} clients, {name}: {what}");
                figures.add(&figure, &rounds.iter().map(each).collect(), "ms", Target::None);
            };
            add("CPU time of the server", |took| took.cpu);
            add("until all have answered", |took| took.wall);
        }
    }
    // No figure has a target: they say how near others can come to theirs.
    figures.write(&config.target.join("bench/exchange.json"))?;
    Ok(())
}
