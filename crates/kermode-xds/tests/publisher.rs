//! From a change of the mesh view to what streams are shown, with the real generator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as its assertions do"
)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kermode_envoy::ResourceKind;
use kermode_model::view::{MeshView, ServiceAddresses, Touched};
use kermode_model::{Dataplane, Inbound, Mesh, MeshName, ObjectKey, Tags, TransparentProxying, tag};
use kermode_xds::snapshot::Publisher;
use kermode_xds::store::{Changes, Store, Watcher};
use prometheus_client::registry::Registry;

/// A view, and a publisher that is told of each of its changes.
struct Plane {
    view: MeshView,
    store: Arc<Store>,
    publisher: Publisher,
    /// Streams of the proxies that there have been.
    streams: Vec<(ObjectKey, Watcher)>,
    registry: Registry,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("demo", name)
}

fn mk_dataplane(name: &str, ip: u8, service: &str) -> Dataplane {
    let tags = Tags::from([
        (tag::SERVICE.into(), service.into()),
        (tag::PROTOCOL.into(), "http".into()),
    ]);
    Dataplane {
        key: key(name),
        mesh: MeshName::new("default"),
        address: IpAddr::from([10, 0, 0, ip]),
        inbounds: vec![Inbound {
            port: 8080,
            tags,
            ready: Some(true),
        }],
        gateway: None,
        transparent_proxying: Some(TransparentProxying {
            redirect_port_inbound: 15006,
            redirect_port_inbound_v6: None,
            redirect_port_outbound: 15001,
            direct_access_services: Vec::new(),
            reachable_services: Vec::new(),
        }),
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

fn cluster_ip(last: u8) -> ServiceAddresses {
    ServiceAddresses {
        cluster_ips: vec![SocketAddr::from(([10, 96, 0, last], 80))],
        headless: false,
    }
}

impl Plane {
    /// Services `a` and `b` with one pod each.
    fn new() -> Self {
        let store = Arc::new(Store::default());
        let publisher = Publisher::new(store.clone());
        let mut registry = Registry::default();
        publisher.register(&mut registry);
        let mut plane = Self {
            view: MeshView::default(),
            store,
            publisher,
            streams: Vec::new(),
            registry,
        };
        plane.change(|view| {
            [
                view.upsert_mesh(Mesh::new("default")),
                view.set_addresses(&"a".into(), Some(cluster_ip(1))),
                view.set_addresses(&"b".into(), Some(cluster_ip(2))),
                view.upsert_dataplane(mk_dataplane("a-0", 1, "a")),
                view.upsert_dataplane(mk_dataplane("b-0", 2, "b")),
            ]
            .concat()
        });
        plane
    }

    fn change(&mut self, change: impl FnOnce(&mut MeshView) -> Vec<Touched>) {
        let touched = change(&mut self.view);
        for dataplane in self.view.dataplanes() {
            if self.streams.iter().all(|(key, _)| *key != dataplane.key) {
                let stream = self.store.watch(&dataplane.key);
                self.streams.push((dataplane.key.clone(), stream));
            }
        }
        self.publisher.apply(&self.view, &touched);
    }

    /// How many resources were encoded so far.
    fn encoded(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("xds_resources_encoded_total "));
        line.expect("the counter").parse().unwrap()
    }

    fn follow(&self, name: &str) -> Watcher {
        let mut subscription = self.store.watch(&key(name));
        subscription.read(|_, _| ());
        subscription
    }

    fn names(&self, name: &str, kind: ResourceKind) -> Option<Vec<String>> {
        self.store.watch(&key(name)).read(|view, _| {
            let mut names: Vec<String> = view?
                .wildcard(kind)
                .map(|entry| entry.name().to_string())
                .collect();
            names.sort();
            Some(names)
        })
    }

    fn sees(&self, name: &str, kind: ResourceKind, resource: &str) -> bool {
        self.names(name, kind)
            .is_some_and(|names| names.iter().any(|name| name == resource))
    }
}

fn changes(subscription: &mut Watcher) -> Vec<(ResourceKind, String)> {
    subscription.read(|_, changes| match changes {
        Changes::Some(changes) => changes
            .into_iter()
            .map(|change| (change.key.kind, change.key.name.to_string()))
            .collect(),
        Changes::All => panic!("everything was to be compared"),
    })
}

#[test]
fn a_proxy_sees_its_own_and_the_services_of_its_mesh() {
    let plane = Plane::new();
    for service in ["a", "b"] {
        assert!(plane.sees("a-0", ResourceKind::Cluster, service));
        assert!(plane.sees("a-0", ResourceKind::Endpoints, service));
    }
    assert!(plane.sees("a-0", ResourceKind::Listener, "inbound:10.0.0.1:8080"));
    assert!(
        !plane.sees("a-0", ResourceKind::Listener, "inbound:10.0.0.2:8080"),
        "that is another's"
    );
    assert!(plane.sees("a-0", ResourceKind::Listener, "outbound:10.96.0.2:80"));
}

#[test]
fn a_change_of_health_encodes_one_service_and_shows_its_endpoints_alone() {
    let mut plane = Plane::new();
    let (mut subscription, before) = (plane.follow("a-0"), plane.encoded());
    plane.change(|view| {
        let mut unready = mk_dataplane("b-0", 2, "b");
        unready.inbounds[0].ready = Some(false);
        view.upsert_dataplane(unready)
    });
    assert_eq!(
        changes(&mut subscription),
        [(ResourceKind::Endpoints, "b".to_owned())]
    );
    assert_eq!(
        plane.encoded() - before,
        3,
        "cluster, endpoints and listener of one service"
    );
}

#[test]
fn what_did_not_change_is_not_encoded() {
    let mut plane = Plane::new();
    let before = plane.encoded();
    plane.change(|view| view.upsert_dataplane(mk_dataplane("b-0", 2, "b")));
    assert_eq!(plane.encoded(), before);
}

#[test]
fn the_work_for_a_change_does_not_grow_with_the_mesh() {
    let cost = |proxies: u8| {
        let mut plane = Plane::new();
        plane.change(|view| {
            let others = (10..10 + proxies).map(|i| mk_dataplane(&format!("c-{i}"), i, &format!("c{i}")));
            others
                .flat_map(|dataplane| view.upsert_dataplane(dataplane))
                .collect()
        });
        let before = plane.encoded();
        plane.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
        plane.encoded() - before
    };
    assert_eq!(cost(1), cost(100));
}

#[test]
fn a_service_that_ends_goes() {
    let mut plane = Plane::new();
    plane.change(|view| view.remove_dataplane(&key("b-0")));
    assert!(!plane.sees("a-0", ResourceKind::Cluster, "b"));
    assert_eq!(
        plane.names("b-0", ResourceKind::Cluster),
        None,
        "its proxy is not known any more"
    );
}

#[test]
fn a_proxy_waits_for_its_mesh_and_keeps_what_it_has_when_that_goes() {
    let mut plane = Plane::new();
    plane.change(|view| {
        let elsewhere = Dataplane {
            mesh: "other".into(),
            ..mk_dataplane("c-0", 3, "c")
        };
        view.upsert_dataplane(elsewhere)
    });
    assert_eq!(plane.names("c-0", ResourceKind::Listener), None);
    plane.change(|view| view.upsert_mesh(Mesh::new("other")));
    assert!(plane.sees("c-0", ResourceKind::Listener, "inbound:10.0.0.3:8080"));

    let mut subscription = plane.follow("c-0");
    plane.change(|view| view.remove_mesh(&"other".into()));
    assert!(
        subscription.read(|view, _| view.is_none()),
        "nothing is shown, so nothing is taken away"
    );
    plane.change(|view| view.upsert_mesh(Mesh::new("other")));
    assert!(plane.sees("c-0", ResourceKind::Listener, "inbound:10.0.0.3:8080"));
}

#[test]
fn reachable_services_are_the_only_ones_shown() {
    let mut plane = Plane::new();
    plane.change(|view| {
        let mut limited = mk_dataplane("a-0", 1, "a");
        limited.transparent_proxying.as_mut().unwrap().reachable_services = vec!["b".into()];
        view.upsert_dataplane(limited)
    });
    assert!(plane.sees("a-0", ResourceKind::Cluster, "b"));
    assert!(!plane.sees("a-0", ResourceKind::Cluster, "a"));
    assert!(
        plane.sees("b-0", ResourceKind::Cluster, "a"),
        "others are not limited"
    );
}

#[test]
fn an_outbound_listener_never_takes_the_place_of_an_own_inbound() {
    let mut plane = Plane::new();
    plane.change(|view| {
        view.set_addresses(
            &"b".into(),
            Some(ServiceAddresses {
                cluster_ips: Vec::new(),
                headless: true,
            }),
        )
    });
    assert!(plane.sees("a-0", ResourceKind::Listener, "outbound:10.0.0.2:8080"));
    assert!(
        !plane.sees("b-0", ResourceKind::Listener, "outbound:10.0.0.2:8080"),
        "that address is its own"
    );
}

#[test]
fn direct_access_follows_the_pods_of_its_services() {
    let mut plane = Plane::new();
    plane.change(|view| {
        let mut direct = mk_dataplane("a-0", 1, "a");
        direct
            .transparent_proxying
            .as_mut()
            .unwrap()
            .direct_access_services = vec!["*".into()];
        view.upsert_dataplane(direct)
    });
    assert!(plane.sees("a-0", ResourceKind::Listener, "direct_access_10.0.0.2:8080"));
    plane.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
    assert!(plane.sees("a-0", ResourceKind::Listener, "direct_access_10.0.0.3:8080"));
    plane.change(|view| view.remove_dataplane(&key("b-0")));
    assert!(!plane.sees("a-0", ResourceKind::Listener, "direct_access_10.0.0.2:8080"));
}

#[tokio::test]
async fn what_only_one_proxy_gets_is_kept_while_that_proxy_has_a_stream() {
    let mut plane = Plane::new();
    plane
        .publisher
        .follow(&plane.view, plane.store.demand_changed().await);
    assert_eq!(plane.store.len(), (1, 2));
    plane.streams.retain(|(proxy, _)| *proxy != key("a-0"));
    plane
        .publisher
        .follow(&plane.view, plane.store.demand_changed().await);
    assert_eq!(plane.store.len(), (1, 1), "nothing is left of it");

    let touched = plane.view.upsert_dataplane(mk_dataplane("a-0", 3, "a"));
    let before = plane.encoded();
    plane.publisher.apply(&plane.view, &touched);
    assert_eq!(plane.store.len(), (1, 1));
    let service = plane.encoded() - before;

    let mut stream = plane.follow("a-0");
    plane
        .publisher
        .follow(&plane.view, plane.store.demand_changed().await);
    stream.changed().await;
    let own = stream.read(|view, _| view.map(|view| view.wildcard(ResourceKind::Listener).count()));
    assert!(
        own.is_some_and(|listeners| listeners > 0),
        "it is there as soon as somebody asks"
    );
    assert!(plane.encoded() > before + service);
}
