//! Publisher: effects of changes of the mesh view on the views of streams, with the real generator.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers fail like assertions"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kermode_envoy::ResourceKind;
use kermode_model::view::{MeshView, ServiceAddresses, Touched};
use kermode_model::{
    Action, CertificateAuthority, Dataplane, Inbound, Mesh, MeshName, Mtls, MtlsMode, ObjectKey,
    PermissionRule, Principal, Tags, TrafficPermission, TransparentProxying, tag,
};
use kermode_xds::publisher::Publisher;
use kermode_xds::store::{Changes, Store, Watcher};
use prometheus_client::registry::Registry;
use proptest::prelude::*;

/// A mesh view and a publisher of its changes.
struct Fixture {
    view: MeshView,
    store: Arc<Store>,
    publisher: Publisher,
    /// A stream for each proxy that has been in the view.
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

fn with_direct_access(mut dataplane: Dataplane, services: &[&str]) -> Dataplane {
    let settings = dataplane.transparent_proxying.as_mut().unwrap();
    settings.direct_access_services = services.iter().map(|name| (*name).to_owned()).collect();
    dataplane
}

fn cluster_ip(last: u8) -> ServiceAddresses {
    ServiceAddresses {
        cluster_ips: vec![SocketAddr::from(([10, 96, 0, last], 80))],
        headless: false,
    }
}

impl Fixture {
    /// Publishes the services `a` and `b` with one Pod each.
    fn new() -> Self {
        let store = Arc::new(Store::default());
        let publisher = Publisher::new(store.clone());
        let mut registry = Registry::default();
        publisher.register(&mut registry);
        let mut fixture = Self {
            view: MeshView::default(),
            store,
            publisher,
            streams: Vec::new(),
            registry,
        };
        fixture.change(|view| {
            [
                view.upsert_mesh(Mesh::new("default")),
                view.set_addresses(&"a".into(), Some(cluster_ip(1))),
                view.set_addresses(&"b".into(), Some(cluster_ip(2))),
                view.upsert_dataplane(mk_dataplane("a-0", 1, "a")),
                view.upsert_dataplane(mk_dataplane("b-0", 2, "b")),
            ]
            .concat()
        });
        fixture
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

    /// Number of encoded resources so far.
    fn encoded(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("xds_resources_encoded_total "));
        line.expect("the counter").parse().unwrap()
    }

    /// Opens a stream that has read its view.
    fn open_stream(&self, name: &str) -> Watcher {
        let mut stream = self.store.watch(&key(name));
        stream.read(|_, _| ());
        stream
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

    fn has_resource(&self, name: &str, kind: ResourceKind, resource: &str) -> bool {
        self.names(name, kind)
            .is_some_and(|names| names.iter().any(|name| name == resource))
    }
}

fn changes(stream: &mut Watcher) -> Vec<(ResourceKind, String)> {
    stream.read(|_, changes| match changes {
        Changes::Some(changes) => changes
            .into_iter()
            .map(|change| (change.key.kind, change.key.name.to_string()))
            .collect(),
        Changes::All => panic!("the log does not reach back to the cursor"),
    })
}

#[test]
fn proxy_sees_its_own_resources_and_the_services_of_its_mesh() {
    let fixture = Fixture::new();
    for service in ["a", "b"] {
        assert!(fixture.has_resource("a-0", ResourceKind::Cluster, service));
        assert!(fixture.has_resource("a-0", ResourceKind::Endpoints, service));
    }
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "inbound:10.0.0.1:8080"));
    assert!(
        !fixture.has_resource("a-0", ResourceKind::Listener, "inbound:10.0.0.2:8080"),
        "the proxy has the inbound listener of another proxy"
    );
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "outbound:10.96.0.2:80"));
}

