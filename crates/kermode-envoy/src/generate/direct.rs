//! Direct access: pods addressed by their own IP, with the mesh's TLS (BEHAVIOUR section 6.4).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use kermode_model::view::{MeshView, Service};
use kermode_model::{Dataplane, Inbound, Mesh, ServiceName, TransparentProxying};

use super::{Identity, cluster, listener};
use crate::{Resource, ResourceKind, names};

const ALL_SERVICES: &str = "*";

pub(crate) fn generate(mesh: &Mesh, dataplane: &Dataplane, view: &MeshView) -> Vec<Resource> {
    let Some(redirect) = &dataplane.transparent_proxying else {
        return Vec::new();
    };
    if redirect.direct_access_services.is_empty() {
        return Vec::new();
    }
    let cluster = Cluster {
        transport_socket: Identity::of(mesh).map(|identity| identity.to_any_workload()),
        ..cluster::original_destination(names::DIRECT_ACCESS)
    };
    let cluster = Resource::encode(ResourceKind::Cluster, names::DIRECT_ACCESS, &cluster);
    let listeners = addresses(mesh, dataplane, redirect, view)
        .into_iter()
        .map(listener_at);
    [cluster].into_iter().chain(listeners).collect()
}

/// Every address to be reached, unready ones included, less those that an outbound listener of this proxy has.
fn addresses(
    mesh: &Mesh,
    dataplane: &Dataplane,
    redirect: &TransparentProxying,
    view: &MeshView,
) -> BTreeSet<SocketAddr> {
    let of_others = |service: &Service| -> Vec<SocketAddr> {
        let others = service
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.dataplane != dataplane.key);
        let free = others.filter(|(address, endpoint)| {
            let owner = view.dataplane(&endpoint.dataplane);
            !owner.is_some_and(|owner| has_outbound(mesh, owner, **address, redirect, view))
        });
        free.map(|(address, _)| *address).collect()
    };
    if redirect
        .direct_access_services
        .iter()
        .any(|service| service == ALL_SERVICES)
    {
        return view
            .services(&mesh.name)
            .flat_map(|(_, service)| of_others(service))
            .collect();
    }
    let named = redirect
        .direct_access_services
        .iter()
        .map(|name| ServiceName::new(name.as_str()));
    named
        .filter_map(|name| view.service(&mesh.name, &name))
        .flat_map(of_others)
        .collect()
}

/// Whether a headless service that this proxy may reach leads to the address already.
fn has_outbound(
    mesh: &Mesh,
    owner: &Dataplane,
    address: SocketAddr,
    redirect: &TransparentProxying,
    view: &MeshView,
) -> bool {
    let inbounds = owner
        .inbounds
        .iter()
        .filter(|inbound| inbound.port == address.port());
    inbounds.filter_map(Inbound::service).any(|name| {
        let headless = view
            .service(&mesh.name, &name)
            .is_some_and(|service| service.addresses.headless);
        headless && may_reach(redirect, &name)
    })
}

fn may_reach(redirect: &TransparentProxying, service: &ServiceName) -> bool {
    let reachable = &redirect.reachable_services;
    reachable.is_empty() || reachable.iter().any(|name| name == service.as_str())
}

fn listener_at(address: SocketAddr) -> Resource {
    let name = names::direct_access(address);
    let base = listener::new(&name, address, TrafficDirection::Outbound);
    let mut listener = listener::unbound(base);
    listener.filter_chains = vec![listener::chain(vec![listener::tcp_proxy(
        &name,
        names::DIRECT_ACCESS,
        1,
    )])];
    listener::encode(&listener)
}
