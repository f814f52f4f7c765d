//! Resolution of each form of a name, for proxies with different settings.

use kermode_model::view::{Balancing, ServiceAddresses};
use kermode_model::{Inbound, Mesh, MeshName, Tags, TransparentProxying, tag};
use proptest::prelude::*;

use super::*;

fn mk_dataplane(pod: &str, ips: &[&str], inbounds: &[(&str, u16)]) -> Dataplane {
    let inbound = |(service, port): &(&str, u16)| Inbound {
        port: *port,
        tags: Tags::from([(tag::SERVICE.into(), (*service).into())]),
        ready: Some(false),
    };
    let mut ips = ips.iter().map(|ip| ip.parse().expect("an IP"));
    Dataplane {
        key: ObjectKey::new("shop", pod),
        mesh: MeshName::from("default"),
        address: ips.next().expect("an IP"),
        additional_addresses: ips.collect(),
        inbounds: inbounds.iter().map(inbound).collect(),
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

/// Adds the services `web` (ClusterIP), `new` (without virtual IP), `db` (headless) and `worker` (service-less).
fn mk_view() -> MeshView {
    let mut view = MeshView::default();
    view.upsert_mesh(Mesh::new("default"));
    let cluster_ip = ServiceAddresses {
        cluster_addresses: vec!["10.96.0.1:80".parse().expect("an address")],
        ..ServiceAddresses::default()
    };
    let headless = ServiceAddresses {
        headless: true,
        balancing: Balancing::RoundRobin,
        ..ServiceAddresses::default()
    };
    view.set_addresses(&"web_shop_svc_80".into(), Some(cluster_ip.clone()));
    view.set_addresses(&"new_shop_svc_80".into(), Some(cluster_ip));
    view.set_addresses(&"db_shop_svc_5432".into(), Some(headless));
    for dataplane in [
        mk_dataplane(
            "web-0",
            &["10.0.0.1"],
            &[("web_shop_svc_80", 8080), ("new_shop_svc_80", 8081)],
        ),
        mk_dataplane("db-0", &["10.0.0.2", "fd00::2"], &[("db_shop_svc_5432", 5432)]),
        mk_dataplane("db.with.dots", &["10.0.0.3"], &[("db_shop_svc_5432", 5432)]),
        mk_dataplane("worker-0", &["10.0.0.4"], &[("worker_shop_svc", 49151)]),
    ] {
        view.upsert_dataplane(dataplane);
    }
    let services = [
        "web_shop_svc_80",
        "db_shop_svc_5432",
        "worker_shop_svc",
        "gone_shop_svc_80",
    ];
    let virtual_ips = services.into_iter().zip(1..);
    let virtual_ips = virtual_ips.map(|(service, last)| (service.into(), [240, 0, 0, last].into()));
    view.set_virtual_ips(&"default".into(), virtual_ips.collect());
    view
}

fn mk_client() -> Dataplane {
    mk_dataplane("client", &["10.0.0.9"], &[])
}

fn with_proxying(reachable: &[&str], direct: &[&str]) -> Dataplane {
    let to_texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Dataplane {
        transparent_proxying: Some(TransparentProxying {
            redirect_port_inbound: 15006,
            redirect_port_inbound_v6: None,
            redirect_port_outbound: 15001,
            direct_access_services: to_texts(direct),
            reachable_services: to_texts(reachable),
        }),
        ..mk_client()
    }
}

fn service(last: u8) -> Resolution {
    Resolution::Service([240, 0, 0, last].into())
}

fn pod(ips: &[&str]) -> Resolution {
    Resolution::Pod(ips.iter().map(|ip| ip.parse().expect("an IP")).collect())
}

#[test]
fn service_resolves_to_its_virtual_ip_in_both_forms() {
    let (view, client) = (mk_view(), mk_client());
    for name in ["web_shop_svc_80.mesh", "web.shop.svc.80.mesh"] {
        assert_eq!(resolve(&view, &client, name), service(1), "{name}");
    }
    // A headless service has a virtual IP, too.
    for name in ["db_shop_svc_5432.mesh", "db.shop.svc.5432.mesh"] {
        assert_eq!(resolve(&view, &client, name), service(2), "{name}");
    }
}

#[test]
fn pod_of_a_headless_service_resolves_to_its_ips_in_both_forms() {
    let (view, client) = (mk_view(), mk_client());
    for name in ["db_shop_svc_5432.db-0.mesh", "db.shop.svc.5432.db-0.mesh"] {
        assert_eq!(
            resolve(&view, &client, name),
            pod(&["10.0.0.2", "fd00::2"]),
            "{name}"
        );
    }
    for name in [
        "db_shop_svc_5432.db.with.dots.mesh",
        "db.shop.svc.5432.db.with.dots.mesh",
    ] {
        assert_eq!(resolve(&view, &client, name), pod(&["10.0.0.3"]), "{name}");
    }
}

#[test]
fn name_without_a_service_or_pod_is_unknown() {
    let (view, client) = (mk_view(), mk_client());
    for name in [
        "mesh",
        ".mesh",
        "web.mesh",
        "web_shop_svc_80",
        "web_shop_svc_80.mesh.example",
        "web_shop_svc_81.mesh",
        "web.shop_svc_80.mesh",
        "web.shop.svc.mesh",
        "web.shop.svc.080.mesh",
        // No endpoint.
        "gone_shop_svc_80.mesh",
        // Only a service of a Kubernetes Service has an address.
        "worker_shop_svc.mesh",
        "worker_shop_svc.worker-0.mesh",
        // Not a headless service.
        "web_shop_svc_80.web-0.mesh",
        // No Pod of the service.
        "db_shop_svc_5432.web-0.mesh",
        "db_shop_svc_5432.db-1.mesh",
        "db_shop_svc_5432..mesh",
        "db..mesh",
    ] {
        assert_eq!(resolve(&view, &client, name), Resolution::Unknown, "{name}");
    }
}

#[test]
fn service_that_waits_for_its_virtual_ip_is_without_address() {
    let resolution = resolve(&mk_view(), &mk_client(), "new_shop_svc_80.mesh");
    assert_eq!(resolution, Resolution::WithoutAddress);
}

#[test]
fn names_of_another_mesh_are_unknown() {
    let client = Dataplane {
        mesh: "other".into(),
        ..mk_client()
    };
    let view = mk_view();
    for name in ["web_shop_svc_80.mesh", "db_shop_svc_5432.db-0.mesh"] {
        assert_eq!(resolve(&view, &client, name), Resolution::Unknown);
    }
}

#[test]
fn proxy_with_reachable_services_resolves_only_these_and_the_pods_of_its_direct_access() {
    let view = mk_view();
    let client = with_proxying(&["web_shop_svc_80"], &[]);
    assert_eq!(resolve(&view, &client, "web_shop_svc_80.mesh"), service(1));
    assert_eq!(
        resolve(&view, &client, "db_shop_svc_5432.mesh"),
        Resolution::Unknown
    );
    assert_eq!(
        resolve(&view, &client, "db_shop_svc_5432.db-0.mesh"),
        Resolution::Unknown
    );
    for direct in ["db_shop_svc_5432", "*"] {
        let client = with_proxying(&["web_shop_svc_80"], &[direct]);
        assert_eq!(
            resolve(&view, &client, "db_shop_svc_5432.mesh"),
            Resolution::Unknown
        );
        assert_eq!(
            resolve(&view, &client, "db_shop_svc_5432.db-0.mesh"),
            pod(&["10.0.0.2", "fd00::2"])
        );
    }
    assert_eq!(
        resolve(&view, &with_proxying(&[], &[]), "db_shop_svc_5432.mesh"),
        service(2)
    );
}

#[test]
fn pod_whose_ip_belongs_to_another_pod_is_unknown() {
    let mut view = mk_view();
    let former = mk_dataplane("db-0", &["10.0.0.2", "fd00::2"], &[("db_shop_svc_5432", 5432)]);
    view.upsert_dataplane_without_endpoints(former);
    view.upsert_dataplane(mk_dataplane("db-1", &["10.0.0.2"], &[("db_shop_svc_5432", 5432)]));
    let client = mk_client();
    assert_eq!(
        resolve(&view, &client, "db_shop_svc_5432.db-0.mesh"),
        Resolution::Unknown
    );
    assert_eq!(
        resolve(&view, &client, "db_shop_svc_5432.db-1.mesh"),
        pod(&["10.0.0.2"])
    );
}

proptest! {
    #[test]
    fn any_name_is_parsed_into_parts_that_have_this_name(
        service in "[a-z]{1,3}", namespace in "[a-z]{1,3}", port in 1..=u16::MAX, pod in "[a-z0-9]{1,3}(\\.[a-z]{1,3}){0,4}",
    ) {
        let name = ServiceName::of_port(&service, &namespace, port);
        for text in [name.to_string(), name.as_str().replace('_', ".")] {
            let expected = Parts { service: name.clone(), pod: None };
            let of_service = format!("{text}.mesh");
            prop_assert_eq!(parse(&of_service), Some(expected));
            let expected = Parts { service: name.clone(), pod: Some(&pod) };
            let of_pod = format!("{text}.{pod}.mesh");
            prop_assert_eq!(parse(&of_pod), Some(expected));
        }
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in "[a-z0-9_.]{0,40}(mesh)?") {
        parse(&text);
    }
}
