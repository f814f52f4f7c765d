//! A stream against a client that behaves as Envoy does, under random changes, delays and reconnects.

mod envoy;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kermode_envoy::{Resource, ResourceKind};
use kermode_model::{ObjectKey, ServiceName};
use kermode_protocol::ads::DeltaDiscoveryRequest;
use proptest::prelude::*;

use super::*;
use crate::store::{Profile, Store, Visibility, Watcher};
use envoy::Envoy;

const SERVICES: u8 = 4;

/// One service's resources.
#[derive(Clone, Debug)]
struct Spec {
    eds: bool,
    cluster: u8,
    endpoints: Option<u8>,
    listener: u8,
    /// Bit `i`: the listener refers to the cluster of service `i` as well, while there is one.
    refers: u8,
    route: Option<u8>,
    /// Which of cluster, endpoints, listener Envoy refuses.
    refused: u8,
}

#[derive(Clone, Debug)]
enum Op {
    Publish(u8, Option<Spec>),
    /// Only services of this mask, or all.
    Reach(Option<u8>),
    Own(u8),
    /// The server's messages reach the client, at most so many.
    ToClient(u8),
    /// The client's messages reach the server.
    ToServer(u8),
    /// The server looks at what changed.
    Look,
    Reconnect,
    Ask(u8),
    Unask(u8),
}

struct World {
    store: Arc<Store>,
    desired: BTreeMap<u8, Spec>,
    reach: Option<u8>,
    own: u8,
    limits: Limits,
    stream: Stream,
    watcher: Watcher,
    envoy: Envoy,
    to_client: VecDeque<Response>,
    to_server: VecDeque<DeltaDiscoveryRequest>,
    /// Nonces the server waits for, by kind.
    unanswered: HashMap<ResourceKind, String>,
    /// Versions sent on this stream that nothing has made stale.
    sent: HashMap<(ResourceKind, String), String>,
    /// What the server remembered as refused after its last step.
    refused: HashSet<(ResourceKind, String)>,
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

impl World {
    fn new(limits: Limits) -> Self {
        // A short log, so that streams fall out of it.
        let store = Arc::new(Store::with_log_capacity(6));
        let watcher = store.watch(&proxy());
        let mut world = Self {
            store,
            desired: BTreeMap::new(),
            reach: None,
            own: 0,
            limits,
            stream: Stream::new(limits),
            watcher,
            envoy: Envoy::default(),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            unanswered: HashMap::new(),
            sent: HashMap::new(),
            refused: HashSet::new(),
        };
        world.to_server = world.envoy.connect().into();
        world
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
            Op::Own(content) => {
                self.own = content;
                self.publish_own();
            }
            Op::ToClient(count) => (0..count).for_each(|_| self.deliver_to_client()),
            Op::ToServer(count) => (0..count).for_each(|_| self.deliver_to_server()),
            Op::Look => self.look(),
            Op::Reconnect => self.reconnect(),
            Op::Ask(i) => {
                let requests = self.envoy.ask(&format!("c{i}"));
                self.to_server.extend(requests);
            }
            Op::Unask(i) => {
                let requests = self.envoy.unask(&format!("c{i}"));
                self.to_server.extend(requests);
            }
        }
    }

    fn publish(&mut self) {
        let mut all = Vec::new();
        // What is gone and comes back is sent again.
        let (desired, reach) = (&self.desired, self.reach);
        self.sent.retain(|(_, name), _| {
            let i = name
                .bytes()
                .last()
                .map(|digit| digit.wrapping_sub(b'0'))
                .filter(|i| *i < SERVICES);
            i.is_none_or(|i| desired.contains_key(&i) && reach.is_none_or(|mask| mask & (1 << i) != 0))
        });
        for (i, spec) in &self.desired {
            let bad = |bit: u8| if spec.refused & bit == 0 { "" } else { "!" };
            let cluster = format!(
                "{}:{}{}",
                if spec.eds { "eds" } else { "static" },
                spec.cluster,
                bad(1)
            );
            all.push(resource(
                ResourceKind::Cluster,
                &format!("c{i}"),
                &cluster,
                Some(*i),
            ));
            if let Some(endpoints) = spec.endpoints.filter(|_| spec.eds) {
                let body = format!("{endpoints}{}", bad(2));
                all.push(resource(
                    ResourceKind::Endpoints,
                    &format!("c{i}"),
                    &body,
                    Some(*i),
                ));
            }
            let refers = self
                .desired
                .keys()
                .filter(|j| *j == i || spec.refers & (1 << **j) != 0);
            let refers: Vec<String> = refers.map(|j| format!("c{j}")).collect();
            let route = if spec.route.is_some() {
                format!("/r{i}")
            } else {
                String::new()
            };
            let body = format!("{}{route}:{}{}", refers.join(","), spec.listener, bad(4));
            all.push(resource(
                ResourceKind::Listener,
                &format!("l{i}"),
                &body,
                Some(*i),
            ));
            if let Some(content) = spec.route {
                all.push(resource(
                    ResourceKind::Route,
                    &format!("r{i}"),
                    &content.to_string(),
                    Some(*i),
                ));
            }
        }
        self.store.replace_mesh(&"default".into(), all);
    }

