//! Property test of the index with random sequences of writes. Each write returns exactly the changes that it caused.
//! After all writes, the state of the index equals the result of a conversion of all objects from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kermode_model::view::{Endpoint, SliceEndpoint};
use kermode_model::{Action, Dataplane, PermissionRule, Principal, Tags, tag};
use proptest::prelude::*;
use serde_json::json;

use super::builders::{key, mk_endpoint_slice, mk_namespace, mk_replica_set, mk_service, pod_json, read_pod};
use super::*;
use crate::convert::facts::EndpointSliceFacts;

/// A write to the index. Each `u8` is the number in the name of the object. The range of the numbers is small, so that
/// several writes affect the same object.
#[derive(Clone, Debug)]
enum Write {
    Pod(u8, PodShape),
    RemovePod(u8),
    Service(u8, ServiceShape),
    RemoveService(u8),
    EndpointSlice(u8, SliceShape),
    RemoveEndpointSlice(u8),
    /// Applies the Namespace with this mesh annotation, if any.
    Namespace(Option<&'static str>),
    RemoveNamespace,
    ReplicaSet {
        name: u8,
        has_deployment: bool,
    },
    RemoveReplicaSet(u8),
    Permission(u8, PermissionShape),
    RemovePermission(u8),
    /// Replaces the virtual IPs of the mesh `default`: bit set of the services that have one, and the IP of the first.
    VirtualIps(u8, u8),
}

#[allow(clippy::struct_excessive_bools, reason = "each is an independent choice")]
#[derive(Clone, Debug)]
struct PodShape {
    is_injected: bool,
    /// Argument of [`labels`].
    labels: u8,
    has_mesh_annotation: bool,
    /// Number of the owning ReplicaSet.
    owner: Option<u8>,
    is_ready: bool,
    /// 0: succeeded, 1: failed, 2: without IP, 3: terminating; other numbers: running.
    status: u8,
    has_invalid_annotation: bool,
    /// Whether the Pod has a named port and an IPv6 address. Otherwise, it has neither.
    has_named_port_and_ipv6: bool,
    uid: u8,
    /// Last number of the IPs. Several Pods may have the same.
    ip: u8,
    /// Second of the Pod's creation.
    created: u8,
}

#[derive(Clone, Debug)]
struct ServiceShape {
    /// Choice of the selector; see [`mk_service_of`].
    selector: u8,
    is_headless: bool,
    /// Bit set of the ports that the Service has; see [`mk_service_of`].
    ports: u8,
    is_ignored: bool,
}

#[derive(Clone, Debug)]
struct SliceShape {
    /// Number in the name of the Service.
    service: u8,
    /// Bit set of the last numbers of the IPs that the slice contains.
    ips: u8,
    is_ready: bool,
}

#[derive(Clone, Debug)]
struct PermissionShape {
    is_in_other_mesh: bool,
    /// Choice of the target; see [`mk_permission`].
    target: u8,
    /// Number in the name of the allowed service.
    caller: u8,
}

fn any_permission() -> impl Strategy<Value = PermissionShape> {
    (prop::bool::weighted(0.3), 0..5u8, 0..2u8).prop_map(|(is_in_other_mesh, target, caller)| {
        PermissionShape {
            is_in_other_mesh,
            target,
            caller,
        }
    })
}

fn any_pod() -> impl Strategy<Value = PodShape> {
    let fields = (
        prop::bool::weighted(0.9),
        0..4u8,
        any::<bool>(),
        prop::option::of(0..2u8),
        any::<bool>(),
        0..8u8,
        prop::bool::weighted(0.1),
        any::<bool>(),
        0..2u8,
        (1..4u8, 0..3u8),
    );
    fields.prop_map(
        |(
            is_injected,
            labels,
            has_mesh_annotation,
            owner,
            is_ready,
            status,
            has_invalid_annotation,
            has_named_port_and_ipv6,
            uid,
            (ip, created),
        )| PodShape {
            is_injected,
            labels,
            has_mesh_annotation,
            owner,
            is_ready,
            status,
            has_invalid_annotation,
            has_named_port_and_ipv6,
            uid,
            ip,
            created,
        },
    )
}

fn any_service() -> impl Strategy<Value = ServiceShape> {
    (0..5u8, any::<bool>(), 1..8u8, prop::bool::weighted(0.1)).prop_map(
        |(selector, is_headless, ports, is_ignored)| ServiceShape {
            selector,
            is_headless,
            ports,
            is_ignored,
        },
    )
}

fn any_slice() -> impl Strategy<Value = SliceShape> {
    (0..3u8, 0..32u8, any::<bool>()).prop_map(|(service, ips, is_ready)| SliceShape {
        service,
        ips,
        is_ready,
    })
}

fn any_write() -> impl Strategy<Value = Write> {
    let mesh = prop::sample::select(vec!["default", "other"]);
    prop_oneof![
        6 => (0..4u8, any_pod()).prop_map(|(name, pod)| Write::Pod(name, pod)),
        2 => (0..4u8).prop_map(Write::RemovePod),
        4 => (0..3u8, any_service()).prop_map(|(name, service)| Write::Service(name, service)),
        2 => (0..3u8).prop_map(Write::RemoveService),
        3 => (0..2u8, any_slice()).prop_map(|(name, slice)| Write::EndpointSlice(name, slice)),
        1 => (0..2u8).prop_map(Write::RemoveEndpointSlice),
        1 => prop::option::of(mesh).prop_map(Write::Namespace),
        1 => Just(Write::RemoveNamespace),
        2 => (0..2u8, any::<bool>())
            .prop_map(|(name, has_deployment)| Write::ReplicaSet { name, has_deployment }),
        1 => (0..2u8).prop_map(Write::RemoveReplicaSet),
        3 => (0..3u8, any_permission()).prop_map(|(name, shape)| Write::Permission(name, shape)),
        1 => (0..3u8).prop_map(Write::RemovePermission),
        2 => (0..8u8, 1..3u8).prop_map(|(services, first)| Write::VirtualIps(services, first)),
    ]
}

fn labels(choice: u8) -> serde_json::Value {
    json!({"app": format!("a{}", choice % 2), "env": format!("e{}", choice / 2)})
}

fn mk_pod(name: u8, shape: &PodShape) -> PodFacts {
    let mut pod = pod_json(
        &format!("p{name}"),
        &format!("10.0.0.{}", shape.ip),
        labels(shape.labels),
    );
    pod["metadata"]["uid"] = json!(shape.uid.to_string());
    pod["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{}Z", shape.created));
    let annotations = &mut pod["metadata"]["annotations"];
    annotations["kuma.io/sidecar-injected"] = json!(shape.is_injected.to_string());
    if shape.has_mesh_annotation {
        annotations["kuma.io/mesh"] = json!("default");
    }
    if shape.has_invalid_annotation {
        annotations["kuma.io/envoy-admin-port"] = json!("nonsense");
    }
    if let Some(owner) = shape.owner {
        pod["metadata"]["ownerReferences"] =
            json!([{"kind": "ReplicaSet", "name": format!("r{owner}"), "uid": "", "apiVersion": "apps/v1"}]);
    }
    if shape.has_named_port_and_ipv6 {
        let second = format!("fd00::{}", shape.ip);
        pod["status"]["podIPs"] = json!([{"ip": pod["status"]["podIP"]}, {"ip": second}]);
    } else {
        pod["spec"]["containers"][0]["ports"] = json!([]);
    }
    pod["status"]["containerStatuses"][0]["ready"] = json!(shape.is_ready);
    match shape.status {
        0 => pod["status"]["phase"] = json!("Succeeded"),
        1 => pod["status"]["phase"] = json!("Failed"),
        2 => pod["status"]["podIP"] = json!(null),
        3 => pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        _ => {}
    }
    read_pod(&pod)
}

