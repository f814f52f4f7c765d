//! Property tests: a stream against a model of Envoy, under random changes, delays and reconnects.

mod envoy;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kermode_envoy::{OnDemand, Resource, ResourceKind};
use kermode_model::{ObjectKey, ServiceName};
use kermode_protocol::ads::DeltaDiscoveryRequest;
use proptest::prelude::*;

use super::*;
use crate::store::{Profile, ServiceSelection, Store, Tombstones, Watcher};
use envoy::Envoy;

const SERVICES: u8 = 4;

/// Version and body of every tombstone.
const TOMBSTONE: &str = "static:none";

/// Resources of one service `i`: cluster and endpoints `c<i>`, listener `l<i>`, route `r<i>`, on-demand cluster `d<i>`.
#[derive(Clone, Debug)]
struct Spec {
    eds: bool,
    cluster: u8,
    endpoints: Option<u8>,
    listener: u8,
    /// Bit `i`: the listener also refers to the cluster of service `i`, while that exists.
    refers: u8,
    route: Option<u8>,
    /// Version of the on-demand cluster, which is sent after the other resources of the service.
    on_demand: Option<u8>,
    /// Bits of the resources that Envoy rejects: 1 cluster, 2 endpoints, 4 listener, 8 on-demand cluster.
    rejected: u8,
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u8, Option<Spec>),
    /// Makes the services of this mask visible, or all.
    Reach(Option<u8>),
    /// Makes a wildcard subscription include the services of this mask, or all.
    Eager(Option<u8>),
    Own(u8),
    /// Delivers at most this number of responses to Envoy.
    ToClient(u8),
    /// Delivers at most this number of requests to the stream.
    ToServer(u8),
    /// The stream reads its changes.
    Read,
    Reconnect,
    /// Envoy subscribes to a cluster by name.
    Subscribe(String),
    Unsubscribe(String),
    /// The deadline of every hold passes.
    Expire,
}

/// Kinds of sidecars, each tested by a property.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sidecars {
    /// All services visible; listeners refer to several of them.
    Eager,
    /// Some services visible, all of those by wildcard.
    Limited,
    /// Some services visible, some of those by wildcard, and tombstones.
    OnDemand,
}

struct Simulation {
    store: Arc<Store>,
    desired: BTreeMap<u8, Spec>,
    published: Vec<Resource>,
    reach: Option<u8>,
    eager: Option<u8>,
    tombstones: Option<Tombstones>,
    own: u8,
    limits: Limits,
    stream: Stream,
    watcher: Watcher,
    now: Instant,
    envoy: Envoy,
    to_client: VecDeque<Response>,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    /// Nonces of the responses in flight, by kind, with the number of their resources and removals.
    in_flight: HashMap<ResourceKind, (String, usize)>,
    /// Number of resources and removals of the last response that was ACKed or NACKed.
    answered: usize,
    /// Versions that were sent on this stream and must not be sent again unless an event removes them from this map.
    sent: HashMap<(ResourceKind, String), String>,
    /// Names of the rejected resources after the last step of the stream.
    rejected: HashSet<(ResourceKind, String)>,
    /// Clusters that the client has subscribed to by name, in requests that the stream has received.
    subscribed: HashSet<String>,
    /// Resources that the client ACKed, NACKed or reported on a new stream.
    acknowledged: HashSet<(ResourceKind, String)>,
    /// Whether no hold has expired yet.
    holds_are_strict: bool,
}

fn proxy() -> ObjectKey {
    ObjectKey::new("shop", "web-0")
}

fn service(i: u8) -> ServiceName {
    ServiceName::new(format!("s{i}"))
}

fn resource(kind: ResourceKind, name: &str, body: &str, of: Option<u8>) -> Resource {
    Resource {
        kind,
        name: name.into(),
        version: body.into(),
        body: body.to_owned().into(),
        service: of.map(service),
        on_demand: None,
    }
}

fn is_on_demand(name: &str) -> bool {
    name.starts_with('d')
}

/// Returns whether a mask contains a service. No mask contains all.
fn contains(mask: Option<u8>, i: u8) -> bool {
    mask.is_none_or(|mask| mask & (1 << i) != 0)
}

