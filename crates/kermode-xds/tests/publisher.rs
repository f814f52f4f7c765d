//! Tests of the publisher with the real generator: effects of a changed mesh view on the store's
//! views of proxies. A watcher of the store stands for the stream of a proxy.

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
use kermode_xds::store::{Changes, ScopeCounts, Store, Watcher};
use prometheus_client::registry::Registry;
use proptest::prelude::*;

/// A mesh view, and the publisher and store that receive its changes.
struct Fixture {
    view: MeshView,
    store: Arc<Store>,
    publisher: Publisher,
    /// A watcher for each proxy that has been in the mesh view.
    watchers: Vec<(ObjectKey, Watcher)>,
    registry: Registry,
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("demo", name)
}

fn mk_dataplane(name: &str, last_ip_byte: u8, service: &str) -> Dataplane {
    let tags = Tags::from([
        (tag::SERVICE.into(), service.into()),
        (tag::PROTOCOL.into(), "http".into()),
    ]);
    Dataplane {
        key: key(name),
        mesh: MeshName::new("default"),
        address: IpAddr::from([10, 0, 0, last_ip_byte]),
        additional_addresses: Vec::new(),
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

fn mk_mtls() -> Mtls {
    Mtls {
        backend: "ca-1".into(),
        mode: MtlsMode::Strict,
        authority: CertificateAuthority::Builtin,
        certificate_lifetime: Duration::from_hours(24),
    }
}

fn mk_cluster_ip(last_byte: u8) -> ServiceAddresses {
    ServiceAddresses {
        cluster_addresses: vec![SocketAddr::from(([10, 96, 0, last_byte], 80))],
        ..ServiceAddresses::default()
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
            watchers: Vec::new(),
            registry,
        };
        fixture.change(|view| {
            [
                view.upsert_mesh(Mesh::new("default")),
                view.set_addresses(&"a".into(), Some(mk_cluster_ip(1))),
                view.set_addresses(&"b".into(), Some(mk_cluster_ip(2))),
                view.upsert_dataplane(mk_dataplane("a-0", 1, "a")),
                view.upsert_dataplane(mk_dataplane("b-0", 2, "b")),
            ]
            .concat()
        });
        fixture
    }

    /// Changes the mesh view, opens a watcher for each new proxy, and publishes the change.
    fn change(&mut self, change: impl FnOnce(&mut MeshView) -> Vec<Touched>) {
        let touched = change(&mut self.view);
        for dataplane in self.view.dataplanes() {
            if self.watchers.iter().all(|(key, _)| *key != dataplane.key) {
                let watcher = self.store.watch(&dataplane.key);
                self.watchers.push((dataplane.key.clone(), watcher));
            }
        }
        self.publisher.apply(&self.view, &touched);
    }

    /// Number of encoded resources so far.
    fn encoded_count(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("xds_resources_encoded_total "));
        line.expect("the counter").parse().unwrap()
    }

    /// Opens a watcher that has read its view.
    fn open_watcher(&self, proxy: &str) -> Watcher {
        let mut watcher = self.store.watch(&key(proxy));
        watcher.read(|_, _| ());
        watcher
    }

    /// Returns the names that a wildcard subscription of a proxy includes, or `None` if the proxy has no view.
    fn names(&self, proxy: &str, kind: ResourceKind) -> Option<Vec<String>> {
        self.store.watch(&key(proxy)).read(|view, _| {
            let mut names: Vec<String> = view?
                .wildcard(kind)
                .map(|entry| entry.name().to_string())
                .collect();
            names.sort();
            Some(names)
        })
    }

    /// Returns the addresses for direct access of a proxy, in the order of their names. Checks that the clusters and the
    /// listener of the proxy have the same addresses.
    fn direct_access(&self, proxy: &str) -> Vec<String> {
        let candidates = (1..=255).map(|last| format!("10.0.0.{last}"));
        self.store.watch(&key(proxy)).read(|view, _| {
            let view = view.unwrap();
            let listener = view
                .get(ResourceKind::Listener, "outbound:passthrough:ipv4")
                .unwrap();
            let mut addresses = Vec::new();
            for ip in candidates {
                let cluster = view.get(ResourceKind::Cluster, &format!("direct_access_{ip}:8080"));
                // A CidrRange: the address in field 1, and the prefix length 32 in field 2.
                let range = [
                    &[0x0a, u8::try_from(ip.len()).unwrap()],
                    ip.as_bytes(),
                    &[0x12, 2, 8, 32],
                ]
                .concat();
                let is_in_listener = listener.encoded.windows(range.len()).any(|part| part == range);
                assert_eq!(cluster.is_some(), is_in_listener, "{ip}");
                addresses.extend(cluster.map(|_| format!("{ip}:8080")));
            }
            addresses.sort();
            addresses
        })
    }

    fn has_resource(&self, proxy: &str, kind: ResourceKind, resource: &str) -> bool {
        self.names(proxy, kind)
            .is_some_and(|names| names.iter().any(|name| name == resource))
    }
}