fn mk_service_of(name: u8, shape: &ServiceShape) -> ServiceFacts {
    let selector = match shape.selector {
        0 => json!({}),
        1 => json!({"app": "a0"}),
        2 => json!({"env": "e1"}),
        3 => json!({"app": "a1", "env": "e0"}),
        _ => json!({"app": "none"}),
    };
    let ports = [
        json!({"port": 80, "targetPort": 8080, "appProtocol": "http"}),
        json!({"port": 81, "targetPort": "http"}),
        json!({"port": 82, "targetPort": 8080, "appProtocol": "grpc"}),
    ];
    let ports = ports
        .iter()
        .enumerate()
        .filter(|(bit, _)| shape.ports & (1 << bit) != 0);
    let ports: Vec<_> = ports.map(|(_, port)| port.clone()).collect();
    let ip = if shape.is_headless {
        "None".to_owned()
    } else {
        cluster_ip(name).to_string()
    };
    let mut service = mk_service(&format!("s{name}"), &ip, selector, json!(ports));
    if shape.is_ignored {
        service.annotations = [("kuma.io/ignore".into(), "true".into())].into_iter().collect();
    }
    service
}

fn mk_slice(name: u8, shape: &SliceShape) -> EndpointSliceFacts {
    let ips = (1..6u8).filter(|ip| shape.ips & (1 << (ip - 1)) != 0);
    let endpoints: Vec<_> = ips
        .map(|ip| json!({"addresses": [format!("10.0.0.{ip}")], "conditions": {"ready": shape.is_ready}}))
        .collect();
    let ports = json!([{"port": 8080}]);
    mk_endpoint_slice(
        &format!("e{name}"),
        &format!("s{}", shape.service),
        ports,
        json!(endpoints),
    )
}