fn visibility(mask: Option<u8>) -> ServiceSelection {
    let only = |_| {
        ServiceSelection::Only(
            (0..SERVICES)
                .filter(|i| contains(mask, *i))
                .map(service)
                .collect(),
        )
    };
    mask.map_or(ServiceSelection::All, only)
}

fn tombstone(kind: ResourceKind, name: &str) -> Option<Resource> {
    let is_answered = kind == ResourceKind::Cluster && is_on_demand(name);
    is_answered.then(|| resource(kind, name, TOMBSTONE, None))
}

impl Spec {
    fn resources(&self, i: u8, desired: &BTreeMap<u8, Spec>) -> Vec<Resource> {
        let bad = |bit: u8| if self.rejected & bit == 0 { "" } else { "!" };
        let kind_of_cluster = if self.eds { "eds" } else { "static" };
        let cluster = format!("{kind_of_cluster}:{}{}", self.cluster, bad(1));
        let name = format!("c{i}");
        let mut all = vec![resource(ResourceKind::Cluster, &name, &cluster, Some(i))];
        if let Some(endpoints) = self.endpoints.filter(|_| self.eds) {
            let body = format!("{endpoints}{}", bad(2));
            all.push(resource(ResourceKind::Endpoints, &name, &body, Some(i)));
        }
        let refers = desired
            .keys()
            .filter(|j| **j == i || self.refers & (1 << **j) != 0);
        let refers: Vec<String> = refers.map(|j| format!("c{j}")).collect();
        let route = self.route.map(|_| format!("/r{i}")).unwrap_or_default();
        let body = format!("{}{route}:{}{}", refers.join(","), self.listener, bad(4));
        all.push(resource(ResourceKind::Listener, &format!("l{i}"), &body, Some(i)));
        if let Some(version) = self.on_demand {
            let after = all.iter().map(|resource| (resource.kind, resource.name.clone()));
            let on_demand = OnDemand {
                after: after.collect(),
            };
            let body = format!("static:{version}{}", bad(8));
            all.push(Resource {
                on_demand: Some(Box::new(on_demand)),
                ..resource(ResourceKind::Cluster, &format!("d{i}"), &body, Some(i))
            });
        }
        if let Some(content) = self.route {
            all.push(resource(
                ResourceKind::Route,
                &format!("r{i}"),
                &content.to_string(),
                Some(i),
            ));
        }
        all
    }
}

