//! Statistics and endpoints of the Envoy of a Pod, read from its admin interface inside the Pod.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::demo;
use super::kubectl::Kubectl;

/// Port of Envoy's admin interface, on loopback in the Pod.
const ADMIN_PORT: u16 = 9901;

/// Envoy of a Pod.
#[derive(Clone, Debug)]
pub(crate) struct Envoy<'k> {
    kubectl: &'k Kubectl,
    namespace: String,
    pod: String,
    /// Container from which the demo program reads the admin interface. If it is unset, kubectl forwards the port.
    container: Option<String>,
}

/// Values of Envoy's counters and gauges, by name. Statistics that Envoy has never updated are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics(BTreeMap<String, u64>);

/// Endpoint of one of Envoy's clusters, with the number of requests that this Envoy sent to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Address and port of the endpoint.
    pub(crate) address: SocketAddr,
    /// Number of requests that this Envoy sent to the endpoint.
    pub(crate) requests: u64,
}

impl<'k> Envoy<'k> {
    /// Returns the Envoy of a Pod. `container` is the container in which the demo program makes the requests to the
    /// admin interface.
    pub(crate) fn new(kubectl: &'k Kubectl, namespace: &str, pod: &str, container: &str) -> Self {
        Self {
            kubectl,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: Some(container.to_owned()),
        }
    }

    /// Returns the Envoy of a Pod that has no container with the demo program.
    pub(crate) fn by_port_forward(kubectl: &'k Kubectl, namespace: &str, pod: &str) -> Self {
        Self {
            kubectl,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: None,
        }
    }

    /// Returns the statistics whose names match a regular expression.
    pub(crate) async fn statistics(&self, filter: &str) -> Result<Statistics> {
        Ok(Statistics::parse(
            &self.get(&format!("/stats?usedonly&filter={filter}")).await?,
        ))
    }

    /// Returns the endpoints of one of Envoy's clusters; none if Envoy has no such cluster.
    pub(crate) async fn endpoints(&self, cluster: &str) -> Result<Vec<Endpoint>> {
        parse_endpoints(&self.get("/clusters?format=json").await?, cluster)
    }

    /// Returns the names of Envoy's clusters.
    pub(crate) async fn cluster_names(&self) -> Result<Vec<String>> {
        let clusters: Clusters = serde_json::from_str(&self.get("/clusters?format=json").await?)
            .context("cannot decode Envoy's clusters")?;
        let names = clusters.cluster_statuses.into_iter();
        Ok(names.map(|cluster| cluster.name).collect())
    }

    async fn get(&self, path: &str) -> Result<String> {
        let (kubectl, namespace) = (self.kubectl, &self.namespace);
        if let Some(container) = &self.container {
            let url = format!("http://127.0.0.1:{ADMIN_PORT}{path}");
            demo::get(kubectl, namespace, &self.pod, container, &url).await
        } else {
            let pod = format!("pod/{}", self.pod);
            let admin = kubectl.port_forward(namespace, &pod, ADMIN_PORT).await?;
            admin.get(path).await
        }
    }
}

// === impl Statistics ===

impl Statistics {
    /// Parses the response of `/stats`. Histograms are left out, because their values are not numbers.
    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Self(
            pairs
                .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
                .collect(),
        )
    }

    /// Returns the sum of the statistics whose names have this prefix and suffix.
    pub(crate) fn sum(&self, prefix: &str, suffix: &str) -> u64 {
        let matching = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with(prefix) && name.ends_with(suffix));
        matching.map(|(_, value)| value).sum()
    }
}

// === JSON of `/clusters` ===

#[derive(Deserialize)]
struct Clusters {
    #[serde(default)]
    cluster_statuses: Vec<ClusterStatus>,
}

#[derive(Deserialize)]
struct ClusterStatus {
    name: String,
    #[serde(default)]
    host_statuses: Vec<HostStatus>,
}

#[derive(Deserialize)]
struct HostStatus {
    address: Value,
    #[serde(default)]
    stats: Vec<EndpointStatistic>,
}

#[derive(Deserialize)]
struct EndpointStatistic {
    name: String,
    /// Protobuf's JSON writes 64-bit numbers as strings and omits 0.
    #[serde(default)]
    value: Option<String>,
}

/// Returns the endpoints of the cluster in the response of `/clusters`.
fn parse_endpoints(json: &str, cluster: &str) -> Result<Vec<Endpoint>> {
    let clusters: Clusters = serde_json::from_str(json).context("cannot decode Envoy's clusters")?;
    let found = clusters
        .cluster_statuses
        .into_iter()
        .find(|status| status.name == cluster);
    found
        .map(|status| status.host_statuses)
        .unwrap_or_default()
        .into_iter()
        .map(parse_endpoint)
        .collect()
}

fn parse_endpoint(status: HostStatus) -> Result<Endpoint> {
    let address = &status.address["socket_address"];
    let ip = address["address"]
        .as_str()
        .context("an endpoint of Envoy has no address")?;
    let port = address["port_value"]
        .as_u64()
        .context("an endpoint of Envoy has no port")?;
    let requests = status
        .stats
        .into_iter()
        .find(|statistic| statistic.name == "rq_total");
    let requests = requests
        .and_then(|statistic| statistic.value)
        .map_or(Ok(0), |value| value.parse())?;
    Ok(Endpoint {
        address: SocketAddr::new(ip.parse()?, u16::try_from(port)?),
        requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_summed_by_prefix_and_suffix() {
        let text = "cluster.a_b_svc_80.ssl.handshake: 3\nlistener.x.ssl.handshake: 4\nhistogram.x: P0(1,1)\n\
                    cluster.c_b_svc_80.ssl.handshake: 5";
        let statistics = Statistics::parse(text);
        assert_eq!(statistics.sum("cluster.", ".ssl.handshake"), 8);
        assert_eq!(statistics.sum("listener.", ".ssl.handshake"), 4);
        assert_eq!(statistics.sum("cluster.", ".rq_total"), 0);
    }

    #[test]
    fn endpoints_are_parsed_with_address_and_number_of_requests() {
        let json = r#"{"cluster_statuses": [
            {"name": "other"},
            {"name": "server", "host_statuses": [
                {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8080}},
                 "stats": [{"name": "cx_total", "value": "9"}, {"name": "rq_total", "value": "7", "type": "COUNTER"}]},
                {"address": {"socket_address": {"address": "10.0.0.2", "port_value": 8080}},
                 "stats": [{"name": "rq_total"}]}]}]}"#;
        let found = parse_endpoints(json, "server").expect("valid");
        let expected = [("10.0.0.1:8080", 7), ("10.0.0.2:8080", 0)];
        let expected = expected.map(|(address, requests)| Endpoint {
            address: address.parse().expect("valid"),
            requests,
        });
        assert_eq!(found, expected);
        assert_eq!(parse_endpoints(json, "unknown").expect("valid"), []);
    }
}
