//! Configurations of two sidecars: the resources that the control plane generates for a client and for a server.
//!
//! Connections are not redirected in the benchmark, and there is no `kuma-dp`. Therefore, the called listeners are bound
//! to addresses, and the bootstrap contains endpoints and secrets. These differences do not affect requests.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use kermode_envoy::generate::{self, OnDemandAddresses};
use kermode_envoy::{Resource, ResourceKind};
use kermode_envoy_json::decode;
use kermode_identity::Authority;
use kermode_model::view::{MeshView, ServiceAddresses};
use kermode_model::{
    Action, Dataplane, Inbound, Mesh, ObjectKey, PermissionRule, Principal, Protocol, ServiceName, Tags,
    TrafficPermission, TransparentProxying, tag,
};
use kermode_protocol::ads::Versions;
use kermode_protocol::bootstrap::{BootstrapConfig, bootstrap};
use serde_json::{Map, Value, json};

use super::{APPLICATION, PROTOCOLS, port_of};
use crate::mesh;

/// Port of every service.
const SERVICE_PORT: u16 = 80;
/// Service of the client.
const CLIENT_SERVICE: &str = "client_demo_svc";

/// The bootstraps of both sidecars, with their listeners and clusters.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    pub(super) client: Value,
    pub(super) server: Value,
}

/// The callers that the permission of the mesh allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callers {
    /// All callers, as the permission that each new Mesh has.
    All,
    /// The client.
    Client,
}

/// Generates configurations. The addresses of the listeners differ for each `number`.
pub(super) fn generate(number: u8, callers: Callers) -> Result<Configs> {
    let mesh = mesh::strict();
    let (client, server) = (client(), server());
    let now = SystemTime::now();
    let authority = Authority::generate(&mesh.name, now)?;
    let view = view(&mesh, number, callers, &client, &server);
    let services = view.services(&mesh.name);
    let shared: Vec<_> = services
        .flat_map(|(name, service)| generate::service(&mesh, name, service))
        .collect();
    let own = |dataplane: &Dataplane| {
        let permissions = view.permissions(&mesh.name);
        generate::proxy(&mesh, dataplane, permissions, OnDemandAddresses::default())
    };
    // A proxy gets the resources of all services, those of its own included.
    let of_client = own(&client).into_iter().chain(shared.clone());
    let of_server = own(&server).into_iter().chain(shared);
    let hidden = generate::hidden_resource_names(&server);
    let of_server =
        of_server.filter(|resource| !hidden.contains(&(resource.kind, resource.name.to_string())));
    let secrets_of = |dataplane| mesh::secrets(&authority, dataplane, now);
    Ok(Configs {
        client: config(&client, of_client, secrets_of(&client)?, "OUTBOUND", number)?,
        server: config(&server, of_server, secrets_of(&server)?, "INBOUND", number)?,
    })
}

/// Returns the address that clients call.
pub(super) fn cluster_address(number: u8, protocol: Protocol) -> SocketAddr {
    let last = u8::try_from(port_of(protocol) % 256).unwrap_or_default();
    (Ipv4Addr::new(127, 96, number, last), SERVICE_PORT).into()
}

/// Returns the IP that the inbound listeners are bound to. It is not the IP of the Pod, where the application listens.
fn inbound_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 97, number, 1)
}

fn service_name(protocol: Protocol) -> ServiceName {
    ServiceName::new(format!("{}_demo_svc_{SERVICE_PORT}", protocol.as_str()))
}

/// The tags that an inbound of a Pod with two labels has.
fn tags(service: &str, protocol: Protocol) -> Tags {
    let generated = [
        (tag::SERVICE, service),
        (tag::PROTOCOL, protocol.as_str()),
        (tag::K8S_NAMESPACE, "demo"),
        (tag::K8S_SERVICE_NAME, "web"),
        (tag::K8S_SERVICE_PORT, "80"),
        ("app.kubernetes.io/name", "web"),
        ("pod-template-hash", "5c8d7f9b64"),
    ];
    let tags = generated.into_iter();
    tags.map(|(key, value)| (key.into(), value.into())).collect()
}

fn client() -> Dataplane {
    let inbound = Inbound {
        port: 80,
        tags: tags(CLIENT_SERVICE, Protocol::Tcp),
        ready: None,
    };
    redirected(mesh::dataplane(
        "client",
        Ipv4Addr::new(127, 0, 1, 1).into(),
        vec![inbound],
    ))
}

fn server() -> Dataplane {
    let inbounds = PROTOCOLS.map(|protocol| Inbound {
        port: port_of(protocol),
        tags: tags(service_name(protocol).as_str(), protocol),
        ready: Some(true),
    });
    redirected(mesh::dataplane("web", APPLICATION.into(), inbounds.into()))
}