    fn publish_own(&mut self) {
        let visibility = self.reach.map_or(Visibility::All, |mask| {
            Visibility::Only(
                (0..SERVICES)
                    .filter(|i| mask & (1 << i) != 0)
                    .map(service)
                    .collect(),
            )
        });
        let profile = Profile {
            visibility,
            ..Profile::new("default".into())
        };
        let cluster = format!("own{}", self.own % 2);
        let own = vec![
            resource(ResourceKind::Cluster, &cluster, "static:0", None),
            resource(
                ResourceKind::Listener,
                "inbound",
                &format!("{cluster}:{}", self.own),
                None,
            ),
        ];
        self.store.replace_proxy(&proxy(), profile, own);
    }

    fn look(&mut self) {
        let stream = &mut self.stream;
        let output = self
            .watcher
            .read(|view, changes| stream.on_change(changes, view.as_ref()));
        self.take(output);
    }

    fn deliver_to_server(&mut self) {
        let Some(request) = self.to_server.pop_front() else {
            return;
        };
        let kind = ResourceKind::from_type_url(&request.type_url).unwrap();
        if self.unanswered.get(&kind) == Some(&request.response_nonce) {
            self.unanswered.remove(&kind);
        }
        self.look();
        for name in request
            .resource_names_subscribe
            .iter()
            .chain(&request.resource_names_unsubscribe)
        {
            self.sent.remove(&(kind, name.clone()));
        }
        let stream = &mut self.stream;
        let output = self
            .watcher
            .read(|view, _| stream.on_request(request, view.as_ref()))
            .unwrap();
        self.take(output);
    }

    fn take(&mut self, output: Output) {
        for event in output.events {
            if let Event::Rejected { kind, resources, .. } = event {
                for resource in resources {
                    let key = (kind, resource.name.to_string());
                    let alone = self
                        .stream
                        .rejections()
                        .any(|rejection| rejection.resource == resource);
                    // Those that were refused together with others may be tried once more.
                    if !alone {
                        self.sent.remove(&key);
                    }
                }
            }
        }
        // A refused version that was replaced by what the client has, and then came back, may be tried once more.
        let refused = self.stream.rejections();
        let refused: HashSet<_> = refused.map(|r| (r.kind, r.resource.name.to_string())).collect();
        for healed in self.refused.difference(&refused) {
            self.sent.remove(healed);
        }
        self.refused = refused;
        for response in output.responses {
            self.check_response(&response);
            self.to_client.push_back(response);
        }
    }