fn mk_permission(shape: &PermissionShape) -> (MeshName, TrafficPermission) {
    let service = (tag::SERVICE.into(), "s0_demo_svc_80".into());
    let app = ("app".into(), "a0".into());
    let target = match shape.target {
        0 => Tags::new(),
        1 => Tags::from([service]),
        2 => Tags::from([app]),
        3 => Tags::from([service, app]),
        _ => Tags::from([("app".into(), "none".into())]),
    };
    let rule = PermissionRule {
        from: Principal {
            service: Some(format!("caller-{}", shape.caller).as_str().into()),
            tags: Tags::new(),
        },
        action: Action::Allow,
    };
    let mesh = if shape.is_in_other_mesh {
        "other"
    } else {
        "default"
    };
    let permission = TrafficPermission {
        target,
        rules: vec![rule],
    };
    (mesh.into(), permission)
}

fn permission_key(name: u8) -> ObjectKey {
    ObjectKey::new("system", format!("m{name}"))
}

/// The MeshTrafficPermissions that exist after the writes so far.
type Permissions = BTreeMap<ObjectKey, (MeshName, TrafficPermission)>;

fn record_permission(permissions: &mut Permissions, write: &Write) {
    match write {
        Write::Permission(name, shape) => {
            permissions.insert(permission_key(*name), mk_permission(shape));
        }
        Write::RemovePermission(name) => {
            permissions.remove(&permission_key(*name));
        }
        _ => {}
    }
}

fn cluster_ip(service: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, service + 1])
}

fn apply_write(index: &mut Index, write: &Write) -> Changes {
    match write {
        Write::Pod(name, shape) => index.apply_pod(mk_pod(*name, shape)),
        Write::RemovePod(name) => index.remove_pod(&key(&format!("p{name}"))),
        Write::Service(name, shape) => index.apply_service(mk_service_of(*name, shape)),
        Write::RemoveService(name) => index.remove_service(&key(&format!("s{name}"))),
        Write::EndpointSlice(name, shape) => index.apply_endpoint_slice(mk_slice(*name, shape)),
        Write::RemoveEndpointSlice(name) => index.remove_endpoint_slice(&key(&format!("e{name}"))),
        Write::Namespace(mesh) => index.apply_namespace(mk_namespace("demo", *mesh)),
        Write::RemoveNamespace => index.remove_namespace("demo"),
        Write::ReplicaSet { name, has_deployment } => {
            let deployment = has_deployment.then_some("deployment");
            index.apply_intermediate(mk_replica_set(&format!("r{name}"), deployment))
        }
        Write::RemoveReplicaSet(name) => {
            index.remove_intermediate(&mk_replica_set(&format!("r{name}"), None).id)
        }
        Write::Permission(name, shape) => {
            let (mesh, permission) = mk_permission(shape);
            index.apply_permission(&permission_key(*name), &mesh, permission)
        }
        Write::RemovePermission(name) => index.remove_permission(&permission_key(*name)),
        Write::VirtualIps(services, first) => {
            index.apply_virtual_ips([("default".into(), mk_virtual_ips(*services, *first))].into())
        }
    }
}

fn mk_virtual_ips(services: u8, first: u8) -> VirtualIps {
    let numbers = (0..3u8).filter(|number| services & (1 << number) != 0);
    let ips = numbers.map(|number| {
        let service = ServiceName::of_port(&format!("s{number}"), "demo", 80);
        (service, [240, 0, 0, first + number].into())
    });
    ips.collect()
}

/// Addresses, endpoints of selected Pods, endpoints from EndpointSlices, and the virtual IP.
type ServiceState = (
    ServiceAddresses,
    BTreeMap<SocketAddr, Endpoint>,
    BTreeMap<SocketAddr, SliceEndpoint>,
    Option<Ipv4Addr>,
);