impl Simulation {
    fn new(limits: Limits, sidecars: Sidecars) -> Self {
        // A short log, so that streams fall behind it.
        let store = Arc::new(Store::with_log_capacity(6));
        let watcher = store.watch(&proxy());
        let tombstones = (sidecars == Sidecars::OnDemand).then(|| Tombstones::new(tombstone));
        let mut simulation = Self {
            store,
            desired: BTreeMap::new(),
            published: Vec::new(),
            reach: None,
            eager: None,
            tombstones,
            own: 0,
            limits,
            stream: Stream::new(limits),
            watcher,
            now: Instant::now(),
            envoy: Envoy::default(),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            in_flight: HashMap::new(),
            answered: 0,
            sent: HashMap::new(),
            rejected: HashSet::new(),
            subscribed: HashSet::new(),
            acknowledged: HashSet::new(),
            holds_are_strict: true,
        };
        simulation.to_server = simulation.envoy.connect().into();
        simulation
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Publish(i, spec) => {
                match spec {
                    Some(spec) => self.desired.insert(i, spec),
                    None => self.desired.remove(&i),
                };
                self.publish();
            }
            Op::Reach(mask) => {
                self.reach = mask;
                self.publish_own();
            }
            Op::Eager(mask) => {
                self.eager = mask;
                self.publish_own();
            }
            Op::Own(content) => {
                self.own = content;
                self.publish_own();
            }
            Op::ToClient(count) => (0..count).for_each(|_| self.deliver_to_client()),
            Op::ToServer(count) => (0..count).for_each(|_| self.deliver_to_server()),
            Op::Read => self.read(),
            Op::Reconnect => self.reconnect(),
            Op::Subscribe(name) => {
                let requests = self.envoy.subscribe_cluster(&name);
                self.to_server.extend(requests);
            }
            Op::Unsubscribe(name) => {
                let requests = self.envoy.unsubscribe_cluster(&name);
                self.to_server.extend(requests);
            }
            Op::Expire => {
                self.expire();
            }
        }
    }

    fn publish(&mut self) {
        // A resource that is removed and created again is sent again.
        let (desired, reach) = (&self.desired, self.reach);
        self.sent.retain(|(_, name), _| {
            let i = name
                .bytes()
                .last()
                .map(|digit| digit.wrapping_sub(b'0'))
                .filter(|i| *i < SERVICES);
            i.is_none_or(|i| desired.contains_key(&i) && contains(reach, i))
        });
        let resources = self
            .desired
            .iter()
            .flat_map(|(i, spec)| spec.resources(*i, desired));
        self.published = resources.collect();
        self.store.replace_mesh(&"default".into(), self.published.clone());
    }

    fn own_resources(&self) -> Vec<Resource> {
        let cluster = format!("own{}", self.own % 2);
        let listener = format!("{cluster}:{}", self.own);
        vec![
            resource(ResourceKind::Cluster, &cluster, "static:0", None),
            resource(ResourceKind::Listener, "inbound", &listener, None),
        ]
    }

    fn publish_own(&mut self) {
        let profile = Profile {
            visibility: visibility(self.reach),
            eager: visibility(self.eager),
            tombstones: self.tombstones.clone(),
            ..Profile::new("default".into())
        };
        self.store.replace_proxy(&proxy(), profile, self.own_resources());
    }

    fn read(&mut self) {
        let stream = &mut self.stream;
        let output = self
            .watcher
            .read(|view, changes| stream.on_change(changes, view.as_ref()));
        self.handle(output);
    }

    /// Lets the deadline of every hold pass. Returns whether there was a hold.
    fn expire(&mut self) -> bool {
        self.read();
        let Some(deadline) = self.stream.next_deadline(self.now) else {
            return false;
        };
        assert!(deadline <= self.now + self.limits.hold);
        self.now += self.limits.hold;
        self.holds_are_strict = false;
        let (stream, now) = (&mut self.stream, self.now);
        let output = self
            .watcher
            .read(|view, _| stream.on_deadline(now, view.as_ref()));
        self.handle(output);
        assert_eq!(
            self.stream.next_deadline(self.now),
            None,
            "a hold outlasts its deadline"
        );
        true
    }

    fn deliver_to_server(&mut self) {
        let Some(request) = self.to_server.pop_front() else {
            return;
        };
        let kind = ResourceKind::from_type_url(&request.type_url).unwrap();
        if let Some((nonce, count)) = self.in_flight.get(&kind)
            && *nonce == request.response_nonce
        {
            self.answered = *count;
            self.in_flight.remove(&kind);
        }
        self.read();
        for name in &request.resource_names_unsubscribe {
            self.sent.remove(&(kind, name.clone()));
            // The wildcard keeps clusters.
            if kind != ResourceKind::Cluster {
                self.acknowledged.remove(&(kind, name.clone()));
            }
            self.subscribed.remove(name);
        }
        for name in &request.resource_names_subscribe {
            self.sent.remove(&(kind, name.clone()));
            if kind == ResourceKind::Cluster {
                self.subscribed.insert(name.clone());
            }
        }
        let reported = request.initial_resource_versions.keys();
        self.acknowledged
            .extend(reported.map(|name| (kind, name.clone())));
        let stream = &mut self.stream;
        let output = self
            .watcher
            .read(|view, _| stream.on_request(request, view.as_ref()))
            .unwrap();
        self.handle(output);
    }

    fn handle(&mut self, output: Output) {
        let rejected = self.stream.rejections();
        let rejected: HashSet<_> = rejected.map(|r| (r.kind, r.resource.name.to_string())).collect();
        for event in output.events {
            match event {
                Event::Acknowledged { kind, resources, .. } => {
                    let names = resources.iter().map(|resource| (kind, resource.name.to_string()));
                    self.acknowledged.extend(names);
                }
                Event::Rejected { kind, resources, .. } => {
                    for resource in resources {
                        let key = (kind, resource.name.to_string());
                        // A resource that was rejected alone is not sent again, even if its rejection has ended since
                        // because the client is no longer meant to have it.
                        if self.answered == 1 || rejected.contains(&key) {
                            self.acknowledged.insert(key.clone());
                        } else {
                            self.acknowledged.remove(&key);
                        }
                        let isolated = self
                            .stream
                            .rejections()
                            .any(|rejection| rejection.resource == resource);
                        // A resource that was rejected together with others may be sent once more.
                        if !isolated {
                            self.sent.remove(&key);
                        }
                    }
                }
            }
        }
        // A rejection ends when the resource changes, even back to the version that the client has. The rejected
        // version may then be sent once more.
        for no_longer_rejected in self.rejected.difference(&rejected) {
            self.sent.remove(no_longer_rejected);
        }
        self.rejected = rejected;
        for response in output.responses {
            self.check_response(&response);
            self.to_client.push_back(response);
        }
    }

    fn check_response(&mut self, response: &Response) {
        let kind = response.kind.unwrap();
        let count = response.message.resources.len() + response.message.removed_resources.len();
        let before = self
            .in_flight
            .insert(kind, (response.message.nonce.clone(), count));
        assert_eq!(before, None, "two responses of {kind:?} in flight");
        for (name, version, _) in response.message.resources.iter().map(envoy::read) {
            let before = self.sent.insert((kind, name.clone()), version.clone());
            assert_ne!(before.as_ref(), Some(&version), "{kind:?} {name} was sent twice");
            if kind == ResourceKind::Cluster {
                self.sent.remove(&(ResourceKind::Endpoints, name.clone()));
            }
            if is_on_demand(&name) {
                self.check_on_demand(&name, &version);
            }
        }
        for name in &response.message.removed_resources {
            self.sent.remove(&(kind, name.clone()));
            self.acknowledged.remove(&(kind, name.clone()));
            let is_stuck = is_on_demand(name) && self.subscribed.contains(name);
            assert!(!is_stuck, "Envoy will never request {name} again");
        }
    }

    /// Checks that an on-demand cluster was subscribed to by name and sent after the resources that it waits for.
    fn check_on_demand(&self, name: &str, version: &str) {
        assert!(self.subscribed.contains(name), "{name} is not subscribed");
        if version == TOMBSTONE || !self.holds_are_strict {
            return;
        }
        let mut published = self.published.iter();
        let resource = published
            .find(|resource| &*resource.name == name)
            .expect("it is published");
        for (kind, other) in resource.on_demand.iter().flat_map(|on_demand| &on_demand.after) {
            assert!(
                self.acknowledged.contains(&(*kind, other.to_string())),
                "{name} was sent before {kind:?} {other} was acknowledged"
            );
        }
    }

    fn deliver_to_client(&mut self) {
        let Some(response) = self.to_client.pop_front() else {
            return;
        };
        let requests = self.envoy.receive(&response.message);
        self.to_server.extend(requests);
    }

    fn reconnect(&mut self) {
        self.stream = Stream::new(self.limits);
        self.watcher = self.store.watch(&proxy());
        self.to_client.clear();
        self.in_flight.clear();
        self.sent.clear();
        self.rejected.clear();
        self.subscribed.clear();
        self.acknowledged.clear();
        // Envoy's own timeout ends the warming of a cluster whose endpoints were lost with the stream.
        self.envoy.warming.clear();
        self.to_server = self.envoy.connect().into();
    }

    fn deliver_everything(&mut self) {
        for round in 0.. {
            assert!(round < 500, "messages do not end: {:?}", self.stream);
            self.read();
            if self.to_client.is_empty() && self.to_server.is_empty() {
                break;
            }
            self.deliver_to_client();
            self.deliver_to_server();
        }
    }

    /// Delivers everything and compares the configuration of Envoy with the expected one, before and after the deadline
    /// of the holds that remain.
    fn settle(&mut self) {
        self.deliver_everything();
        let is_held = |name: &str| is_on_demand(name);
        if self.stream.next_deadline(self.now).is_some() {
            self.compare(|name| !is_held(name));
            assert!(self.expire());
            self.deliver_everything();
        }
        assert!(self.stream.is_settled(), "{:?}", self.stream);
        self.compare(|_| true);
    }

    /// Returns names and bodies of the resources of a kind that Envoy is meant to have.
    fn expected(&self, kind: ResourceKind) -> BTreeMap<String, String> {
        let body = |resource: &Resource| {
            let body = String::from_utf8(resource.body.to_vec()).unwrap();
            (resource.name.to_string(), body)
        };
        let is_in = |mask: Option<u8>, resource: &Resource| {
            (0..SERVICES).any(|i| resource.service == Some(service(i)) && contains(mask, i))
        };
        let visible: Vec<&Resource> = self
            .published
            .iter()
            .filter(|resource| resource.kind == kind && is_in(self.reach, resource))
            .collect();
        let none = BTreeSet::new();
        let names = self.envoy.names.get(&kind).unwrap_or(&none);
        let by_name: BTreeMap<_, _> = visible
            .iter()
            .map(|resource| body(resource))
            .filter(|(name, _)| names.contains(name))
            .collect();
        if !matches!(kind, ResourceKind::Cluster | ResourceKind::Listener) {
            return by_name;
        }
        let tombstones = names
            .iter()
            .filter(|name| self.tombstones.is_some() && is_on_demand(name))
            .map(|name| (name.clone(), TOMBSTONE.to_owned()));
        let by_wildcard = visible
            .iter()
            .filter(|resource| resource.on_demand.is_none() && is_in(self.eager, resource))
            .map(|resource| body(resource));
        let own = self.own_resources();
        let own = own.iter().filter(|resource| resource.kind == kind).map(body);
        tombstones.chain(by_name).chain(by_wildcard).chain(own).collect()
    }

    /// Compares the configuration of Envoy with the expected one, for the names that `compared` selects.
    fn compare(&self, compared: impl Fn(&str) -> bool) {
        let none = BTreeSet::new();
        let rejected: BTreeSet<(ResourceKind, String)> = self
            .stream
            .rejections()
            .map(|r| (r.kind, r.resource.name.to_string()))
            .collect();
        for kind in [
            ResourceKind::Cluster,
            ResourceKind::Listener,
            ResourceKind::Endpoints,
            ResourceKind::Route,
        ] {
            let mut applied = self.envoy.applied(kind);
            let mut expected = self.expected(kind);
            applied.retain(|name, _| compared(name));
            expected.retain(|name, _| compared(name));
            if matches!(kind, ResourceKind::Endpoints | ResourceKind::Route) {
                let names = self.envoy.names.get(&kind).unwrap_or(&none);
                for name in names.iter().filter(|name| !expected.contains_key(*name)) {
                    let is_answered = self.envoy.missing.contains(&(kind, name.clone()));
                    assert!(is_answered, "the subscription to {kind:?} {name} got no response");
                }
            }
            for (name, body) in expected.clone() {
                let bad = body.ends_with('!');
                assert_eq!(
                    bad,
                    rejected.contains(&(kind, name.clone())),
                    "{kind:?} {name} {body}"
                );
                if bad {
                    // Envoy keeps any earlier version.
                    expected.remove(&name);
                    applied.remove(&name);
                }
            }
            assert_eq!(applied, expected, "{kind:?}");
        }
        for name in &self.envoy.warming {
            let bad = rejected.contains(&(ResourceKind::Endpoints, name.clone()));
            assert!(bad, "{name} waits for endpoints");
        }
    }
}