/// Reads the changes of a watcher's view. Returns the keys of the changed resources.
fn read_changes(watcher: &mut Watcher) -> Vec<(ResourceKind, String)> {
    watcher.read(|_, changes| match changes {
        Changes::Known(changes) => changes
            .into_iter()
            .map(|change| (change.key.kind, change.key.name.to_string()))
            .collect(),
        Changes::Unknown => panic!("the changes must be known"),
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
        "a proxy must not have the inbound listener of another proxy"
    );
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "outbound:10.96.0.2:80"));
}

#[test]
fn change_of_readiness_encodes_one_service_and_changes_only_its_endpoints() {
    let mut fixture = Fixture::new();
    let (mut watcher, encoded_before) = (fixture.open_watcher("a-0"), fixture.encoded_count());
    fixture.change(|view| {
        let mut unready = mk_dataplane("b-0", 2, "b");
        unready.inbounds[0].ready = Some(false);
        view.upsert_dataplane(unready)
    });
    assert_eq!(
        read_changes(&mut watcher),
        [(ResourceKind::Endpoints, "b".to_owned())]
    );
    assert_eq!(
        fixture.encoded_count() - encoded_before,
        3,
        "cluster, endpoints and listener of one service"
    );
}

#[test]
fn unchanged_dataplane_encodes_nothing() {
    let mut fixture = Fixture::new();
    let encoded_before = fixture.encoded_count();
    fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-0", 2, "b")));
    assert_eq!(fixture.encoded_count(), encoded_before);
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
        let encoded_before = fixture.encoded_count();
        fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
        fixture.encoded_count() - encoded_before
    };
    assert_eq!(cost(1), cost(100));
}

#[test]
fn added_permission_encodes_only_the_listeners_of_the_inbounds_that_it_selects() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        let mut mesh = Mesh::new("default");
        mesh.mtls = Some(mk_mtls());
        view.upsert_mesh(mesh)
    });
    let mut watcher_of_a = fixture.open_watcher("a-0");
    let mut watcher_of_b = fixture.open_watcher("b-0");
    let encoded_before = fixture.encoded_count();
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
    assert_eq!(read_changes(&mut watcher_of_b), [listener]);
    assert_eq!(read_changes(&mut watcher_of_a), []);
    assert_eq!(
        fixture.encoded_count() - encoded_before,
        1,
        "one listener of one proxy"
    );
}