type Services = BTreeMap<(MeshName, ServiceName), ServiceState>;

/// The observable state of an index.
#[derive(Debug, PartialEq)]
struct IndexState {
    /// Dataplanes that must exist, each with the UID of its Pod.
    desired_dataplanes: BTreeMap<ObjectKey, (Dataplane, String)>,
    /// Dataplanes of the mesh view.
    view_dataplanes: BTreeMap<ObjectKey, Dataplane>,
    services: Services,
    services_by_address: BTreeMap<SocketAddr, ServiceName>,
    rules: Rules,
}

/// The rules of each inbound of each Dataplane, in the order of the inbounds.
type Rules = BTreeMap<ObjectKey, Vec<Vec<PermissionRule>>>;

fn rules_of(view: &MeshView) -> Rules {
    let rules = |dataplane: &Arc<Dataplane>| {
        let permissions = view.permissions(&dataplane.mesh);
        let inbounds = dataplane.inbounds.iter();
        inbounds
            .map(|inbound| {
                permissions
                    .rules_for(&inbound.tags)
                    .into_iter()
                    .cloned()
                    .collect()
            })
            .collect()
    };
    view.dataplanes()
        .map(|dataplane| (dataplane.key.clone(), rules(dataplane)))
        .collect()
}

fn contains_all(tags: &Tags, target: &Tags) -> bool {
    target.iter().all(|(key, value)| tags.get(key) == Some(value))
}

/// Returns the inbounds that the changed permissions select, before or after the change. A change of permissions does
/// not change the Dataplanes in `state`.
fn expected_inbounds(before: &Permissions, after: &Permissions, state: &IndexState) -> BTreeSet<Touched> {
    let mut touched = BTreeSet::new();
    for key in differing(before, after, Clone::clone) {
        for (mesh, permission) in before.get(&key).into_iter().chain(after.get(&key)) {
            let dataplanes = state
                .view_dataplanes
                .values()
                .filter(|dataplane| dataplane.mesh == *mesh);
            let inbounds = dataplanes.flat_map(|dataplane| {
                let inbounds = dataplane.inbounds.iter();
                inbounds.map(move |inbound| (dataplane.key.clone(), inbound))
            });
            // A placeholder inbound has no listener, so permissions do not affect it.
            let selected = inbounds.filter(|(_, inbound)| {
                !inbound.is_placeholder() && contains_all(&inbound.tags, &permission.target)
            });
            touched.extend(selected.map(|(key, inbound)| Touched::Inbound(key, inbound.port)));
        }
    }
    touched
}

fn services_of(view: &MeshView) -> Services {
    let meshes = ["default", "other"].map(MeshName::new);
    let all = meshes
        .iter()
        .flat_map(|mesh| view.services(mesh).map(move |service| (mesh, service)));
    all.map(|(mesh, (name, service))| {
        let state = (
            service.addresses.clone(),
            service.endpoints.clone(),
            service.slice_endpoints.clone(),
            service.virtual_ip,
        );
        ((mesh.clone(), name.clone()), state)
    })
    .collect()
}

fn services_by_address(view: &MeshView) -> BTreeMap<SocketAddr, ServiceName> {
    let all = (0..3u8).flat_map(|service| (80..83u16).map(move |port| (cluster_ip(service), port).into()));
    all.filter_map(|address| Some((address, view.service_at(address)?.clone())))
        .collect()
}

fn view_dataplanes(view: &MeshView) -> BTreeMap<ObjectKey, Dataplane> {
    view.dataplanes()
        .map(|dataplane| (dataplane.key.clone(), (**dataplane).clone()))
        .collect()
}

fn state_of(index: &Index) -> IndexState {
    let desired = index.all_desired().map(|desired| {
        let value = ((**desired.dataplane).clone(), desired.pod_uid.to_string());
        (desired.dataplane.key.clone(), value)
    });
    IndexState {
        desired_dataplanes: desired.collect(),
        view_dataplanes: view_dataplanes(index.view()),
        services: services_of(index.view()),
        services_by_address: services_by_address(index.view()),
        rules: rules_of(index.view()),
    }
}