    fn check_response(&mut self, response: &Response) {
        let kind = response.kind.unwrap();
        let before = self.unanswered.insert(kind, response.message.nonce.clone());
        assert_eq!(before, None, "two responses of {kind:?} in flight");
        for (name, version, _) in response.message.resources.iter().map(envoy::read) {
            let before = self.sent.insert((kind, name.clone()), version.clone());
            assert_ne!(before, Some(version), "{kind:?} {name} was sent twice");
            if kind == ResourceKind::Cluster {
                self.sent.remove(&(ResourceKind::Endpoints, name));
            }
        }
        for name in &response.message.removed_resources {
            self.sent.remove(&(kind, name.clone()));
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
        self.unanswered.clear();
        self.sent.clear();
        self.refused.clear();
        // Its own timeout ends the warming of a cluster whose endpoints were lost with the stream.
        self.envoy.warming.clear();
        self.to_server = self.envoy.connect().into();
    }

    /// Delivers everything and compares what the client has with what it should have.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 500, "no end of messages: {:?}", self.stream);
            self.look();
            if self.to_client.is_empty() && self.to_server.is_empty() {
                break;
            }
            self.deliver_to_client();
            self.deliver_to_server();
        }
        assert!(self.stream.is_settled(), "{:?}", self.stream);
        let mut expected: HashMap<ResourceKind, BTreeMap<String, String>> = HashMap::new();
        self.watcher.read(|view, _| {
            let view = view.unwrap();
            for kind in ResourceKind::ALL {
                let bodies = view.wildcard(kind).map(|entry| {
                    let (name, _, body) = envoy::read(&entry.encoded);
                    (name, body)
                });
                expected.insert(kind, bodies.collect());
            }
        });
        self.compare(&expected);
    }

    fn compare(&self, expected: &HashMap<ResourceKind, BTreeMap<String, String>>) {
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
            let mut wanted = expected[&kind].clone();
            if matches!(kind, ResourceKind::Endpoints | ResourceKind::Route) {
                let names = self.envoy.names.get(&kind).unwrap_or(&none);
                for name in names.iter().filter(|name| !wanted.contains_key(*name)) {
                    let told = self.envoy.missing.contains(&(kind, name.clone()));
                    assert!(told, "{kind:?} {name} was never answered");
                }
                wanted.retain(|name, _| names.contains(name));
            }
            for (name, body) in wanted.clone() {
                let bad = body.ends_with('!');
                assert_eq!(
                    bad,
                    rejected.contains(&(kind, name.clone())),
                    "{kind:?} {name} {body}"
                );
                if bad {
                    // Whatever it had before.
                    wanted.remove(&name);
                    applied.remove(&name);
                }
            }
            assert_eq!(applied, wanted, "{kind:?}");
        }
        for name in &self.envoy.warming {
            let bad = rejected.contains(&(ResourceKind::Endpoints, name.clone()));
            assert!(bad, "{name} waits for endpoints");
        }
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    let refused = prop_oneof![4 => Just(0), 1 => 0..8_u8];
    let parts = (
        any::<bool>(),
        0..3_u8,
        prop::option::weighted(0.9, 0..3_u8),
        0..3_u8,
    );
    (parts, 0..16_u8, prop::option::of(0..2_u8), refused).prop_map(
        |((eds, cluster, endpoints, listener), refers, route, refused)| Spec {
            eds,
            cluster,
            endpoints,
            listener,
            refers,
            route,
            refused,
        },
    )
}

/// References to other services and limited reach exclude each other: the one would break the other.
fn ops(limited: bool) -> impl Strategy<Value = Vec<Op>> {
    let reach = if limited {
        prop::option::of(0..16_u8).boxed()
    } else {
        Just(None).boxed()
    };
    let publish = (0..SERVICES, prop::option::weighted(0.75, spec())).prop_map(move |(i, spec)| {
        let refers = |spec: Spec| if limited { 0 } else { spec.refers };
        Op::Publish(
            i,
            spec.map(|spec| Spec {
                refers: refers(spec.clone()),
                ..spec
            }),
        )
    });
    let op = prop_oneof![
        6 => publish,
        1 => reach.prop_map(Op::Reach),
        1 => (0..4_u8).prop_map(Op::Own),
        6 => (1..4_u8).prop_map(Op::ToClient),
        6 => (1..5_u8).prop_map(Op::ToServer),
        3 => Just(Op::Look),
        1 => Just(Op::Reconnect),
        1 => (0..SERVICES + 1).prop_map(Op::Ask),
        1 => (0..SERVICES + 1).prop_map(Op::Unask),
    ];
    prop::collection::vec(op, 0..80)
}

fn run(ops: Vec<Op>, response_bytes: usize, pending: usize) {
    let mut world = World::new(Limits {
        response_bytes,
        names: 100,
        pending,
        ..Limits::default()
    });
    for op in ops {
        world.step(op);
    }
    world.publish_own();
    world.settle();
}

proptest! {
    // Orders that go wrong are rare.
    #![proptest_config({
        let default = ProptestConfig::default();
        ProptestConfig { cases: 8 * default.cases, ..default }
    })]

    #[test]
    fn a_client_like_envoy_ends_with_what_it_should_see(
        ops in ops(false),
        response_bytes in prop_oneof![Just(1 << 20), 1..400_usize],
        pending in prop_oneof![Just(1000), 1..4_usize],
    ) {
        run(ops, response_bytes, pending);
    }

    #[test]
    fn a_client_with_limited_reach_ends_with_what_it_should_see(
        ops in ops(true),
        response_bytes in prop_oneof![Just(1 << 20), 1..400_usize],
    ) {
        run(ops, response_bytes, 1000);
    }
}
