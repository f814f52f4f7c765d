//! Tests of writes to the view: their effects, and the touched parts that they return.

use super::*;
use crate::tag;

fn mk_inbound(service: &str, port: u16, ready: bool) -> Inbound {
    let tags = Tags::from([
        (tag::SERVICE.into(), service.into()),
        (tag::PROTOCOL.into(), "http".into()),
    ]);
    Inbound {
        port,
        tags,
        ready: Some(ready),
    }
}

fn mk_dataplane(name: &str, ip: [u8; 4], inbounds: Vec<Inbound>) -> Dataplane {
    Dataplane {
        key: ObjectKey::new("demo", name),
        mesh: MeshName::new("default"),
        address: IpAddr::from(ip),
        additional_addresses: Vec::new(),
        inbounds,
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

fn touched_service(name: &str) -> Touched {
    Touched::Service(MeshName::new("default"), ServiceName::new(name))
}

fn touched_dataplane(name: &str) -> Touched {
    Touched::Dataplane(ObjectKey::new("demo", name))
}

#[test]
fn new_dataplane_touches_itself_and_its_services() {
    let mut view = MeshView::default();
    let touched = view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    assert_eq!(touched, [touched_service("web"), touched_dataplane("web-1")]);
}

#[test]
fn equal_dataplane_touches_nothing() {
    let mut view = MeshView::default();
    let mk_web = || mk_dataplane("web-1", [10, 0, 0, 1], vec![mk_inbound("web", 80, true)]);
    view.upsert_dataplane(mk_web());
    assert_eq!(view.upsert_dataplane(mk_web()), []);
}

#[test]
fn change_of_readiness_touches_only_the_service() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    let touched = view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, false)],
    ));
    assert_eq!(touched, [touched_service("web")]);
    let web = view
        .service(&"default".into(), &"web".into())
        .expect("an unready endpoint keeps its service");
    assert_eq!(web.ready_endpoints().count(), 0);
}

#[test]
fn service_is_removed_with_its_last_dataplane() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    let touched = view.remove_dataplane(&ObjectKey::new("demo", "web-1"));
    assert_eq!(touched, [touched_service("web"), touched_dataplane("web-1")]);
    assert!(view.service(&"default".into(), &"web".into()).is_none());
    assert!(
        view.meshes.is_empty(),
        "the entry of the empty mesh must be removed"
    );
}

#[test]
fn dataplane_that_moves_to_another_mesh_is_removed_from_the_old_mesh() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    let mut moved = mk_dataplane("web-1", [10, 0, 0, 1], vec![mk_inbound("web", 80, true)]);
    moved.mesh = MeshName::new("other");
    view.upsert_dataplane(moved);
    assert!(view.service(&"default".into(), &"web".into()).is_none());
    assert!(view.service(&"other".into(), &"web".into()).is_some());
    assert_eq!(view.dataplanes_of(&"default".into()).count(), 0);
}

#[test]
fn endpoint_of_a_newer_pod_survives_the_removal_of_an_older_pod_with_the_same_ip() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    view.upsert_dataplane(mk_dataplane(
        "web-2",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    view.remove_dataplane(&ObjectKey::new("demo", "web-1"));
    let web = view
        .service(&"default".into(), &"web".into())
        .expect("the service has the endpoint of web-2");
    assert_eq!(web.endpoints.len(), 1);
}

#[test]
fn service_is_found_at_its_cluster_ip() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    let address = SocketAddr::from(([10, 96, 0, 1], 80));
    let addresses = ServiceAddresses {
        cluster_addresses: vec![address],
        ..ServiceAddresses::default()
    };
    assert_eq!(
        view.set_addresses(&"web".into(), Some(addresses.clone())),
        [touched_service("web")]
    );
    assert_eq!(view.set_addresses(&"web".into(), Some(addresses)), []);
    assert_eq!(view.service_at(address), Some(&"web".into()));
    view.set_addresses(&"web".into(), None);
    assert_eq!(view.service_at(address), None);
}

#[test]
fn service_has_protocol_tcp_if_the_protocols_of_its_endpoints_differ() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true)],
    ));
    let protocol = |view: &MeshView| {
        view.service(&"default".into(), &"web".into())
            .map(Service::protocol)
    };
    assert_eq!(protocol(&view), Some(Protocol::Http));
    let mut tcp = mk_inbound("web", 80, true);
    tcp.tags.remove(tag::PROTOCOL);
    view.upsert_dataplane(mk_dataplane("web-2", [10, 0, 0, 2], vec![tcp]));
    assert_eq!(protocol(&view), Some(Protocol::Tcp));
}

