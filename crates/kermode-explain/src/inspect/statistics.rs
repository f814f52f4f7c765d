//! Statistics of Envoy, from `/stats`: all of them, or a selection for each inbound and outbound cluster.

use std::collections::BTreeMap;

use kermode_model::percent_encode;
use serde::Serialize;

use crate::table::aligned;

/// Statistics of a sidecar, ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Statistics(pub Vec<Statistic>);

/// One statistic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statistic {
    /// Name.
    pub name: String,
    /// Number, or the quantiles of a histogram.
    pub value: String,
}

/// Traffic through one cluster, or denials of one inbound listener, since Envoy has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Direction of the traffic.
    pub direction: Direction,
    /// Name in statistics: characters other than letters, digits, `_` and `-` are replaced by `_`.
    pub name: String,
    /// Requests with a response of any status; 0 for a cluster that proxies TCP.
    pub requests: u64,
    /// Responses with a status from 400 to 499.
    pub client_errors: u64,
    /// Responses with a status from 500 to 599.
    pub server_errors: u64,
    /// Requests or connections that a MeshTrafficPermission has denied.
    pub denied: u64,
    /// Open connections to endpoints.
    pub connections: u64,
    /// Connections to endpoints that failed.
    pub failed_connections: u64,
    /// Median of the duration until the response, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_milliseconds: Option<String>,
    /// 99th percentile of the duration until the response, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_milliseconds: Option<String>,
}

/// Direction of traffic, seen from the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// From clients to the application.
    Inbound,
    /// From the application to services.
    Outbound,
}

impl Statistics {
    /// Path of Envoy's admin interface. `filter` is a regular expression (RE2) that the names must contain; without it, the
    /// statistics that Envoy has changed since its start.
    pub fn path(filter: Option<&str>) -> String {
        match filter {
            Some(filter) => format!("/stats?filter={}", percent_encode(filter)),
            None => "/stats?usedonly".to_owned(),
        }
    }

