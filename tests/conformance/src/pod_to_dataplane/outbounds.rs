//! Cases of kind `outbounds`: the addresses of each service. Kuma stores these addresses in the Dataplanes of clients.
//! Kermode reads these addresses from the mesh view.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kermode_k8s::convert::facts::ServiceFacts;
use kermode_k8s::index::service_addresses;
use kermode_model::view::MeshView;
use kermode_model::{Dataplane, Inbound, MeshName, ObjectKey};
use serde_json::{Value, json};

use super::decode;
use crate::corpus::Case;
use crate::suite::Outcome;

/// Mesh of all Dataplanes.
const MESH: &str = "default";

pub(super) fn run(case: &Case<'_>) -> Result<Outcome> {
    let mut view = MeshView::default();
    for service in case.decode::<Vec<Value>>("/inputs/services")? {
        let facts = ServiceFacts::from(&decode::<Service>(&service)?);
        for (name, addresses) in service_addresses(&facts) {
            view.set_addresses(&name, Some(addresses));
        }
    }
    for dataplane in case.decode::<Vec<Value>>("/inputs/dataplanes")? {
        view.upsert_dataplane(model_dataplane(&dataplane)?);
    }
    Ok(Outcome::Compared {
        expected: case.at("/expected/outbounds").clone(),
        actual: outbounds(&view),
    })
}

fn outbounds(view: &MeshView) -> Value {
    let mesh = MeshName::new(MESH);
    let outbounds = view.services(&mesh).flat_map(|(name, service)| {
        let addresses = service.addresses.cluster_addresses.iter();
        addresses.map(move |address| {
            json!({
                "address": address.ip(),
                "port": address.port(),
                "tags": {"kuma.io/service": name},
            })
        })
    });
    outbounds.collect()
}

/// Converts a Dataplane of the case to a Dataplane of the model.
fn model_dataplane(dataplane: &Value) -> Result<Dataplane> {
    let name = dataplane["name"].as_str().unwrap_or_default();
    let networking = &dataplane["networking"];
    let inbounds: Vec<Value> = serde_json::from_value(networking["inbound"].clone())?;
    let inbounds = inbounds.iter().map(|inbound| {
        Ok(Inbound {
            port: serde_json::from_value(inbound["port"].clone())?,
            tags: serde_json::from_value(inbound["tags"].clone())?,
            ready: None,
        })
    });
    Ok(Dataplane {
        key: ObjectKey::from_proxy_name(name)
            .with_context(|| format!("the name {name:?} of a Dataplane of the case has no namespace"))?,
        mesh: MeshName::new(MESH),
        address: serde_json::from_value(networking["address"].clone())?,
        additional_addresses: Vec::new(),
        inbounds: inbounds.collect::<Result<_>>()?,
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    })
}
