//! Counts of the requests that the API server has completed, from its metrics.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::Client;

/// Number of completed requests, by resource (`dataplanes`, `dataplanes/status`) and verb.
#[derive(Clone, Debug, Default)]
pub struct Requests(BTreeMap<(String, String), u64>);

impl Requests {
    /// Reads the API server's metrics.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub async fn read(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client
            .request_text(request)
            .await
            .context("cannot read the API server's metrics")?;
        Ok(Self::parse(&text))
    }

    /// Returns the number of requests that write a resource, including its subresources.
    pub fn writes(&self, resource: &str) -> u64 {
        let is_of_resource = |name: &str| {
            name == resource
                || name
                    .strip_prefix(resource)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        let is_write = |verb: &str| matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE");
        self.0
            .iter()
            .filter(|((name, verb), _)| is_of_resource(name) && is_write(verb))
            .map(|(_, count)| count)
            .sum()
    }

    /// Returns the number of requests of one verb for a resource, without its subresources.
    pub fn count(&self, resource: &str, verb: &str) -> u64 {
        let key = (resource.to_owned(), verb.to_owned());
        self.0.get(&key).copied().unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut counts = BTreeMap::new();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("apiserver_request_total{"));
        for line in lines {
            let Some((labels, value)) = line.rsplit_once("} ") else {
                continue;
            };
            let label = |name: &str| {
                let start = format!("{name}=\"");
                let found = labels
                    .split(',')
                    .find_map(|label| label.strip_prefix(start.as_str()));
                found.map_or("", |value| value.trim_end_matches('"'))
            };
            let mut resource = label("resource").to_owned();
            if !label("subresource").is_empty() {
                resource = format!("{resource}/{}", label("subresource"));
            }
            let count: u64 = value.parse().unwrap_or_default();
            *counts.entry((resource, label("verb").to_owned())).or_default() += count;
        }
        Self(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_over_status_codes_for_each_resource() {
        let text = "# HELP x\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"kuma.io\",resource=\"dataplanes\",\
            scope=\"resource\",subresource=\"\",verb=\"APPLY\",version=\"v1alpha1\"} 12\n\
            apiserver_request_total{code=\"201\",resource=\"dataplanes\",subresource=\"\",verb=\"APPLY\"} 3\n\
            apiserver_request_total{code=\"200\",resource=\"dataplanes\",subresource=\"status\",verb=\"APPLY\"} 5\n\
            apiserver_request_total{code=\"200\",resource=\"dataplanes\",subresource=\"\",verb=\"LIST\"} 7\n";
        let requests = Requests::parse(text);
        assert_eq!(requests.count("dataplanes", "APPLY"), 15);
        assert_eq!(requests.count("dataplanes/status", "APPLY"), 5);
        assert_eq!(requests.writes("dataplanes"), 20);
        assert_eq!(requests.writes("data"), 0);
    }
}
