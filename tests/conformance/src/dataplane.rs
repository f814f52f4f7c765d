//! Conversion of the Dataplanes in cases to Dataplanes of the model.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use kermode_crds::{InboundSpec, Networking, ProbesSpec, TransparentProxyingSpec};
use kermode_model::{
    ApplicationProbe, Dataplane, Inbound, MeshName, ObjectKey, ProbeProtocol, Probes, TransparentProxying,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Name of a Dataplane without a name.
const DEFAULT_NAME: &str = "proxy";
/// Namespace of a Dataplane whose name contains no namespace.
const DEFAULT_NAMESPACE: &str = "default";
/// Address of a Dataplane without an address. The address is reserved for documentation (RFC 5737).
const DEFAULT_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Converts a Dataplane of a case to a Dataplane of the model.
///
/// Cases omit fields that every Pod has: name, namespace and address of the Dataplane, and a redirection port. This
/// function adds them.
pub(crate) fn dataplane(mesh: &MeshName, object: &Value) -> Result<Dataplane> {
    let name = object["name"].as_str().unwrap_or(DEFAULT_NAME);
    let key = ObjectKey::from_proxy_name(name).unwrap_or_else(|| ObjectKey::new(DEFAULT_NAMESPACE, name));
    let networking = networking(&object["networking"])?;
    let address = match networking.address.as_str() {
        "" => DEFAULT_ADDRESS.into(),
        text => text
            .parse()
            .with_context(|| format!("the address of the Dataplane {name} is no IP address"))?,
    };
    Ok(Dataplane {
        key,
        mesh: mesh.clone(),
        address,
        additional_addresses: Vec::new(),
        inbounds: networking.inbound.into_iter().map(inbound).collect(),
        gateway: None,
        transparent_proxying: networking.transparent_proxying.map(transparent_proxying),
        admin_port: networking.admin.map(|admin| admin.port),
        probes: probes(&object["probes"])?,
        metrics: None,
    })
}

/// Converts a Dataplane of a case whose inbounds may have addresses of their own. Returns one Dataplane for each
/// address, in the order of the inbounds, because a Dataplane of Kermode has only inbounds at all addresses of its Pod.
pub(crate) fn dataplanes_by_address(mesh: &MeshName, object: &Value) -> Result<Vec<Dataplane>> {
    let own_address = &object["networking"]["address"];
    let mut by_address: Vec<(Value, Vec<Value>)> = vec![(own_address.clone(), Vec::new())];
    for inbound in object["networking"]["inbound"].as_array().into_iter().flatten() {
        let address = inbound.get("address").unwrap_or(own_address);
        match by_address.iter_mut().find(|(other, _)| other == address) {
            Some((_, inbounds)) => inbounds.push(inbound.clone()),
            None => by_address.push((address.clone(), vec![inbound.clone()])),
        }
    }
    by_address
        .into_iter()
        .map(|(address, inbounds)| {
            let mut object = object.clone();
            if !address.is_null() {
                object["networking"]["address"] = address;
                object["networking"]["inbound"] = json!(inbounds);
            }
            dataplane(mesh, &object)
        })
        .collect()
}

fn networking(object: &Value) -> Result<Networking> {
    if object.is_null() {
        return Ok(Networking::default());
    }
    let mut object = object.clone();
    if let Some(settings) = object["transparentProxying"].as_object_mut() {
        // `redirectPort` is the name of the outbound port in old releases of Kuma.
        let outbound = settings.get("redirectPort").cloned().unwrap_or(json!(15001));
        settings.entry("redirectPortOutbound").or_insert(outbound);
        settings.entry("redirectPortInbound").or_insert(json!(15006));
    }
    serde_json::from_value(object).context("cannot decode `networking` of a Dataplane")
}

fn inbound(inbound: InboundSpec) -> Inbound {
    Inbound {
        port: inbound.port,
        tags: inbound.tags,
        ready: inbound.health.map(|health| health.ready),
    }
}

fn transparent_proxying(settings: TransparentProxyingSpec) -> TransparentProxying {
    TransparentProxying {
        redirect_port_inbound: settings.redirect_port_inbound,
        redirect_port_inbound_v6: settings.redirect_port_inbound_v6,
        redirect_port_outbound: settings.redirect_port_outbound,
        direct_access_services: settings.direct_access_services,
        reachable_services: settings.reachable_services,
    }
}

fn probes(object: &Value) -> Result<Option<Probes>> {
    let Some(probes) =
        Option::<ProbesSpec>::deserialize(object).context("cannot decode `probes` of a Dataplane")?
    else {
        return Ok(None);
    };
    let mut endpoints = Vec::new();
    for endpoint in probes.endpoints {
        ensure!(
            endpoint.protocol.is_none(),
            "the corpus has only HTTP probes, which have no `protocol`"
        );
        endpoints.push(ApplicationProbe {
            protocol: ProbeProtocol::Http,
            inbound_port: endpoint.inbound_port,
            inbound_path: endpoint.inbound_path,
            path: endpoint.path,
        });
    }
    Ok(Some(Probes {
        port: probes.port,
        endpoints,
    }))
}