/// Returns whether an IP of a Pod belongs to another Pod. An IP that several Pods have belongs to the Pod with
/// the highest rank: Pods that are not terminating rank above terminating Pods. Among equals, a Pod that got its IPs
/// later ranks higher. If these times are equal as well, the Pod with the greater key ranks higher.
fn is_ip_taken(index: &Index, pod: &PodFacts) -> bool {
    let rank = |pod: &PodFacts| (!pod.is_terminating, pod.has_ips_since, pod.key.clone());
    let ips = |pod: &PodFacts| pod.held_ips().collect::<BTreeSet<_>>();
    let mut pods = index.pods.values().map(|entry| &entry.facts);
    pods.any(|other| rank(other) > rank(pod) && !ips(other).is_disjoint(&ips(pod)))
}

type SliceEndpoints = BTreeMap<(MeshName, ServiceName), BTreeMap<SocketAddr, SliceEndpoint>>;

/// Returns the endpoints of all Services without selector, for each mesh that has one of the endpoints.
fn slice_endpoints_from_scratch(index: &Index, view: &MeshView) -> SliceEndpoints {
    let mut all = SliceEndpoints::new();
    for service in index
        .services
        .values()
        .filter(|service| service.takes_endpoints_from_slices())
    {
        let slices = index.slices.by_key.values();
        let slices = slices.filter(|slice| *slice.service == *service.key.name);
        // All ports of Services and EndpointSlices are unnamed, so each port of the Service has all endpoints.
        let ready_by_ip = slices.flat_map(|slice| &slice.endpoints).fold(
            BTreeMap::<IpAddr, bool>::new(),
            |mut ready_by_ip, (ip, is_ready)| {
                *ready_by_ip.entry(*ip).or_default() |= is_ready;
                ready_by_ip
            },
        );
        let mesh_and_service_of = |ip: IpAddr| {
            let mut owners = view.dataplanes().filter(|dataplane| {
                let facts = index.pod(&dataplane.key).expect("the Pod of a Dataplane");
                facts.held_ips().any(|held| held == ip) && !is_ip_taken(index, facts)
            });
            let owner = owners.next()?;
            let inbound = owner.inbounds.iter().find(|inbound| inbound.port == 8080)?;
            Some((owner.mesh.clone(), inbound.service()?))
        };
        let meshes: BTreeSet<_> = ready_by_ip
            .keys()
            .filter_map(|ip| Some(mesh_and_service_of(*ip)?.0))
            .collect();
        for (mesh, port) in meshes
            .iter()
            .flat_map(|mesh| service.ports.iter().map(move |port| (mesh, port)))
        {
            let endpoint = |(ip, ready): (&IpAddr, &bool)| {
                let owner = mesh_and_service_of(*ip).filter(|(owner_mesh, _)| owner_mesh == mesh);
                let endpoint = SliceEndpoint {
                    identity: owner.map(|(_, service)| service),
                    ready: *ready,
                };
                (SocketAddr::new(*ip, 8080), endpoint)
            };
            let endpoints = ready_by_ip.iter().map(endpoint).collect();
            all.insert((mesh.clone(), port.service_name().clone()), endpoints);
        }
    }
    all
}

/// Returns the state that results from a conversion of all objects from scratch.
fn state_from_scratch(index: &Index, permissions: &Permissions) -> IndexState {
    let mut view = MeshView::default();
    let mesh = MeshName::from("default");
    view.set_virtual_ips(&mesh, index.view().virtual_ips(&mesh).clone());
    for (key, (mesh, permission)) in permissions {
        view.upsert_permission(key, mesh, permission.clone());
    }
    let mut desired_dataplanes = BTreeMap::new();
    for service in index.services.values() {
        for (name, addresses) in service_addresses(service) {
            view.set_addresses(&name, Some(addresses));
        }
    }
    for entry in index.pods.values() {
        let pod = &entry.facts;
        let services = convert::selecting_services(index.services.values(), pod);
        let workload = convert::top_workload(pod, |id| index.intermediates.get(id));
        let namespace = index.namespaces.get("demo");
        let result = convert::convert(pod, &services, namespace, workload.as_ref(), &index.settings);
        if let Ok(Some(mut converted)) = result {
            let is_ip_taken = is_ip_taken(index, pod);
            if is_ip_taken {
                for inbound in &mut converted.dataplane.inbounds {
                    inbound.ready = Some(false);
                }
            }
            let value = (converted.dataplane.clone(), pod.uid.to_string());
            desired_dataplanes.insert(pod.key.clone(), value);
            if is_ip_taken {
                view.upsert_dataplane_without_endpoints(converted.dataplane);
            } else {
                view.upsert_dataplane(converted.dataplane);
            }
        }
    }
    for ((mesh, name), endpoints) in slice_endpoints_from_scratch(index, &view) {
        view.set_slice_endpoints(&mesh, &name, endpoints);
    }
    IndexState {
        desired_dataplanes,
        view_dataplanes: view_dataplanes(&view),
        services: services_of(&view),
        services_by_address: services_by_address(&view),
        rules: rules_of(&view),
    }
}