fn redirected(dataplane: Dataplane) -> Dataplane {
    Dataplane {
        transparent_proxying: Some(TransparentProxying {
            redirect_port_inbound: 15_006,
            redirect_port_inbound_v6: None,
            redirect_port_outbound: 15_001,
            direct_access_services: Vec::new(),
            reachable_services: Vec::new(),
        }),
        ..dataplane
    }
}

/// A mesh with one service for each protocol, and one permission.
fn view(mesh: &Mesh, number: u8, callers: Callers, client: &Dataplane, server: &Dataplane) -> MeshView {
    let mut view = MeshView::default();
    view.upsert_mesh(mesh.clone());
    for protocol in PROTOCOLS {
        let addresses = ServiceAddresses {
            cluster_addresses: vec![cluster_address(number, protocol)],
            ..ServiceAddresses::default()
        };
        view.set_addresses(&service_name(protocol), Some(addresses));
    }
    view.upsert_dataplane(client.clone());
    view.upsert_dataplane(server.clone());
    let from = Principal {
        service: (callers == Callers::Client).then(|| ServiceName::new(CLIENT_SERVICE)),
        ..Principal::default()
    };
    let permission = TrafficPermission {
        target: Tags::new(),
        rules: vec![PermissionRule {
            from,
            action: Action::Allow,
        }],
    };
    let key = ObjectKey::new("kuma-system", "permission");
    view.upsert_permission(&key, &mesh.name, permission);
    view
}

/// Returns the bootstrap of a proxy, with its resources. The listeners of one direction are bound to addresses.
fn config(
    dataplane: &Dataplane,
    resources: impl Iterator<Item = Resource>,
    secrets: [Value; 2],
    bound_direction: &str,
    number: u8,
) -> Result<Value> {
    let mut config = bootstrap(&BootstrapConfig {
        mesh: dataplane.mesh.clone(),
        dataplane: dataplane.key.clone(),
        cluster: dataplane.key.name.to_string(),
        admin_port: Dataplane::DEFAULT_ADMIN_PORT,
        agent_socket: "/unused.sock".into(),
        versions: Versions::default(),
        features: Vec::new(),
        metadata: BTreeMap::new(),
    });
    remove(&mut config, "dynamic_resources");
    let (mut listeners, mut clusters, mut endpoints) = (Vec::new(), Vec::new(), BTreeMap::new());
    for resource in resources {
        let mut json = decode(resource.kind.type_url(), &resource.body)?;
        match resource.kind {
            ResourceKind::Cluster => clusters.push(json),
            ResourceKind::Endpoints => {
                move_endpoints(&mut json, inbound_ip(number));
                endpoints.insert(resource.name.to_string(), json);
            }
            // The other listeners get no connections, and the addresses of some are in use.
            ResourceKind::Listener if is_of_service(&resource) => {
                if json["trafficDirection"] == bound_direction {
                    remove(&mut json, "bindToPort");
                }
                if json["trafficDirection"] == "INBOUND" {
                    move_to(&mut json["address"], inbound_ip(number));
                }
                listeners.push(json);
            }
            _ => {}
        }
    }
    for cluster in &mut clusters {
        let assignment = cluster["name"].as_str().and_then(|name| endpoints.remove(name));
        if let Some(assignment) = assignment {
            remove(cluster, "edsClusterConfig");
            cluster["type"] = json!("STATIC");
            cluster["loadAssignment"] = assignment;
        }
    }
    let resources = &mut config["static_resources"];
    let agent = resources["clusters"].as_array_mut();
    agent.context("the bootstrap has no clusters")?.extend(clusters);
    resources["listeners"] = json!(listeners);
    resources["secrets"] = json!(secrets);
    // A reference to a secret without a source is a reference to a secret of the bootstrap.
    for_each_object(resources, &mut |object| {
        object.remove("sdsConfig");
    });
    Ok(config)
}

/// Whether a listener is that of an inbound or of a ClusterIP.
fn is_of_service(listener: &Resource) -> bool {
    !["passthrough", "admin"]
        .iter()
        .any(|part| listener.name.contains(part))
}

/// Replaces the IP of an address.
fn move_to(address: &mut Value, ip: Ipv4Addr) {
    address["socketAddress"]["address"] = json!(ip);
}

/// Replaces the IP of all endpoints of the application.
fn move_endpoints(assignment: &mut Value, ip: Ipv4Addr) {
    for_each_object(assignment, &mut |object| {
        if let Some(endpoint) = object.get_mut("endpoint")
            && endpoint["address"]["socketAddress"]["address"] == json!(APPLICATION)
        {
            move_to(&mut endpoint["address"], ip);
        }
    });
}

/// Removes a field of an object.
pub(super) fn remove(value: &mut Value, field: &str) {
    if let Some(object) = value.as_object_mut() {
        object.remove(field);
    }
}

/// Calls `change` with each object in a value, outer objects first.
pub(super) fn for_each_object(value: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            change(object);
            for child in object.values_mut() {
                for_each_object(child, change);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|child| for_each_object(child, change)),
        _ => {}
    }
}
