//! The table of one kind of calls, and its figures.

use std::fmt::Write as _;

use kermode_bench::figures::{Figures, Target, print_line};
use kermode_bench::latency::{CallCost, Calls, INGREDIENTS, Pace, Proxies};
use kermode_bench::spread::Spread;
use kermode_model::Protocol;

/// Maximum costs of sidecars, as a multiple of those of bare Envoys.
const MAX_RATIO: f64 = 1.05;

/// Value of a column.
type Value = fn(&CallCost) -> f64;

/// Columns: name, unit, value.
const COLUMNS: [(&str, &str, Value); 7] = [
    ("p50", "ms", |cost| cost.p50_ms),
    ("p99", "ms", |cost| cost.p99_ms),
    ("calls per second", "", |cost| cost.per_second),
    ("CPU of the client's Envoy", "µs", |cost| cost.client_us),
    ("CPU of the server's Envoy", "µs", |cost| cost.server_us),
    ("reads", "", |cost| cost.reads),
    ("waits", "", |cost| cost.waits),
];

/// Adds the figures of one kind of calls, and prints their table.
pub(crate) fn add(figures: &mut Figures, calls: Calls, costs: &[(Proxies, Vec<CallCost>)]) {
    let title = title(calls);
    print_line(&format!("--- {title}"));
    let heads = COLUMNS.map(|(name, unit, _)| {
        let name = name.replace("CPU of the ", "").replace("'s Envoy", " CPU");
        format!("{:>24}", format!("{name} {unit}").trim_end())
    });
    print_line(&format!("{:<28}{}", "", heads.concat()));
    for (proxies, rounds) in costs {
        let name = name(*proxies);
        let mut row = format!("{name:<28}");
        for (column, unit, value) in COLUMNS {
            let spread: Spread = rounds.iter().map(value).collect();
            let _ = write!(row, "{:>24}", spread.to_string());
            figures.record(&format!("{title}: {name}: {column}"), &spread, unit, Target::None);
        }
        print_line(&row);
    }
    let rounds_of = |wanted| {
        let found = costs.iter().find(|(proxies, _)| *proxies == wanted);
        found.map(|(_, rounds)| rounds.as_slice())
    };
    let sidecars = rounds_of(Proxies::Sidecars).unwrap_or_default();
    for base in [Proxies::Bare, Proxies::BareHttp2] {
        let Some(rounds) = rounds_of(base) else { continue };
        for (figure, value) in [("CPU", CallCost::cpu_us as Value), ("p99", |cost| cost.p99_ms)] {
            let pairs = sidecars.iter().zip(rounds);
            let ratios = pairs
                .map(|(sidecars, base)| value(sidecars) / value(base))
                .collect();
            let figure = format!("{title}: {figure}, sidecars / {}", name(base));
            figures.add(&figure, &ratios, "times", Target::AtMost(MAX_RATIO));
        }
    }
}

/// Name of a kind of calls.
pub(crate) fn title(calls: Calls) -> String {
    let pace = match calls.pace {
        Pace::Closed => "closed loop".to_owned(),
        Pace::Open(rate) => format!("{rate} calls/s"),
    };
    let protocol = protocol_name(calls.protocol);
    format!("{protocol}, {pace}, {} connections", calls.connections)
}

/// Name of a protocol.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Grpc => "gRPC",
        Protocol::Tcp | Protocol::Kafka => "TCP",
    }
}

/// Name of proxies.
pub(crate) fn name(proxies: Proxies) -> String {
    match proxies {
        Proxies::Plain => "plain".to_owned(),
        Proxies::Bare => "bare".to_owned(),
        Proxies::BareHttp2 => "bare with HTTP/2".to_owned(),
        Proxies::Sidecars => "sidecars".to_owned(),
        Proxies::SidecarsWithPermission => "with a permission for the caller".to_owned(),
        Proxies::SidecarsWithout(index) => {
            let ingredient = INGREDIENTS.get(index);
            format!("without {}", ingredient.map_or("", |ingredient| ingredient.name))
        }
    }
}