fn spec(sidecars: Sidecars) -> impl Strategy<Value = Spec> {
    let rejected = prop_oneof![4 => Just(0), 1 => 0..16_u8];
    let parts = (
        any::<bool>(),
        0..3_u8,
        prop::option::weighted(0.9, 0..3_u8),
        0..3_u8,
    );
    // A reference to another service breaks if that service is not visible.
    let refers = if sidecars == Sidecars::Eager {
        (0..16_u8).boxed()
    } else {
        Just(0).boxed()
    };
    let on_demand = if sidecars == Sidecars::OnDemand {
        prop::option::weighted(0.8, 0..3_u8).boxed()
    } else {
        Just(None).boxed()
    };
    (parts, refers, prop::option::of(0..2_u8), on_demand, rejected).prop_map(
        |((eds, cluster, endpoints, listener), refers, route, on_demand, rejected)| Spec {
            eds,
            cluster,
            endpoints,
            listener,
            refers,
            route,
            on_demand,
            rejected,
        },
    )
}

fn ops(sidecars: Sidecars, expire: bool) -> impl Strategy<Value = Vec<Op>> {
    let (limited, on_demand) = (sidecars != Sidecars::Eager, sidecars == Sidecars::OnDemand);
    let mask = move |limited: bool| {
        if limited {
            prop_oneof![1 => Just(None), 5 => (0..16_u8).prop_map(Some)].boxed()
        } else {
            Just(None).boxed()
        }
    };
    let name = || {
        let prefix = if on_demand {
            prop_oneof![1 => Just('c'), 3 => Just('d')].boxed()
        } else {
            Just('c').boxed()
        };
        (prefix, 0..SERVICES + 1).prop_map(|(prefix, i)| format!("{prefix}{i}"))
    };
    let publish = (0..SERVICES, prop::option::weighted(0.75, spec(sidecars)));
    let op = prop_oneof![
        60 => publish.prop_map(|(i, spec)| Op::Publish(i, spec)),
        10 => mask(limited).prop_map(Op::Reach),
        if on_demand { 20 } else { 1 } => mask(on_demand).prop_map(Op::Eager),
        10 => (0..4_u8).prop_map(Op::Own),
        60 => (1..4_u8).prop_map(Op::ToClient),
        60 => (1..5_u8).prop_map(Op::ToServer),
        30 => Just(Op::Read),
        10 => Just(Op::Reconnect),
        if on_demand { 40 } else { 10 } => name().prop_map(Op::Subscribe),
        10 => name().prop_map(Op::Unsubscribe),
        if expire { 10 } else { 1 } => Just(if expire { Op::Expire } else { Op::Read }),
    ];
    prop::collection::vec(op, 0..80)
}

