//! Kind `dns-listener`: the names that end in `.mesh`. Kuma's Envoy has a DNS listener with a table of them. In Kermode,
//! the control plane resolves each name when `kuma-dp` asks for it, so this runner compares names and addresses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use kermode_model::view::{MeshView, ServiceAddresses};
use kermode_model::{DEFAULT_MESH, Dataplane, Mesh, ServiceName, tag};
use kermode_names::{Resolution, resolve};
use serde_json::{Value, json};

use super::dataplane_object;
use crate::corpus::Case;
use crate::dataplane::dataplane;
use crate::suite::Outcome;

/// Resolves all names of the case's virtual IPs, and compares the addresses with Kuma's table.
pub(super) fn compare(case: &Case<'_>) -> Result<Outcome> {
    let mesh = Mesh::new(DEFAULT_MESH);
    let object = dataplane_object(case)?;
    let client = dataplane(&mesh.name, &object)?;
    let view = view(mesh, &object)?;
    let domains = case.at("/settings/vipDomains").as_array().into_iter().flatten();
    let names = domains.flat_map(|domain| domain["domains"].as_array().into_iter().flatten());
    let resolved = names.filter_map(|name| resolved(&view, &client, name.as_str()?));
    Ok(Outcome::Compared {
        expected: table(&case.document("expected")?),
        actual: json!(resolved.collect::<BTreeMap<_, _>>()),
    })
}

/// Returns a name with its addresses, if it exists.
fn resolved<'n>(view: &MeshView, client: &Dataplane, name: &'n str) -> Option<(&'n str, Value)> {
    let addresses = match resolve(view, client, name) {
        Resolution::Service(address) => json!([address]),
        Resolution::Pod(addresses) => json!(addresses),
        Resolution::Unknown | Resolution::WithoutAddress => return None,
    };
    Some((name, addresses))
}

/// Returns a view with the services of the Dataplane's outbounds, each with one Pod. The address of an outbound is the
/// virtual IP of its service.
fn view(mesh: Mesh, client: &Value) -> Result<MeshView> {
    let mut view = MeshView::default();
    let mesh_name = mesh.name.clone();
    view.upsert_mesh(mesh);
    let outbounds = client["networking"]["outbound"].as_array().into_iter().flatten();
    let mut virtual_ips = Vec::new();
    for outbound in outbounds {
        let service = outbound["tags"][tag::SERVICE]
            .as_str()
            .context("an outbound without a service")?;
        let address = outbound["address"]
            .as_str()
            .context("an outbound without an address")?;
        let address: Ipv4Addr = address.parse()?;
        virtual_ips.push((ServiceName::from(service), address));
        let addresses = ServiceAddresses {
            cluster_addresses: vec![SocketAddr::from((address, 80))],
            ..ServiceAddresses::default()
        };
        view.set_addresses(&service.into(), Some(addresses));
        let inbound = json!({ "port": 8080, "tags": outbound["tags"] });
        let server = json!({ "name": service, "networking": { "inbound": [inbound] } });
        view.upsert_dataplane(dataplane(&mesh_name, &server)?);
    }
    view.set_virtual_ips(&mesh_name, virtual_ips.into_iter().collect());
    Ok(view)
}

/// Returns the names and addresses in the DNS tables of the listeners.
fn table(expected: &Value) -> Value {
    let filters = "/resource/listenerFilters/0/typedConfig/serverConfig/inlineDnsTable/virtualDomains";
    let resources = expected["resources"].as_array().into_iter().flatten();
    let domains = resources.filter_map(|resource| resource.pointer(filters)?.as_array());
    let entries = domains.flatten().filter_map(|domain| {
        let addresses = domain.pointer("/endpoint/addressList/address")?;
        Some((domain["name"].as_str()?, addresses.clone()))
    });
    json!(entries.collect::<BTreeMap<_, _>>())
}