    /// Reads Envoy's response: lines of a name and a value.
    pub fn parse(response: &[u8]) -> Self {
        let text = String::from_utf8_lossy(response);
        let mut statistics: Vec<Statistic> = text
            .lines()
            .filter_map(|line| {
                let (name, value) = line.split_once(": ")?;
                Some(Statistic {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
            })
            .collect();
        statistics.sort_by(|a, b| a.name.cmp(&b.name));
        Self(statistics)
    }

    /// Formats all statistics as lines of a name and a value.
    pub fn to_text(&self) -> String {
        let lines = self
            .0
            .iter()
            .map(|Statistic { name, value }| format!("{name}: {value}\n"));
        lines.collect()
    }

    /// The traffic of each inbound and outbound cluster.
    pub fn traffic(&self) -> Vec<Traffic> {
        let mut traffic: BTreeMap<(Direction, &str), Traffic> = BTreeMap::new();
        for Statistic { name, value } in &self.0 {
            let Some((direction, owner, statistic)) = owner(name) else {
                continue;
            };
            let entry = traffic
                .entry((direction, owner))
                .or_insert_with(|| Traffic::new(direction, owner));
            entry.add(statistic, value);
        }
        traffic
            .into_values()
            .filter(|traffic| !traffic.is_empty())
            .collect()
    }

    /// Formats the traffic of each inbound and outbound cluster as a table.
    pub fn traffic_text(&self) -> String {
        let traffic = self.traffic();
        if traffic.is_empty() {
            return "No request and no connection since Envoy has started.\n".to_owned();
        }
        let head = [
            "DIRECTION",
            "CLUSTER",
            "REQUESTS",
            "4XX",
            "5XX",
            "DENIED",
            "P50",
            "P99",
            "CONNECTIONS",
            "FAILED",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        lines.extend(traffic.into_iter().map(|traffic| {
            let direction = match traffic.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            };
            let milliseconds =
                |value: Option<String>| value.map_or_else(|| "-".to_owned(), |value| format!("{value} ms"));
            vec![
                direction.to_owned(),
                traffic.name,
                traffic.requests.to_string(),
                traffic.client_errors.to_string(),
                traffic.server_errors.to_string(),
                traffic.denied.to_string(),
                milliseconds(traffic.p50_milliseconds),
                milliseconds(traffic.p99_milliseconds),
                traffic.connections.to_string(),
                traffic.failed_connections.to_string(),
            ]
        }));
        aligned(&lines)
    }
}

/// Splits the name of a statistic into the direction, the cluster or listener, and the rest. Returns `None` for statistics
/// that are not about traffic of the application.
fn owner(name: &str) -> Option<(Direction, &str, &str)> {
    if let Some((listener, "rbac.denied")) = name.split_once('.')
        && listener.starts_with("inbound_")
    {
        return Some((Direction::Inbound, listener, "rbac.denied"));
    }
    if let Some((owner, "rbac.denied")) = name.strip_prefix("http.").and_then(|name| name.split_once('.')) {
        return Some((Direction::Inbound, owner, "rbac.denied"));
    }
    let (cluster, statistic) = name.strip_prefix("cluster.")?.split_once('.')?;
    let is_own = ["kuma_", "probe_"]
        .iter()
        .any(|prefix| cluster.starts_with(prefix));
    let is_inbound = ["localhost_", "inbound_"]
        .iter()
        .any(|prefix| cluster.starts_with(prefix));
    let direction = if is_inbound {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    (!is_own).then_some((direction, cluster, statistic))
}

impl Traffic {
    fn new(direction: Direction, name: &str) -> Self {
        Self {
            direction,
            name: name.to_owned(),
            requests: 0,
            client_errors: 0,
            server_errors: 0,
            denied: 0,
            connections: 0,
            failed_connections: 0,
            p50_milliseconds: None,
            p99_milliseconds: None,
        }
    }

    fn add(&mut self, statistic: &str, value: &str) {
        let number = value.parse().unwrap_or_default();
        match statistic {
            "upstream_rq_completed" => self.requests = number,
            "upstream_rq_4xx" => self.client_errors = number,
            "upstream_rq_5xx" => self.server_errors = number,
            "rbac.denied" => self.denied = number,
            "upstream_cx_active" => self.connections = number,
            "upstream_cx_connect_fail" => self.failed_connections = number,
            "upstream_rq_time" => {
                self.p50_milliseconds = quantile(value, "P50");
                self.p99_milliseconds = quantile(value, "P99");
            }
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::new(self.direction, &self.name)
    }
}

/// Returns a quantile of a histogram since Envoy's start, such as 2.1 in `P50(1,2.05)`. The first number is the quantile
/// of Envoy's last interval.
fn quantile(histogram: &str, quantile: &str) -> Option<String> {
    let value = histogram
        .split_whitespace()
        .find_map(|word| word.strip_prefix(quantile)?.strip_prefix('('))?;
    let (_, total) = value.strip_suffix(')')?.split_once(',')?;
    let total: f64 = total.parse().ok().filter(|total: &f64| total.is_finite())?;
    // Envoy interpolates within buckets, so further digits mean nothing.
    Some(format!("{total:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &str = "\
cluster.web_shop_svc_80.upstream_rq_completed: 12
cluster.web_shop_svc_80.upstream_rq_5xx: 2
cluster.web_shop_svc_80.upstream_cx_active: 1
cluster.web_shop_svc_80.upstream_rq_time: P0(nan,1) P50(1,2.0555555555555554) P99(nan,9) P100(nan,10)
cluster.unused_shop_svc_80.assignment_stale: 1
cluster.kuma_dp.upstream_rq_completed: 99
http.localhost_8080.rbac.denied: 3
cluster.localhost_8080.upstream_rq_completed: 4
inbound_10_0_0_1_6379.rbac.denied: 5
server.live: 1
";

    #[test]
    fn traffic_is_listed_for_each_inbound_and_outbound() {
        let expected = "\
DIRECTION   CLUSTER                 REQUESTS   4XX   5XX   DENIED   P50      P99      CONNECTIONS   FAILED
inbound     inbound_10_0_0_1_6379   0          0     0     5        -        -        0             0
inbound     localhost_8080          4          0     0     3        -        -        0             0
outbound    web_shop_svc_80         12         0     2     0        2.1 ms   9.0 ms   1             0
";
        assert_eq!(Statistics::parse(RESPONSE.as_bytes()).traffic_text(), expected);
    }

    #[test]
    fn all_statistics_are_listed_by_name() {
        let statistics = Statistics::parse(b"b: 2\na: P0(nan,1) P50(1,2)\nno statistic\n");
        assert_eq!(statistics.to_text(), "a: P0(nan,1) P50(1,2)\nb: 2\n");
    }

    #[test]
    fn filter_is_encoded_in_the_path() {
        assert_eq!(Statistics::path(Some("a&b")), "/stats?filter=a%26b");
    }
}
