//! Clusters of Envoy with their endpoints, from `/clusters?format=json`.

use serde::Serialize;
use serde_json::Value;

use super::{InspectError, address, elements, json, text};
use crate::table::aligned;

/// Clusters of a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Clusters(pub Vec<Cluster>);

/// A cluster, see `docs/reference/envoy.md#names`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// IP and port, or the path of a unix socket.
    pub address: String,
    /// Whether Envoy sends requests to the endpoint.
    pub healthy: bool,
    /// Reasons why the endpoint is not healthy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Open connections.
    pub connections: u64,
    /// Connection attempts that failed, since the endpoint was added.
    pub failed_connections: u64,
    /// Requests since the endpoint was added; connections of a cluster that proxies TCP.
    pub requests: u64,
    /// Failed requests since the endpoint was added.
    pub failed_requests: u64,
}

impl Clusters {
    /// Path of Envoy's admin interface.
    pub const PATH: &'static str = "/clusters?format=json";

    /// Reads Envoy's response. The clusters are ordered by name.
    pub fn parse(response: &[u8]) -> Result<Self, InspectError> {
        let response = json(Self::PATH, response)?;
        let mut clusters: Vec<Cluster> = elements(&response, "cluster_statuses")
            .map(|status| Cluster {
                name: text(status, "name"),
                endpoints: elements(status, "host_statuses").map(Endpoint::of).collect(),
            })
            .collect();
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(clusters))
    }

    /// Formats the clusters as a table with a line for each endpoint.
    pub fn to_text(&self) -> String {
        let head = [
            "CLUSTER",
            "ENDPOINT",
            "HEALTH",
            "CONNECTIONS",
            "FAILED",
            "REQUESTS",
            "FAILED",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for cluster in &self.0 {
            let name = cluster.name.clone();
            if cluster.endpoints.is_empty() {
                lines.push(vec![name.clone(), "-".to_owned(), "no endpoint".to_owned()]);
            }
            lines.extend(cluster.endpoints.iter().map(|endpoint| {
                let numbers = [
                    endpoint.connections,
                    endpoint.failed_connections,
                    endpoint.requests,
                    endpoint.failed_requests,
                ];
                let words = [name.clone(), endpoint.address.clone(), endpoint.health()];
                words
                    .into_iter()
                    .chain(numbers.map(|number| number.to_string()))
                    .collect()
            }));
        }
        aligned(&lines)
    }
}

impl Endpoint {
    fn of(status: &Value) -> Self {
        let statistic = |name: &str| {
            let found = elements(status, "stats").find(|statistic| statistic["name"] == name);
            // Envoy writes 64-bit numbers as text, as the JSON format of Protobuf does.
            found
                .and_then(|statistic| statistic["value"].as_str()?.parse().ok())
                .unwrap_or_default()
        };
        let health = &status["health_status"];
        let mut reasons: Vec<String> = [
            ("failed_outlier_check", "ejected after failed connections"),
            ("failed_active_health_check", "failed an active health check"),
            (
                "failed_active_degraded_check",
                "degraded by an active health check",
            ),
            ("pending_dynamic_removal", "removed, with open connections"),
            ("pending_active_hc", "not checked yet"),
        ]
        .into_iter()
        .filter(|(key, _)| health[*key] == true)
        .map(|(_, reason)| reason.to_owned())
        .collect();
        let declared = health["eds_health_status"].as_str().unwrap_or("HEALTHY");
        if declared != "HEALTHY" && declared != "UNKNOWN" {
            reasons.push(format!("declared {declared} by the control plane"));
        }
        Self {
            address: address(status),
            healthy: reasons.is_empty(),
            reasons,
            connections: statistic("cx_active"),
            failed_connections: statistic("cx_connect_fail"),
            requests: statistic("rq_total"),
            failed_requests: statistic("rq_error"),
        }
    }

    fn health(&self) -> String {
        if self.healthy {
            "healthy".to_owned()
        } else {
            self.reasons.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn endpoint_that_gets_no_requests_has_a_reason() {
        let host = |ip: &str, health: Value| {
            json!({
                "address": {"socket_address": {"address": ip, "port_value": 80}},
                "stats": [{"name": "cx_active", "value": "2"}, {"name": "rq_total", "value": "7"}, {"name": "rq_error"}],
                "health_status": health,
            })
        };
        let response = json!({"cluster_statuses": [
            {"name": "web", "host_statuses": [
                host("10.0.0.1", json!({"eds_health_status": "HEALTHY"})),
                host("fd00::1", json!({"eds_health_status": "DRAINING", "failed_outlier_check": true})),
            ]},
            {"name": "empty"},
        ]});
        let clusters = Clusters::parse(response.to_string().as_bytes()).expect("a report");
        let expected = "\
CLUSTER   ENDPOINT       HEALTH                                                                        CONNECTIONS   FAILED   REQUESTS   FAILED
empty     -              no endpoint
web       10.0.0.1:80    healthy                                                                       2             0        7          0
web       [fd00::1]:80   ejected after failed connections, declared DRAINING by the control plane   2             0        7          0
";
        let squeeze = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(squeeze(&clusters.to_text()), squeeze(expected));
    }

    #[test]
    fn response_that_is_not_json_is_an_error_that_names_the_path() {
        let error = Clusters::parse(b"upstream").expect_err("no JSON");
        assert!(error.to_string().contains("/clusters?format=json"), "{error}");
    }
}