#[test]
fn service_without_endpoints_is_removed() {
    let mut fixture = Fixture::new();
    fixture.change(|view| view.remove_dataplane(&key("b-0")));
    assert!(!fixture.has_resource("a-0", ResourceKind::Cluster, "b"));
    assert_eq!(
        fixture.names("b-0", ResourceKind::Cluster),
        None,
        "the proxy of the removed Dataplane must have no view"
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

    let mut watcher = fixture.open_watcher("c-0");
    fixture.change(|view| view.remove_mesh(&"other".into()));
    assert!(
        watcher.read(|view, _| view.is_none()),
        "the stream must have no view, so that it removes no resources from Envoy"
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
        "the setting of another proxy must have no effect"
    );
}

#[test]
fn proxy_gets_no_outbound_listener_for_its_own_address() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        view.set_addresses(
            &"b".into(),
            Some(ServiceAddresses {
                headless: true,
                ..ServiceAddresses::default()
            }),
        )
    });
    assert!(fixture.has_resource("a-0", ResourceKind::Listener, "outbound:10.0.0.2:8080"));
    assert!(
        !fixture.has_resource("b-0", ResourceKind::Listener, "outbound:10.0.0.2:8080"),
        "the outbound listener must not replace the inbound listener"
    );
}

#[test]
fn clusters_and_listener_of_direct_access_follow_the_pods_of_a_service() {
    let mut fixture = Fixture::new();
    fixture.change(|view| view.upsert_dataplane(with_direct_access(mk_dataplane("a-0", 1, "a"), &["*"])));
    assert_eq!(fixture.direct_access("a-0"), ["10.0.0.2:8080"]);
    fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
    assert_eq!(fixture.direct_access("a-0"), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    fixture.change(|view| view.remove_dataplane(&key("b-0")));
    assert_eq!(fixture.direct_access("a-0"), ["10.0.0.3:8080"]);
}

#[test]
fn wildcard_subscription_includes_no_cluster_of_direct_access() {
    let mut fixture = Fixture::new();
    fixture.change(|view| view.upsert_dataplane(with_direct_access(mk_dataplane("a-0", 1, "a"), &["*"])));
    let names = fixture.names("a-0", ResourceKind::Cluster).unwrap();
    assert!(
        !names.iter().any(|name| name.starts_with("direct_access_")),
        "{names:?}"
    );
    assert!(
        fixture.names("a-0", ResourceKind::Listener)
            == fixture.names("b-0", ResourceKind::Listener).map(|names| names
                .into_iter()
                .map(|name| name.replace("10.0.0.2", "10.0.0.1"))
                .collect()),
        "direct access needs no listener of its own"
    );
}

#[test]
fn cluster_of_direct_access_changes_with_the_services_of_the_pod_and_leaves_the_listener_unchanged() {
    let mut fixture = Fixture::new();
    fixture.change(|view| {
        let mut mesh = Mesh::new("default");
        mesh.mtls = Some(mk_mtls());
        view.upsert_mesh(mesh)
    });
    fixture.change(|view| view.upsert_dataplane(with_direct_access(mk_dataplane("a-0", 1, "a"), &["*"])));
    let mut watcher = fixture.open_watcher("a-0");
    fixture.change(|view| {
        let mut dataplane = mk_dataplane("b-0", 2, "b");
        let mut inbound = dataplane.inbounds[0].clone();
        inbound.tags.insert(tag::SERVICE.into(), "c".into());
        dataplane.inbounds.push(inbound);
        view.upsert_dataplane(dataplane)
    });
    let changes = read_changes(&mut watcher);
    assert!(
        changes.contains(&(ResourceKind::Cluster, "direct_access_10.0.0.2:8080".into())),
        "{changes:?}"
    );
    assert!(
        !changes.contains(&(ResourceKind::Listener, "outbound:passthrough:ipv4".into())),
        "{changes:?}"
    );
}

#[test]
fn cost_of_a_pod_change_for_direct_access_is_independent_of_the_number_of_services() {
    let cost = |services: u8| {
        let mut fixture = Fixture::new();
        fixture.change(|view| view.upsert_dataplane(with_direct_access(mk_dataplane("a-0", 1, "a"), &["*"])));
        fixture.change(|view| {
            let others = (10..10 + services).map(|i| mk_dataplane(&format!("c-{i}"), i, &format!("c{i}")));
            others
                .flat_map(|dataplane| view.upsert_dataplane(dataplane))
                .collect()
        });
        let (mut watcher, encoded_before) = (fixture.open_watcher("a-0"), fixture.encoded_count());
        fixture.change(|view| view.upsert_dataplane(mk_dataplane("b-1", 3, "b")));
        let encoded = fixture.encoded_count() - encoded_before;
        let added = read_changes(&mut watcher);
        fixture.change(|view| view.remove_dataplane(&key("b-1")));
        (encoded, added, read_changes(&mut watcher))
    };
    let (few, many) = (cost(1), cost(100));
    let cluster = (ResourceKind::Cluster, "direct_access_10.0.0.3:8080".to_owned());
    let (_, added, removed) = &few;
    assert!(added.contains(&cluster) && removed.contains(&cluster), "{few:?}");
    assert_eq!(few, many);
}

/// A change of the mesh view. Pods and services are numbered.
#[derive(Clone, Debug)]
enum ViewChange {
    /// Creates or changes a Pod: its number, the services of its only port, and a number that selects its address.
    UpsertPod(u8, Vec<u8>, u8),
    RemovePod(u8),
    /// Sets the addresses of a service: its number, and whether it is headless. `None` removes the addresses.
    SetAddresses(u8, Option<bool>),
    /// Sets the services that Pod `a-0` calls directly (all if the list is empty), and the services that it may reach
    /// (all if the list is empty).
    SetAccess(Vec<u8>, Vec<u8>),
}

fn any_services() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4u8, 0..3)
}

