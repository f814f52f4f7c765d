//! Suite `xds`: the resources that Envoy gets, and its bootstrap. Each kind of case compares a part of the resources.

mod bootstrap;
mod dns;
mod messages;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};
use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, generate};
use kermode_model::{
    Action, Dataplane, Inbound, Mesh, MeshName, ObjectKey, PermissionRule, PermissionSet, Principal,
    ServiceName, Tags, TrafficPermission, tag,
};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::dataplane::{dataplane, dataplanes_by_address};
use crate::direct_access;
use crate::suite::{Outcome, Runner};

/// Runner of the suite.
pub(crate) struct Xds;

const NO_ADMIN_ADDRESS: &str = "the address of the admin interface is not a setting: it is always 127.0.0.1 \
                                (docs/reference/envoy.md#readiness-and-probes)";
const NO_ACCESS_LOG: &str = "Kermode has neither TrafficLog nor `logging` of a Mesh: no listener has an access log \
                             (docs/reference/envoy.md#envoy-resources)";

impl Runner for Xds {
    fn suite(&self) -> &'static str {
        "xds"
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        match case.kind() {
            "direct-access" => compare(case, &direct_access_resources(case)?),
            "inbound" => compare_inbounds(case),
            "transparent-proxy" if !case.at("/settings/trafficLogsByService/pass_through").is_null() => {
                Ok(Outcome::Skipped(NO_ACCESS_LOG.to_owned()))
            }
            "transparent-proxy" => compare(
                case,
                &proxy_resources(case, |name| name.contains(":passthrough:"))?,
            ),
            "probe-listener" => compare(case, &proxy_resources(case, |name| name.starts_with("probe:"))?),
            "dns-listener" => dns::compare(case),
            "admin-listener" if case.json["files"]["expected"].is_null() => {
                Ok(Outcome::Skipped(NO_ADMIN_ADDRESS.to_owned()))
            }
            "admin-listener" => compare(case, &proxy_resources(case, |name| name == "kuma:envoy:admin")?),
            "bootstrap" => bootstrap::compare(case),
            other => bail!("unknown kind {other:?}"),
        }
    }
}

fn compare(case: &Case<'_>, resources: &[Resource]) -> Result<Outcome> {
    Ok(Outcome::Messages {
        expected: messages::expected(&case.document("expected")?)?,
        actual: messages::actual(resources)?,
    })
}

/// Returns the Dataplane of a case: a file or a value.
fn dataplane_object(case: &Case<'_>) -> Result<Value> {
    if case.at("/inputs/dataplane").is_null() {
        case.document("dataplane")
    } else {
        Ok(case.at("/inputs/dataplane").clone())
    }
}

/// Generates the resources of the case's proxy whose names `is_compared` selects.
fn proxy_resources(case: &Case<'_>, is_compared: fn(&str) -> bool) -> Result<Vec<Resource>> {
    let mesh = mesh(case)?;
    let dataplane = dataplane(&mesh.name, &dataplane_object(case)?)?;
    Ok(resources_of(
        &mesh,
        &dataplane,
        &PermissionSet::new(),
        is_compared,
    ))
}

fn resources_of(
    mesh: &Mesh,
    dataplane: &Dataplane,
    permissions: &PermissionSet,
    is_compared: fn(&str) -> bool,
) -> Vec<Resource> {
    let mut resources = generate::mesh_shared(mesh);
    resources.extend(generate::proxy(
        mesh,
        dataplane,
        permissions,
        OnDemandAddresses::default(),
    ));
    resources.retain(|resource| is_compared(&resource.name));
    resources
}