#[test]
fn change_of_readiness_encodes_one_service_and_changes_only_its_endpoints() {
    let mut fixture = Fixture::new();
    let (mut stream, before) = (fixture.open_stream("a-0"), fixture.encoded());
    fixture.change(|view| {
        let mut unready = mk_dataplane("b-0", 2, "b");
        unready.inbounds[0].ready = Some(false);
        view.upsert_dataplane(unready)
    });
    assert_eq!(changes(&mut stream), [(ResourceKind::Endpoints, "b".to_owned())]);
    assert_eq!(
        fixture.encoded() - before,
        3,
        "cluster, endpoints and listener of one service"
    );
}

#[test]
fn equal_dataplane_is_not_encoded() {
    let mut fixture = Fixture::new();
    let before = fixture.encoded();
    fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-0", 2, "b")));
    assert_eq!(fixture.encoded(), before);
}

#[test]
fn cost_of_a_change_is_independent_of_the_size_of_the_mesh() {
    let cost = |proxies: u8| {
        let mut fixture = Fixture::new();
        fixture.change(|view| {
            let others = (10..10 + proxies).map(|i| mk_dataplane(&format!("c-{i}"), i, &format!("c{i}")));
            others
                .flat_map(|dataplane| view.upsert_dataplane(dataplane))
                .collect()
        });
        let before = fixture.encoded();
        fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
        fixture.encoded() - before
    };
    assert_eq!(cost(1), cost(100));
}

#[test]
fn edited_permission_encodes_the_listeners_of_the_inbounds_that_it_selects() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        let mut mesh = Mesh::new("default");
        mesh.mtls = Some(Mtls {
            backend: "ca-1".into(),
            mode: MtlsMode::Strict,
            authority: CertificateAuthority::Builtin,
            certificate_lifetime: Duration::from_hours(24),
        });
        view.upsert_mesh(mesh)
    });
    let (mut a, mut b, before) = (
        fixture.open_stream("a-0"),
        fixture.open_stream("b-0"),
        fixture.encoded(),
    );
    fixture.change(|view| {
        let permission = TrafficPermission {
            target: Tags::from([(tag::SERVICE.into(), "b".into())]),
            rules: vec![PermissionRule {
                from: Principal::default(),
                action: Action::Allow,
            }],
        };
        view.upsert_permission(&ObjectKey::new("system", "b"), &"default".into(), permission)
    });
    let listener = (ResourceKind::Listener, "inbound:10.0.0.2:8080".to_owned());
    assert_eq!(changes(&mut b), [listener]);
    assert_eq!(changes(&mut a), []);
    assert_eq!(fixture.encoded() - before, 1, "one listener of one proxy");
}

#[test]
fn service_without_endpoints_is_removed() {
    let mut fixture = Fixture::new();
    fixture.change(|view| view.remove_dataplane(&key("b-0")));
    assert!(!fixture.has_resource("a-0", ResourceKind::Cluster, "b"));
    assert_eq!(
        fixture.names("b-0", ResourceKind::Cluster),
        None,
        "the proxy was not removed"
    );
}

#[test]
fn proxy_has_no_view_without_its_mesh() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        let dataplane = Dataplane {
            mesh: "other".into(),
            ..mk_dataplane("c-0", 3, "c")
        };
        view.upsert_dataplane(dataplane)
    });
    assert_eq!(fixture.names("c-0", ResourceKind::Listener), None);
    fixture.change(|view| view.upsert_mesh(Mesh::new("other")));
    assert!(fixture.has_resource("c-0", ResourceKind::Listener, "inbound:10.0.0.3:8080"));

    let mut stream = fixture.open_stream("c-0");
    fixture.change(|view| view.remove_mesh(&"other".into()));
    assert!(
        stream.read(|view, _| view.is_none()),
        "without a view, the stream removes no resources from Envoy"
    );
    fixture.change(|view| view.upsert_mesh(Mesh::new("other")));
    assert!(fixture.has_resource("c-0", ResourceKind::Listener, "inbound:10.0.0.3:8080"));
}

#[test]
fn proxy_sees_only_reachable_services() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        let mut limited = mk_dataplane("a-0", 1, "a");
        limited.transparent_proxying.as_mut().unwrap().reachable_services = vec!["b".into()];
        view.upsert_dataplane(limited)
    });
    assert!(fixture.has_resource("a-0", ResourceKind::Cluster, "b"));
    assert!(!fixture.has_resource("a-0", ResourceKind::Cluster, "a"));
    assert!(
        fixture.has_resource("b-0", ResourceKind::Cluster, "a"),
        "the setting of another proxy has no effect"
    );
}

