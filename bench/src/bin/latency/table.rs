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

/// Ratios of sidecars to bare Envoys with the same protocol between them: for each kind of calls, the median of the rounds.
#[derive(Debug, Default)]
pub(crate) struct Ratios {
    cpu: Vec<f64>,
    p99: Vec<f64>,
}

// === impl Ratios ===

impl Ratios {
    /// Adds the figures for all kinds of calls together. A single p99 of a short measurement differs from run to run by
    /// more than the target allows; their mean does not.
    pub(crate) fn add_means(&self, figures: &mut Figures) {
        print_line("--- all kinds of calls, geometric means");
        for (name, ratios) in [("CPU", &self.cpu), ("p99", &self.p99)] {
            let figure = format!("all calls: {name}, sidecars / bare with the same protocol");
            let mean = std::iter::once(geometric_mean(ratios)).collect();
            figures.add(&figure, &mean, "times", Target::AtMost(MAX_RATIO));
        }
    }
}

/// Adds the figures of one kind of calls, prints their table, and adds the ratios to `ratios`.
pub(crate) fn add(
    figures: &mut Figures,
    ratios: &mut Ratios,
    calls: Calls,
    costs: &[(Proxies, Vec<CallCost>)],
) {
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
    let bases = [Proxies::Bare, Proxies::BareHttp2];
    let bases = bases.map(|base| rounds_of(base).map(|rounds| (base, rounds)));
    // Sidecars use HTTP/2 between them. Where both bare pairs are measured, the last one does so, too.
    let same_protocol = bases.iter().flatten().last().map(|(base, _)| *base);
    for (base, rounds) in bases.into_iter().flatten() {
        let values = [
            ("CPU", CallCost::cpu_us as Value, &mut ratios.cpu),
            ("p99", |cost| cost.p99_ms, &mut ratios.p99),
        ];
        for (figure, value, all) in values {
            let pairs = sidecars.iter().zip(rounds);
            let spread: Spread = pairs
                .map(|(sidecars, base)| value(sidecars) / value(base))
                .collect();
            if Some(base) == same_protocol {
                all.push(spread.median());
            }
            let figure = format!("{title}: {figure}, sidecars / {}", name(base));
            figures.add(&figure, &spread, "times", Target::AtMost(MAX_RATIO));
        }
    }
}

/// Returns the geometric mean of positive values; NaN without values.
fn geometric_mean(values: &[f64]) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a few values")]
    let count = values.len() as f64;
    (values.iter().map(|value| value.ln()).sum::<f64>() / count).exp()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!((geometric_mean(&[0.5, 2.0]) - 1.0).abs() < 1e-9);
        assert!(geometric_mean(&[]).is_nan());
    }
}