fn any_view_change() -> impl Strategy<Value = ViewChange> {
    prop_oneof![
        4 => (0..5u8, any_services(), 1..4u8).prop_map(|(pod, services, ip)| ViewChange::UpsertPod(pod, services, ip)),
        2 => (0..5u8).prop_map(ViewChange::RemovePod),
        3 => (0..4u8, any::<Option<bool>>())
            .prop_map(|(service, headless)| ViewChange::SetAddresses(service, headless)),
        1 => (any_services(), any_services()).prop_map(|(direct, reachable)| ViewChange::SetAccess(direct, reachable)),
    ]
}

fn service_name(number: u8) -> String {
    format!("s{number}")
}

fn apply_view_change(view: &mut MeshView, change: &ViewChange) -> Vec<Touched> {
    match change {
        // The address contains the number of the Pod, so no two Pods have the same address.
        ViewChange::UpsertPod(pod, services, ip) => {
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
        ViewChange::RemovePod(pod) => view.remove_dataplane(&key(&format!("p-{pod}"))),
        ViewChange::SetAddresses(service, headless) => {
            let addresses = headless.map(|headless| ServiceAddresses {
                headless,
                ..ServiceAddresses::default()
            });
            view.set_addresses(&service_name(*service).as_str().into(), addresses)
        }
        ViewChange::SetAccess(direct, reachable) => {
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

/// Returns the addresses for direct access of the proxy `a-0`, computed from the whole view.
fn expected_direct_access(view: &MeshView) -> Vec<String> {
    let proxy = view.dataplane(&key("a-0")).unwrap();
    let settings = proxy.transparent_proxying.as_ref().unwrap();
    let contains = |names: &[String], name: &str| names.iter().any(|listed| listed == name);
    let mesh = MeshName::new("default");
    let mut called_directly = BTreeSet::new();
    let mut with_outbound_listener = BTreeSet::new();
    for (name, service) in view.services(&mesh) {
        let direct = &settings.direct_access_services;
        let reachable = &settings.reachable_services;
        let is_called_directly = contains(direct, "*") || contains(direct, name.as_str());
        let is_reachable = reachable.is_empty() || contains(reachable, name.as_str());
        for (address, endpoint) in &service.endpoints {
            if is_called_directly && endpoint.dataplane != proxy.key {
                called_directly.insert(*address);
            }
            if service.addresses.headless && is_reachable {
                with_outbound_listener.insert(*address);
            }
        }
    }
    let mut addresses: Vec<_> = called_directly
        .difference(&with_outbound_listener)
        .map(ToString::to_string)
        .collect();
    addresses.sort();
    addresses
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn published_direct_access_matches_the_whole_view_after_any_changes(
        batches in prop::collection::vec(prop::collection::vec(any_view_change(), 1..4), 1..12)
    ) {
        let mut fixture = Fixture::new();
        fixture.change(|view| apply_view_change(view, &ViewChange::SetAccess(Vec::new(), Vec::new())));
        for batch in &batches {
            fixture.change(|view| batch.iter().flat_map(|change| apply_view_change(view, change)).collect());
            prop_assert_eq!(fixture.direct_access("a-0"), expected_direct_access(&fixture.view), "{:?}", batch);
        }
    }
}

#[test]
fn virtual_ip_adds_only_resources_on_demand() {
    let headless = ServiceAddresses {
        headless: true,
        ..ServiceAddresses::default()
    };
    for addresses in [None, Some(headless)] {
        let mut fixture = Fixture::new();
        if addresses.is_some() {
            fixture.change(|view| view.set_addresses(&"b".into(), addresses));
        }
        let mut watcher = fixture.open_watcher("a-0");
        let virtual_ips = [("b".into(), [240, 0, 0, 1].into())];
        fixture.change(|view| view.set_virtual_ips(&"default".into(), virtual_ips.into()));
        let changed: BTreeSet<_> = read_changes(&mut watcher).into_iter().collect();
        let name = || "virtual_ip_240.0.0.1:80".to_owned();
        let expected = [(ResourceKind::Cluster, name()), (ResourceKind::Endpoints, name())];
        assert_eq!(changed, BTreeSet::from(expected.clone()));
        watcher.read(|view, _| {
            let view = view.expect("the view of the proxy");
            for (kind, name) in expected {
                let entry = view.get(kind, &name).expect("an entry");
                assert!(entry.is_on_demand(), "{kind:?}");
            }
        });
    }
}

/// Returns the scope counts of a store with one mesh and this number of proxies.
fn mk_scope_counts(proxies: usize) -> ScopeCounts {
    ScopeCounts { meshes: 1, proxies }
}

#[tokio::test]
async fn own_resources_are_published_only_while_the_proxy_has_a_stream() {
    let mut fixture = Fixture::new();
    fixture
        .publisher
        .update_demand(&fixture.view, fixture.store.demand_changed().await);
    assert_eq!(fixture.store.scope_counts(), mk_scope_counts(2));
    fixture.watchers.retain(|(proxy, _)| *proxy != key("a-0"));
    fixture
        .publisher
        .update_demand(&fixture.view, fixture.store.demand_changed().await);
    assert_eq!(
        fixture.store.scope_counts(),
        mk_scope_counts(1),
        "the scope of a proxy without streams must be removed"
    );

    let touched = fixture.view.upsert_dataplane(mk_dataplane("a-0", 3, "a"));
    let encoded_before = fixture.encoded_count();
    fixture.publisher.apply(&fixture.view, &touched);
    assert_eq!(fixture.store.scope_counts(), mk_scope_counts(1));
    let encoded_without_stream = fixture.encoded_count() - encoded_before;

    let mut watcher = fixture.open_watcher("a-0");
    fixture
        .publisher
        .update_demand(&fixture.view, fixture.store.demand_changed().await);
    watcher.changed().await;
    let listeners = watcher.read(|view, _| view.map(|view| view.wildcard(ResourceKind::Listener).count()));
    assert!(
        listeners.is_some_and(|count| count > 0),
        "own resources must be published for the new stream"
    );
    assert!(fixture.encoded_count() > encoded_before + encoded_without_stream);
}
