//! The graph of a mesh: its services, and the edges that permissions and lists of reachable services name. Pure.
//!
//! The control plane sees no requests, so the graph has no numbers of requests. An edge says that a caller is named, and
//! whether it is allowed, but not that it sends requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kermode_model::view::MeshView;
use kermode_model::{Dataplane, MeshName, PermissionSet, ServiceName, Tags};
use serde::Serialize;

use crate::detail::{MtlsState, RuleAction};

/// Maximum number of services of a graph. Bounds the size of the response and the time to make it.
const MAX_SERVICES: usize = 500;
/// Maximum number of edges of a graph. Bounds the size of the response and the time to make it.
const MAX_EDGES: usize = 2_000;

/// The graph of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Graph {
    /// Name of the mesh.
    pub mesh: MeshName,
    /// mTLS of the mesh. Permissions apply only with mTLS.
    pub mtls: MtlsState,
    /// Services, by name.
    pub services: Vec<ServiceNode>,
    /// Edges, by caller and called service.
    pub edges: Vec<Edge>,
    /// Number of services of the mesh, including those that the graph leaves out.
    pub total_services: usize,
    /// Whether services or edges were left out, because there are too many.
    pub truncated: bool,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceNode {
    /// Name of the service.
    pub name: ServiceName,
    /// Application protocol.
    pub protocol: &'static str,
    /// Number of endpoints.
    pub endpoints: usize,
    /// Number of endpoints that may receive traffic.
    pub ready: usize,
    /// Action for callers that no rule names and that have none of the tags of rules; absent as that of [`Edge`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<RuleAction>,
    /// Whether the action for these callers depends on their tags or differs between endpoints of the service.
    pub others_conditional: bool,
}

/// A caller that a permission or a list of reachable services names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Calling service. It may not exist.
    pub from: ServiceName,
    /// Called service.
    pub to: ServiceName,
    /// Action for the caller; absent if no Dataplane of the mesh has an inbound of the called service, so that no
    /// permission applies to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<RuleAction>,
    /// Whether the action depends on further tags of the caller or differs between endpoints of the called service. The
    /// action is then that of the first endpoint, for a caller with these tags.
    pub conditional: bool,
    /// Whether Dataplanes of the caller list the called service as reachable.
    pub reachable: bool,
}

/// Copy of the parts of the view that a graph is made of: the view is locked while the tags of the endpoints are compared
/// and the permissions of the mesh are copied, but not while the graph is made.
#[derive(Clone, Debug)]
pub struct GraphInput {
    mesh: MeshName,
    mtls: MtlsState,
    services: Vec<(ServiceNode, ServiceTags)>,
    total_services: usize,
    permissions: PermissionSet,
    dataplanes: Vec<Arc<Dataplane>>,
}

/// Tags of the first endpoint of a service, and whether other endpoints have other tags, apart from the Pod's name.
#[derive(Clone, Debug, Default)]
struct ServiceTags {
    /// `None` if no Dataplane has an inbound of the service. Endpoints of EndpointSlices have no tags.
    first: Option<Tags>,
    differ: bool,
}

/// Result of the rules for one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    action: Option<RuleAction>,
    conditional: bool,
}

impl GraphInput {
    /// Copies the parts of the view.
    pub fn new(view: &MeshView, mesh: &MeshName) -> Self {
        let mtls = MtlsState::from(view.mesh(mesh).map(|mesh| &**mesh));
        let services = view.services(mesh).take(MAX_SERVICES);
        let services = services.map(|(name, service)| {
            let first = service.endpoints.values().next();
            let first = first.map(|endpoint| endpoint.tags.clone());
            let differ = first.as_ref().is_some_and(|first| {
                let mut endpoints = service.endpoints.values();
                endpoints.any(|endpoint| has_other_tags(&endpoint.tags, first))
            });
            let slice_endpoints = service.slice_endpoints.values();
            let node = ServiceNode {
                name: name.clone(),
                protocol: service.protocol().as_str(),
                endpoints: service.endpoints.len() + service.slice_endpoints.len(),
                ready: service
                    .endpoints
                    .values()
                    .filter(|endpoint| endpoint.ready)
                    .count()
                    + slice_endpoints.filter(|endpoint| endpoint.ready).count(),
                others: None,
                others_conditional: false,
            };
            (node, ServiceTags { first, differ })
        });
        Self {
            mesh: mesh.clone(),
            mtls,
            services: services.collect(),
            total_services: view.services(mesh).count(),
            permissions: view.permissions(mesh).clone(),
            dataplanes: view
                .dataplanes_of(mesh)
                .filter(|dataplane| dataplane.reachable_services().is_some())
                .cloned()
                .collect(),
        }
    }
}