/// Removes from a state the Pods that cannot be converted. Their state depends on earlier writes.
fn without_invalid_pods(mut state: IndexState, invalid: &BTreeSet<ObjectKey>) -> IndexState {
    state.desired_dataplanes.retain(|key, _| !invalid.contains(key));
    state.view_dataplanes.retain(|key, _| !invalid.contains(key));
    state.rules.retain(|key, _| !invalid.contains(key));
    for (_, endpoints, slice_endpoints, _) in state.services.values_mut() {
        endpoints.retain(|_, endpoint| !invalid.contains(&endpoint.dataplane));
        // Any of these endpoints may depend on an invalid Pod.
        if !invalid.is_empty() {
            slice_endpoints.clear();
        }
    }
    // Whether a service without endpoints exists may depend on an invalid Pod.
    state
        .services
        .retain(|_, (_, endpoints, slice_endpoints, _)| !endpoints.is_empty() || !slice_endpoints.is_empty());
    state
}

fn without_health(dataplane: &Dataplane) -> Dataplane {
    let mut dataplane = dataplane.clone();
    for inbound in &mut dataplane.inbounds {
        inbound.ready = None;
    }
    dataplane
}

/// Returns the keys whose values differ between the maps. Values are compared by the result of `compared`.
fn differing<K: Ord + Clone, V, T: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    compared: impl Fn(&V) -> T,
) -> BTreeSet<K> {
    let keys = before.keys().chain(after.keys());
    keys.filter(|key| before.get(key).map(&compared) != after.get(key).map(&compared))
        .cloned()
        .collect()
}

fn expected_touched(before: &IndexState, after: &IndexState) -> BTreeSet<Touched> {
    let services = differing(&before.services, &after.services, Clone::clone).into_iter();
    let dataplanes = differing(&before.view_dataplanes, &after.view_dataplanes, without_health).into_iter();
    services
        .map(|(mesh, name)| Touched::Service(mesh, name))
        .chain(dataplanes.map(Touched::Dataplane))
        .collect()
}

/// Checks that the returned changes turn the desired state before the write into the desired state after it.
fn check_dataplane_changes(
    before: &IndexState,
    after: &IndexState,
    changes: &Changes,
) -> Result<(), TestCaseError> {
    let mut desired = before.desired_dataplanes.clone();
    for change in &changes.dataplanes {
        match change {
            DataplaneChange::Upsert {
                dataplane, pod_uid, ..
            } => {
                let value = ((**dataplane).clone(), pod_uid.to_string());
                desired.insert(dataplane.key.clone(), value);
            }
            DataplaneChange::Delete(key) => {
                prop_assert!(
                    desired.remove(key).is_some(),
                    "Dataplane {key} is reported as deleted but did not exist"
                );
            }
            DataplaneChange::Failed { .. } => {}
        }
    }
    prop_assert_eq!(&desired, &after.desired_dataplanes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn state_after_random_writes_equals_a_conversion_from_scratch(
        writes in prop::collection::vec(any_write(), 1..40)
    ) {
        let mut index = Index::default();
        let mut permissions = Permissions::new();
        for write in &writes {
            let (before, permissions_before) = (state_of(&index), permissions.clone());
            let changes = apply_write(&mut index, write);
            record_permission(&mut permissions, write);
            let after = state_of(&index);
            let touched: BTreeSet<_> = changes.touched.iter().cloned().collect();
            let mut expected = expected_touched(&before, &after);
            expected.extend(expected_inbounds(&permissions_before, &permissions, &after));
            prop_assert_eq!(touched, expected, "{:?}", write);
            check_dataplane_changes(&before, &after, &changes)?;
            let repeated = apply_write(&mut index, write);
            prop_assert!(repeated.is_empty(), "a repeated write must change nothing: {:?}", write);
        }
        let invalid: BTreeSet<_> = index.conversion_errors().map(|(key, _)| key.clone()).collect();
        let expected = without_invalid_pods(state_from_scratch(&index, &permissions), &invalid);
        prop_assert_eq!(without_invalid_pods(state_of(&index), &invalid), expected);
    }
}
