//! Requests of an Envoy on a delta ADS stream: first all clusters, then the endpoints of EDS clusters, then all
//! listeners, and an ACK of each response. Envoy requests no routes, because the listeners contain them.

use std::collections::HashSet;

use anyhow::Result;
use bytes::Bytes;
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use prost::Message;

use super::expected_changes::ExpectedChanges;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `Cluster.DiscoveryType.EDS`.
const EDS: i32 = 3;

/// Stage of the initial configuration: the resources whose response Envoy waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Clusters,
    Endpoints,
    Listeners,
    Complete,
}

/// State of the simulated Envoy of one connection.
#[derive(Debug)]
pub(super) struct Envoy {
    stage: Stage,
    /// Names of the clusters whose endpoints have not arrived yet.
    pending_endpoints: HashSet<String>,
}

/// The fields of `envoy.service.discovery.v3.Resource` that are read.
#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, optional, tag = "2")]
    body: Option<Body>,
    #[prost(string, tag = "3")]
    name: String,
}

/// `google.protobuf.Any`, without the type.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The field of `envoy.config.cluster.v3.Cluster` that is read: its discovery type.
#[derive(Clone, PartialEq, prost::Message)]
struct Cluster {
    #[prost(int32, tag = "2")]
    discovery: i32,
}

// === impl Envoy ===

impl Envoy {
    /// Returns a starting Envoy, whose node has the fields `id` and `cluster`, and its first request.
    pub(super) fn start(id: &str, cluster: &str) -> (Self, DeltaDiscoveryRequest) {
        let node = Node {
            id: id.to_owned(),
            cluster: cluster.to_owned(),
            ..Node::default()
        };
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: CLUSTER.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let envoy = Self {
            stage: Stage::Clusters,
            pending_endpoints: HashSet::new(),
        };
        (envoy, request)
    }

    /// Whether the Envoy has its initial configuration.
    pub(super) fn is_configured(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Processes a response to the sidecar with the number `sidecar`. Returns the requests to send, in order.
    ///
    /// # Errors
    /// When the response cannot be decoded.
    pub(super) fn on_response(
        &mut self,
        sidecar: usize,
        response: DeltaDiscoveryResponse,
        expected_changes: &ExpectedChanges,
    ) -> Result<Vec<DeltaDiscoveryRequest>> {
        let mut requests = Vec::with_capacity(2);
        match response.type_url.as_str() {
            CLUSTER => requests.extend(self.on_clusters(&response)?),
            ENDPOINTS => self.on_endpoints(sidecar, &response, expected_changes)?,
            LISTENER if self.stage == Stage::Listeners => self.stage = Stage::Complete,
            _ => {}
        }
        requests.push(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        });
        if self.stage == Stage::Endpoints && self.pending_endpoints.is_empty() {
            self.stage = Stage::Listeners;
            // Frees the memory of the empty set.
            self.pending_endpoints = HashSet::new();
            requests.push(DeltaDiscoveryRequest {
                type_url: LISTENER.to_owned(),
                ..DeltaDiscoveryRequest::default()
            });
        }
        Ok(requests)
    }

    /// Returns the subscription to the endpoints of the first response's EDS clusters. Ignores later responses.
    fn on_clusters(&mut self, response: &DeltaDiscoveryResponse) -> Result<Option<DeltaDiscoveryRequest>> {
        if self.stage != Stage::Clusters {
            return Ok(None);
        }
        self.stage = Stage::Endpoints;
        let mut names = Vec::new();
        for bytes in &response.resources {
            let Resource { body, name } = Resource::decode(bytes.clone())?;
            if Cluster::decode(body.unwrap_or_default().value)?.discovery == EDS {
                names.push(name);
            }
        }
        self.pending_endpoints.extend(names.iter().cloned());
        Ok((!names.is_empty()).then(|| DeltaDiscoveryRequest {
            type_url: ENDPOINTS.to_owned(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        }))
    }

    fn on_endpoints(
        &mut self,
        sidecar: usize,
        response: &DeltaDiscoveryResponse,
        expected_changes: &ExpectedChanges,
    ) -> Result<()> {
        // Endpoints that nothing awaits are not decoded, to save CPU time.
        if self.pending_endpoints.is_empty() && expected_changes.is_empty() {
            return Ok(());
        }
        for bytes in &response.resources {
            let Resource { body, name } = Resource::decode(bytes.clone())?;
            self.pending_endpoints.remove(&name);
            expected_changes.on_endpoints(sidecar, &name, &body.unwrap_or_default().value);
        }
        for name in &response.removed_resources {
            self.pending_endpoints.remove(name);
            expected_changes.on_endpoints(sidecar, name, &[]);
        }
        Ok(())
    }
}