impl From<GraphInput> for Graph {
    fn from(input: GraphInput) -> Self {
        let applies = matches!(input.mtls, MtlsState::Strict | MtlsState::Permissive);
        let reachable = reachable_edges(&input.dataplanes);
        let mut edges = BTreeMap::new();
        let mut services = Vec::with_capacity(input.services.len());
        for (mut node, tags) in input.services {
            let rules = match &tags.first {
                Some(first) if applies => input.permissions.rules_for(first),
                _ => Vec::new(),
            };
            let decide = |caller: Option<&ServiceName>| {
                if tags.first.is_none() || !applies {
                    return Decision {
                        action: tags.first.as_ref().map(|_| RuleAction::Allow),
                        conditional: false,
                    };
                }
                let mut decision = Decision {
                    action: Some(RuleAction::Deny),
                    conditional: tags.differ,
                };
                let matching = rules
                    .iter()
                    .filter(|rule| rule.from.service.is_none() || rule.from.service.as_ref() == caller);
                for rule in matching {
                    let has_tags = !rule.from.tags.is_empty();
                    // A caller that no rule names is one without the tags of the rule.
                    if caller.is_some() || !has_tags {
                        decision.action = Some(rule.action.into());
                    }
                    decision.conditional = tags.differ || has_tags;
                }
                decision
            };
            let others = decide(None);
            node.others = others.action;
            node.others_conditional = others.conditional;
            let named = rules.iter().filter_map(|rule| rule.from.service.as_ref());
            let listing = reachable.get(&node.name).into_iter().flatten();
            let callers: BTreeSet<_> = named.chain(listing.clone()).cloned().collect();
            for from in callers {
                let Decision { action, conditional } = decide(Some(&from));
                let reachable = reachable
                    .get(&node.name)
                    .is_some_and(|callers| callers.contains(&from));
                let edge = Edge {
                    from: from.clone(),
                    to: node.name.clone(),
                    action,
                    conditional,
                    reachable,
                };
                edges.insert((from, node.name.clone()), edge);
            }
            services.push(node);
        }
        let truncated = input.total_services > services.len() || edges.len() > MAX_EDGES;
        Self {
            mesh: input.mesh,
            mtls: input.mtls,
            services,
            edges: edges.into_values().take(MAX_EDGES).collect(),
            total_services: input.total_services,
            truncated,
        }
    }
}

/// Returns the callers that list a service as reachable, by this service. A list may name a service without its port,
/// or all services by `*`; such items are no edges.
fn reachable_edges(dataplanes: &[Arc<Dataplane>]) -> BTreeMap<ServiceName, BTreeSet<ServiceName>> {
    let mut edges: BTreeMap<ServiceName, BTreeSet<ServiceName>> = BTreeMap::new();
    for dataplane in dataplanes {
        for to in dataplane.reachable_services().unwrap_or_default() {
            let callers = edges.entry(ServiceName::new(to.as_str())).or_default();
            callers.extend(dataplane.services());
        }
    }
    edges
}

/// Whether the tags of an endpoint differ from those of the first endpoint in more than the name of the Pod.
fn has_other_tags(tags: &Tags, first: &Tags) -> bool {
    let [tags, first] = [tags, first].map(|tags| {
        tags.iter()
            .filter(|(key, _)| &***key != kermode_model::tag::INSTANCE)
    });
    !tags.eq(first)
}

#[cfg(test)]
mod tests;