#[test]
fn proxy_gets_no_outbound_listener_for_its_own_address() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        view.set_addresses(
            &"b".into(),
            Some(ServiceAddresses {
                cluster_ips: Vec::new(),
                headless: true,
            }),
        )
    });
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "outbound:10.0.0.2:8080"));
    assert!(
        !fixture.has_resource("b-0", ResourceKind::Listener, "outbound:10.0.0.2:8080"),
        "the outbound listener would replace the inbound listener"
    );
}

#[test]
fn direct_access_follows_the_pods_of_its_services() {
    let mut fixture = Fixture::new();
    fixture.change(|view| view.upsert_dataplane(with_direct_access(mk_dataplane("a-0", 1, "a"), &["*"])));
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "direct_access_10.0.0.2:8080"));
    fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "direct_access_10.0.0.3:8080"));
    fixture.change(|view| view.remove_dataplane(&key("b-0")));
    assert!(!fixture.has_resource("a-0", ResourceKind::Listener, "direct_access_10.0.0.2:8080"));
}

#[test]
fn pod_change_costs_direct_access_to_all_services_one_listener() {
    let cost = |services: u8| {
        let mut fixture = Fixture::new();
        fixture.change(|view| view.upsert_dataplane(with_direct_access(mk_dataplane("a-0", 1, "a"), &["*"])));
        fixture.change(|view| {
            let others = (10..10 + services).map(|i| mk_dataplane(&format!("c-{i}"), i, &format!("c{i}")));
            others
                .flat_map(|dataplane| view.upsert_dataplane(dataplane))
                .collect()
        });
        let (mut stream, before) = (fixture.open_stream("a-0"), fixture.encoded());
        fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
        let encoded = fixture.encoded() - before;
        let added = changes(&mut stream);
        fixture.change(|view| view.remove_dataplane(&key("b-1")));
        (encoded, added, changes(&mut stream))
    };
    let (few, many) = (cost(1), cost(100));
    let listener = (ResourceKind::Listener, "direct_access_10.0.0.3:8080".to_owned());
    assert!(few.1.contains(&listener) && few.2.contains(&listener), "{few:?}");
    assert_eq!(few, many);
}

#[derive(Clone, Debug)]
enum Write {
    /// Pod, services of its one port, address.
    Pod(u8, Vec<u8>, u8),
    NoPod(u8),
    /// Service, whether it is headless; `None` without addresses.
    Addresses(u8, Option<bool>),
    /// Services that the first Pod calls directly and may reach.
    Access(Vec<u8>, Vec<u8>),
}

fn any_services() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4u8, 0..3)
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![
        4 => (0..5u8, any_services(), 1..4u8).prop_map(|(pod, services, ip)| Write::Pod(pod, services, ip)),
        2 => (0..5u8).prop_map(Write::NoPod),
        3 => (0..4u8, any::<Option<bool>>()).prop_map(|(service, headless)| Write::Addresses(service, headless)),
        1 => (any_services(), any_services()).prop_map(|(direct, reachable)| Write::Access(direct, reachable)),
    ]
}

fn service_name(number: u8) -> String {
    format!("s{number}")
}