fn run(sidecars: Sidecars, ops: Vec<Op>, response_bytes: usize, pending: usize) {
    let limits = Limits {
        response_bytes,
        names: 100,
        pending,
        ..Limits::default()
    };
    let mut simulation = Simulation::new(limits, sidecars);
    for op in ops {
        simulation.step(op);
    }
    simulation.publish_own();
    simulation.settle();
}

fn response_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1 << 20), 1..400_usize]
}

fn pending() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1000), 1..4_usize]
}

proptest! {
    // More cases than by default, because few sequences of operations reveal a wrong order.
    #![proptest_config({
        let default = ProptestConfig::default();
        ProptestConfig { cases: 8 * default.cases, ..default }
    })]

    #[test]
    fn envoy_ends_with_its_expected_configuration(
        ops in ops(Sidecars::Eager, false),
        response_bytes in response_bytes(),
        pending in pending(),
    ) {
        run(Sidecars::Eager, ops, response_bytes, pending);
    }

    #[test]
    fn envoy_with_limited_visibility_ends_with_its_expected_configuration(
        ops in ops(Sidecars::Limited, false),
        response_bytes in response_bytes(),
    ) {
        run(Sidecars::Limited, ops, response_bytes, 1000);
    }

    #[test]
    fn envoy_gets_on_demand_clusters_after_their_prerequisites_and_ends_with_its_expected_configuration(
        ops in ops(Sidecars::OnDemand, false),
        response_bytes in response_bytes(),
        pending in pending(),
    ) {
        run(Sidecars::OnDemand, ops, response_bytes, pending);
    }

    #[test]
    fn envoy_with_expiring_holds_ends_with_its_expected_configuration(
        ops in ops(Sidecars::OnDemand, true),
        response_bytes in response_bytes(),
        pending in pending(),
    ) {
        run(Sidecars::OnDemand, ops, response_bytes, pending);
    }
}

#[test]
fn hold_ends_when_a_rejected_prerequisite_is_no_longer_wanted() {
    let listener_is_rejected = Spec {
        eds: false,
        cluster: 0,
        endpoints: None,
        listener: 0,
        refers: 0,
        route: None,
        on_demand: Some(0),
        rejected: 4,
    };
    let ops = vec![
        Op::Subscribe("d2".into()),
        Op::Reach(None),
        Op::ToServer(1),
        Op::ToClient(1),
        Op::Publish(2, Some(listener_is_rejected)),
        Op::ToServer(2),
        Op::Own(0),
        Op::ToServer(1),
        Op::ToClient(2),
        Op::ToServer(2),
        Op::Eager(Some(8)),
    ];
    run(Sidecars::OnDemand, ops, 1 << 20, 1000);
}
