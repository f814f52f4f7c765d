//! `make bench-exchange`: cost of an exchange over TCP, TLS and HTTP/2, with tonic's server, and with simulated
//! sidecars. In an exchange, the server sends a message to each of many clients, and each client responds. The cost is
//! the part of a control plane's CPU time that the transport alone needs.

use std::time::Duration;

use anyhow::Result;
use kermode_bench::config::Config;
use kermode_bench::exchange::{Exchange, RoundCost, Transport};
use kermode_bench::figures::{Figures, Target};

/// Number of exchanges in a round. A single exchange is too short to be measured, because CPU time has a resolution of
/// 10 ms.
const EXCHANGES: u32 = 20;

fn main() -> Result<()> {
    let config = Config::read()?;
    std::fs::create_dir_all(config.checkout.target.join("bench"))?;
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
            (Transport::TonicServer, "tonic's server"),
            (Transport::SidecarClient, "simulated sidecars"),
        ] {
            let exchange = Exchange::start(transport, clients)?;
            let costs = (0..rounds).map(|_| exchange.run_round(EXCHANGES as usize));
            let costs: Vec<RoundCost> = costs.collect::<Result<_>>()?;
            let mut add = |figure: &str, time: fn(&RoundCost) -> Duration| {
                let millis = |cost| time(cost).as_secs_f64() * 1000.0 / f64::from(EXCHANGES);
                let figure = format!("{clients} clients, {name}: {figure}");
                figures.add(&figure, &costs.iter().map(millis).collect(), "ms", Target::None);
            };
            add("CPU time of the server", |cost| cost.server_cpu);
            add("CPU time of the clients", |cost| cost.client_cpu);
            add("until all have responded", |cost| cost.wall);
        }
    }
    // The figures have no targets, so the benchmark cannot miss one.
    figures.write(&config.checkout.target.join("bench/exchange.json"))?;
    Ok(())
}