fn write(view: &mut MeshView, write: &Write) -> Vec<Touched> {
    match write {
        // The addresses of Pods are disjoint: address reuse does not matter for direct access.
        Write::Pod(pod, services, ip) => {
            let mut dataplane = mk_dataplane(&format!("p-{pod}"), 10 * (pod + 1) + ip, "");
            let inbound = dataplane.inbounds.remove(0);
            for service in services {
                let mut inbound = inbound.clone();
                inbound
                    .tags
                    .insert(tag::SERVICE.into(), service_name(*service).into());
                dataplane.inbounds.push(inbound);
            }
            view.upsert_dataplane(dataplane)
        }
        Write::NoPod(pod) => view.remove_dataplane(&key(&format!("p-{pod}"))),
        Write::Addresses(service, headless) => {
            let addresses = headless.map(|headless| ServiceAddresses {
                cluster_ips: Vec::new(),
                headless,
            });
            view.set_addresses(&service_name(*service).as_str().into(), addresses)
        }
        Write::Access(direct, reachable) => {
            let names = |services: &[u8]| services.iter().map(|service| service_name(*service)).collect();
            let mut dataplane = mk_dataplane("a-0", 1, "s0");
            let settings = dataplane.transparent_proxying.as_mut().unwrap();
            settings.direct_access_services = if direct.is_empty() {
                vec!["*".into()]
            } else {
                names(direct)
            };
            settings.reachable_services = names(reachable);
            view.upsert_dataplane(dataplane)
        }
    }
}

/// Returns the listeners that the proxy `a-0` needs for direct access, computed from the whole view.
fn expected_direct_access(view: &MeshView) -> Vec<String> {
    let proxy = view.dataplane(&key("a-0")).unwrap();
    let settings = proxy.transparent_proxying.as_ref().unwrap();
    let lists = |names: &[String], name: &str| names.iter().any(|listed| listed == name);
    let mesh = MeshName::new("default");
    let mut addresses = BTreeSet::new();
    let mut outbound = BTreeSet::new();
    for (name, service) in view.services(&mesh) {
        let direct = &settings.direct_access_services;
        let reachable = &settings.reachable_services;
        let listed = lists(direct, "*") || lists(direct, name.as_str());
        for (address, endpoint) in &service.endpoints {
            if listed && endpoint.dataplane != proxy.key {
                addresses.insert(*address);
            }
            if service.addresses.headless && (reachable.is_empty() || lists(reachable, name.as_str())) {
                outbound.insert(*address);
            }
        }
    }
    let addresses = addresses.difference(&outbound);
    let mut names: Vec<_> = addresses
        .map(|address| format!("direct_access_{address}"))
        .collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn published_direct_access_matches_the_whole_view_after_any_writes(
        batches in prop::collection::vec(prop::collection::vec(any_write(), 1..4), 1..12)
    ) {
        let mut fixture = Fixture::new();
        fixture.change(|view| write(view, &Write::Access(Vec::new(), Vec::new())));
        for batch in &batches {
            fixture.change(|view| batch.iter().flat_map(|item| write(view, item)).collect());
            let mut published = fixture.names("a-0", ResourceKind::Listener).unwrap();
            published.retain(|name| name.starts_with("direct_access_"));
            prop_assert_eq!(published, expected_direct_access(&fixture.view), "{:?}", batch);
        }
    }
}

#[tokio::test]
async fn own_resources_are_kept_while_the_proxy_has_a_stream() {
    let mut fixture = Fixture::new();
    fixture
        .publisher
        .update_demand(&fixture.view, fixture.store.demand_changed().await);
    assert_eq!(fixture.store.len(), (1, 2));
    fixture.streams.retain(|(proxy, _)| *proxy != key("a-0"));
    fixture
        .publisher
        .update_demand(&fixture.view, fixture.store.demand_changed().await);
    assert_eq!(
        fixture.store.len(),
        (1, 1),
        "the scope of the proxy was not removed"
    );

    let touched = fixture.view.upsert_dataplane(mk_dataplane("a-0", 3, "a"));
    let before = fixture.encoded();
    fixture.publisher.apply(&fixture.view, &touched);
    assert_eq!(fixture.store.len(), (1, 1));
    let service = fixture.encoded() - before;

    let mut stream = fixture.open_stream("a-0");
    fixture
        .publisher
        .update_demand(&fixture.view, fixture.store.demand_changed().await);
    stream.changed().await;
    let own = stream.read(|view, _| view.map(|view| view.wildcard(ResourceKind::Listener).count()));
    assert!(
        own.is_some_and(|listeners| listeners > 0),
        "published once the proxy has another stream"
    );
    assert!(fixture.encoded() > before + service);
}