/// Returns the Mesh of a case; without mTLS if the case has no Mesh.
fn mesh(case: &Case<'_>) -> Result<Mesh> {
    let mut spec = case.at("/settings/mesh").clone();
    let name = spec["name"].as_str().unwrap_or("default").to_owned();
    let backends = spec.pointer_mut("/mtls/backends").and_then(Value::as_array_mut);
    for backend in backends.into_iter().flatten() {
        backend["mode"] = case.at("/settings/mtlsMode").clone();
    }
    let object = json!({ "metadata": { "name": name }, "spec": { "mtls": spec["mtls"] } });
    let object: kermode_crds::Mesh = serde_json::from_value(object).context("cannot decode the Mesh")?;
    Ok(Mesh::try_from(&object)?)
}

// === kind inbound ===

fn compare_inbounds(case: &Case<'_>) -> Result<Outcome> {
    let (mesh, object) = (mesh(case)?, dataplane_object(case)?);
    let is_inbound = |name: &str| {
        name.starts_with("localhost:") || name.starts_with("inbound:") && !name.contains(":passthrough:")
    };
    let mut resources = Vec::new();
    for dataplane in dataplanes_by_address(&mesh.name, &object)? {
        let permissions = permissions(case, &mesh.name, &dataplane)?;
        resources.extend(resources_of(&mesh, &dataplane, &permissions, is_inbound));
    }
    let mut expected = messages::expected(&case.document("expected")?)?;
    for inbound in object["networking"]["inbound"].as_array().into_iter().flatten() {
        messages::replace_service_port(&mut expected, &inbound["servicePort"], &inbound["port"]);
    }
    Ok(Outcome::Messages {
        expected,
        actual: messages::actual(&resources)?,
    })
}

/// Returns MeshTrafficPermissions with the meaning of the case's TrafficPermissions. The case assigns each
/// TrafficPermission to one inbound, `<address>:<port>:<service port>`.
fn permissions(case: &Case<'_>, mesh: &MeshName, dataplane: &Dataplane) -> Result<PermissionSet> {
    let mut permissions = PermissionSet::new();
    let of_inbounds = case.at("/settings/trafficPermissions").as_object();
    for (inbound_key, permission) in of_inbounds.into_iter().flatten() {
        let is_named =
            |inbound: &&Inbound| inbound_key.starts_with(&format!("{}:{}:", dataplane.address, inbound.port));
        let Some(inbound) = dataplane.inbounds.iter().find(is_named) else {
            continue;
        };
        let sources = permission["sources"].as_array().into_iter().flatten();
        let permission = TrafficPermission {
            target: inbound.tags.clone(),
            rules: sources.map(rule_that_allows).collect::<Result<_>>()?,
        };
        permissions.insert(ObjectKey::new(mesh.as_str(), inbound_key.as_str()), permission);
    }
    Ok(permissions)
}

/// Returns a rule that allows the callers with these tags.
fn rule_that_allows(tags: &Value) -> Result<PermissionRule> {
    let mut tags: Tags = serde_json::from_value(tags.clone()).context("cannot decode a source")?;
    Ok(PermissionRule {
        from: Principal {
            service: tags.remove(tag::SERVICE).map(ServiceName::new),
            tags,
        },
        action: Action::Allow,
    })
}

// === kind direct-access ===

fn direct_access_resources(case: &Case<'_>) -> Result<Vec<Resource>> {
    let mesh = mesh(case)?;
    let object = case.document("dataplane")?;
    let client = dataplane(&mesh.name, &object)?;
    // The list of all Dataplanes contains the client.
    let others = case.documents("dataplanes")?;
    let others = others
        .iter()
        .filter(|other| other["name"].is_string() && other["name"] != object["name"]);
    let others = others
        .map(|other| dataplane(&mesh.name, other))
        .collect::<Result<_>>()?;
    // In the case, the client has an outbound at the address of an endpoint. Kermode generates such an outbound for a
    // headless service.
    let outbounds = object["networking"]["outbound"].as_array().into_iter().flatten();
    let headless: Vec<_> = outbounds
        .filter_map(|outbound| outbound["service"].as_str())
        .map(ServiceName::from)
        .collect();
    Ok(direct_access::resources_of(&mesh, &client, others, &headless))
}
