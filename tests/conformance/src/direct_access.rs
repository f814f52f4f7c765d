//! Suite `page-examples`, kind `direct-access-listeners`: the addresses at which a client's proxy intercepts requests to
//! the IPs of Pods.

use anyhow::{Context, Result};
use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, ResourceKind, generate, names};
use kermode_model::direct_access::{DirectAccess, EndpointAddresses};
use kermode_model::view::{MeshView, ServiceAddresses};
use kermode_model::{Dataplane, Mesh, ServiceName};
use serde_json::json;

use crate::corpus::Case;
use crate::dataplane::dataplane;
use crate::suite::{Outcome, Runner};

/// Runner of the kind `direct-access-listeners`.
pub(crate) struct DirectAccessListeners;

impl Runner for DirectAccessListeners {
    fn suite(&self) -> &'static str {
        "page-examples"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["direct-access-listeners"]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let mesh = Mesh::new(
            case.at("/inputs/mesh")
                .as_str()
                .context("`inputs.mesh` is missing")?,
        );
        let client = dataplane(&mesh.name, case.at("/inputs/dataplane"))?;
        let others = case.at("/inputs/dataplanes").as_array().into_iter().flatten();
        let others = others.map(|other| dataplane(&mesh.name, other));
        let resources = resources_of(&mesh, &client, others.collect::<Result<_>>()?, &[]);
        // Kuma has a listener for each address, and one cluster for all listeners. Kermode has one filter chain with the
        // name of Kuma's cluster, and for each address a cluster with the name of Kuma's listener.
        let clusters = resources
            .iter()
            .filter(|resource| resource.kind == ResourceKind::Cluster);
        let actual = json!({
            "cluster": DirectAccess::of(&client).map_or("", |_| names::DIRECT_ACCESS),
            "listeners": clusters.map(|cluster| cluster.name.to_string()).collect::<Vec<_>>(),
        });
        Ok(Outcome::Compared {
            expected: case.at("/expected").clone(),
            actual,
        })
    }
}

/// Generates the resources with which a client calls Pods of other Dataplanes by their IPs: the outbound passthrough
/// listener, and a cluster for each address. The client has outbound listeners for the endpoints of the services in
/// `headless`.
pub(crate) fn resources_of(
    mesh: &Mesh,
    client: &Dataplane,
    others: Vec<Dataplane>,
    headless: &[ServiceName],
) -> Vec<Resource> {
    let mut view = MeshView::default();
    view.upsert_mesh(mesh.clone());
    for service in headless {
        let addresses = ServiceAddresses {
            headless: true,
            ..ServiceAddresses::default()
        };
        view.set_addresses(service, Some(addresses));
    }
    for dataplane in [client.clone()].into_iter().chain(others) {
        view.upsert_dataplane(dataplane);
    }
    let Some(access) = DirectAccess::of(client) else {
        return Vec::new();
    };
    let endpoints = EndpointAddresses::of(&view, &mesh.name);
    let addresses = access.addresses(&endpoints);
    let mut resources = generate::on_demand_listeners(
        client,
        OnDemandAddresses {
            direct_access: Some(&addresses),
            virtual_ips: None,
        },
    );
    resources.extend(
        addresses
            .iter()
            .map(|address| generate::direct_access_cluster(mesh, *address, endpoints.services_at(*address))),
    );
    resources
}
