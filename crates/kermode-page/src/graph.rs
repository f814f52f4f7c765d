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
    /// Action for callers that no rule names.
    pub others: RuleAction,
}

/// A caller that a permission or a list of reachable services names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Calling service. It may not exist.
    pub from: ServiceName,
    /// Called service.
    pub to: ServiceName,
    /// Action for the caller.
    pub action: RuleAction,
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
    first: Tags,
    differ: bool,
}

/// Result of the rules for one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    action: RuleAction,
    conditional: bool,
}

impl GraphInput {
    /// Copies the parts of the view.
    pub fn new(view: &MeshView, mesh: &MeshName) -> Self {
        let mtls = MtlsState::from(view.mesh(mesh).map(|mesh| &**mesh));
        let services = view.services(mesh).take(MAX_SERVICES);
        let services = services.map(|(name, service)| {
            let first = service.endpoints.values().next();
            let first = first.map(|endpoint| endpoint.tags.clone()).unwrap_or_default();
            let differ = service
                .endpoints
                .values()
                .any(|endpoint| has_other_tags(&endpoint.tags, &first));
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
                others: RuleAction::Allow,
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
            let rules = if applies {
                input.permissions.rules_for(&tags.first)
            } else {
                Vec::new()
            };
            let decide = |caller: Option<&ServiceName>| {
                if !applies {
                    return Decision {
                        action: RuleAction::Allow,
                        conditional: false,
                    };
                }
                let mut decision = Decision {
                    action: RuleAction::Deny,
                    conditional: tags.differ,
                };
                for rule in &rules {
                    if rule.from.service.is_none() || rule.from.service.as_ref() == caller {
                        decision.action = rule.action.into();
                        decision.conditional = tags.differ || !rule.from.tags.is_empty();
                    }
                }
                decision
            };
            node.others = decide(None).action;
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
