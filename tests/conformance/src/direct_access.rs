//! Suite `page-examples`, kind `direct-access-listeners`: the addresses at which a client's proxy intercepts requests to
//! the IPs of Pods.

use anyhow::{Context, Result};
use kermode_crds::Networking;
use kermode_envoy::{generate, names};
use kermode_model::direct_access::{DirectAccess, EndpointAddresses};
use kermode_model::view::MeshView;
use kermode_model::{Dataplane, Inbound, Mesh, MeshName, ObjectKey, TransparentProxying};
use serde_json::{Value, json};

use crate::corpus::Case;
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
        let mut view = MeshView::default();
        view.upsert_mesh(mesh.clone());
        view.upsert_dataplane(client.clone());
        for other in case.at("/inputs/dataplanes").as_array().into_iter().flatten() {
            view.upsert_dataplane(dataplane(&mesh.name, other)?);
        }
        let endpoints = EndpointAddresses::of(&view, &mesh.name);
        let access = DirectAccess::of(&client);
        let addresses = access.as_ref().map(|access| access.addresses(&endpoints));
        // Kuma has a listener for each address, and one cluster for all listeners. Kermode has one filter chain with the
        // name of Kuma's cluster, and for each address a cluster with the name of Kuma's listener.
        let clusters = addresses
            .iter()
            .flatten()
            .map(|address| generate::direct_access_cluster(&mesh, *address, endpoints.services_at(*address)));
        let actual = json!({
            "cluster": access.map_or("", |_| names::DIRECT_ACCESS),
            "listeners": clusters.map(|cluster| cluster.name.to_string()).collect::<Vec<_>>(),
        });
        Ok(Outcome::Compared {
            expected: case.at("/expected").clone(),
            actual,
        })
    }
}

/// Converts a Dataplane of the case to a Dataplane of the model.
fn dataplane(mesh: &MeshName, object: &Value) -> Result<Dataplane> {
    let name = object["name"]
        .as_str()
        .context("a Dataplane of the case has no name")?;
    let networking: Networking = serde_json::from_value(object["networking"].clone())?;
    let inbound = |inbound: kermode_crds::InboundSpec| Inbound {
        port: inbound.port,
        tags: inbound.tags,
        ready: inbound.health.map(|health| health.ready),
    };
    Ok(Dataplane {
        key: ObjectKey::from_proxy_name(name)
            .with_context(|| format!("the name {name:?} of a Dataplane of the case has no namespace"))?,
        mesh: mesh.clone(),
        address: networking.address.parse()?,
        additional_addresses: Vec::new(),
        inbounds: networking.inbound.into_iter().map(inbound).collect(),
        gateway: None,
        transparent_proxying: networking
            .transparent_proxying
            .map(|settings| TransparentProxying {
                redirect_port_inbound: settings.redirect_port_inbound,
                redirect_port_inbound_v6: settings.redirect_port_inbound_v6,
                redirect_port_outbound: settings.redirect_port_outbound,
                direct_access_services: settings.direct_access_services,
                reachable_services: settings.reachable_services,
            }),
        admin_port: None,
        probes: None,
        metrics: None,
    })
}