#[test]
fn dataplane_loses_and_regains_its_endpoints() {
    let mut view = MeshView::default();
    let dataplane = mk_dataplane("web-1", [10, 0, 0, 1], vec![mk_inbound("web", 80, true)]);
    view.upsert_dataplane(dataplane.clone());
    let touched = view.upsert_dataplane_without_endpoints(dataplane.clone());
    assert_eq!(touched, [touched_service("web")]);
    assert!(view.service(&"default".into(), &"web".into()).is_none());
    assert!(view.dataplane(&dataplane.key).is_some());
    assert_eq!(view.upsert_dataplane_without_endpoints(dataplane.clone()), []);
    assert_eq!(view.upsert_dataplane(dataplane.clone()), [touched_service("web")]);
    view.upsert_dataplane_without_endpoints(dataplane.clone());
    assert_eq!(
        view.remove_dataplane(&dataplane.key),
        [touched_dataplane("web-1")]
    );
    assert_eq!(
        view.upsert_dataplane(dataplane),
        [touched_service("web"), touched_dataplane("web-1")]
    );
}

/// Virtual IPs of these services of the mesh `default`.
fn set_virtual_ips(view: &mut MeshView, ips: &[(&str, [u8; 4])]) -> Vec<Touched> {
    let ips = ips
        .iter()
        .map(|(name, ip)| (ServiceName::from(*name), (*ip).into()));
    view.set_virtual_ips(&"default".into(), ips.collect())
}

fn virtual_ip_of(view: &MeshView, service: &str) -> Option<Ipv4Addr> {
    view.service(&"default".into(), &service.into())?.virtual_ip
}

#[test]
fn virtual_ip_touches_only_services_that_have_another_one_before() {
    let mut view = MeshView::default();
    view.upsert_dataplane(mk_dataplane(
        "web-1",
        [10, 0, 0, 1],
        vec![mk_inbound("web", 80, true), mk_inbound("other", 81, true)],
    ));
    let both = [("web", [240, 0, 0, 1]), ("other", [240, 0, 0, 2])];
    assert_eq!(
        set_virtual_ips(&mut view, &both),
        [touched_service("other"), touched_service("web")]
    );
    assert_eq!(set_virtual_ips(&mut view, &both), []);
    assert_eq!(virtual_ip_of(&view, "web"), Some(Ipv4Addr::new(240, 0, 0, 1)));
    let changed = [("web", [240, 0, 0, 1]), ("other", [240, 0, 0, 3])];
    assert_eq!(set_virtual_ips(&mut view, &changed), [touched_service("other")]);
    assert_eq!(
        set_virtual_ips(&mut view, &[]),
        [touched_service("other"), touched_service("web")]
    );
    assert_eq!(virtual_ip_of(&view, "web"), None);
}

#[test]
fn service_that_appears_after_its_virtual_ip_has_it_from_the_start() {
    let mut view = MeshView::default();
    assert_eq!(
        set_virtual_ips(&mut view, &[("web", [240, 0, 0, 1]), ("slice", [240, 0, 0, 2])]),
        []
    );
    let web = mk_dataplane("web-1", [10, 0, 0, 1], vec![mk_inbound("web", 80, true)]);
    view.upsert_dataplane(web.clone());
    let endpoint = SliceEndpoint {
        identity: None,
        ready: true,
    };
    let endpoints = BTreeMap::from([("10.0.0.2:80".parse().expect("an address"), endpoint)]);
    view.set_slice_endpoints(&"default".into(), &"slice".into(), endpoints);
    assert_eq!(virtual_ip_of(&view, "web"), Some(Ipv4Addr::new(240, 0, 0, 1)));
    assert_eq!(virtual_ip_of(&view, "slice"), Some(Ipv4Addr::new(240, 0, 0, 2)));
    // The same service of another mesh has no virtual IP.
    let other = Dataplane {
        mesh: "other".into(),
        ..web
    };
    view.upsert_dataplane(other);
    let of_other = view.service(&"other".into(), &"web".into()).expect("the service");
    assert_eq!(of_other.virtual_ip, None);
}

#[test]
fn service_without_an_address_is_not_callable_by_virtual_ip() {
    let mut service = Service {
        virtual_ip: Some(Ipv4Addr::new(240, 0, 0, 1)),
        ..Service::default()
    };
    let address = "240.0.0.1:80".parse().ok();
    assert_eq!(service.virtual_address(), None);
    service.addresses.headless = true;
    assert_eq!(service.virtual_address(), address);
    service.addresses.headless = false;
    service.addresses.cluster_addresses = vec!["10.96.0.1:8080".parse().expect("an address")];
    assert_eq!(service.virtual_address(), address);
    // Only the client's node knows the endpoints, which are not Pods with a sidecar.
    service.addresses.balancing = Balancing::LeftToNode;
    assert_eq!(service.virtual_address(), None);
}
