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

/// Number of services in the mesh.
const SERVICES: u8 = 4;

/// Version and body of every tombstone.
const TOMBSTONE: &str = "static:none";

// Bits of `ServiceSpec::invalid`.
const INVALID_CLUSTER: u8 = 1;
const INVALID_ENDPOINTS: u8 = 2;
const INVALID_LISTENER: u8 = 4;
const INVALID_ON_DEMAND: u8 = 8;

/// Resources of service `i`: cluster and endpoints `c<i>`, listener `l<i>`, route `r<i>`, on-demand cluster `d<i>`.
///
/// Each field that is named like a resource contains the revision in the resource's body (see [`envoy`]). A resource
/// without a revision does not exist.
#[derive(Clone, Debug)]
struct ServiceSpec {
    /// Whether the cluster is of type EDS. Only such a cluster has endpoints.
    is_eds: bool,
    cluster: u8,
    endpoints: Option<u8>,
    listener: u8,
    /// Mask of the services to whose clusters the listener refers, if they exist. The listener always refers to
    /// the service's own cluster.
    references: u8,
    route: Option<u8>,
    /// The on-demand cluster waits for the cluster, endpoints and listener of the service.
    on_demand: Option<u8>,
    /// Mask of the resources that Envoy rejects, with the bits `INVALID_*`.
    invalid: u8,
}

/// A step of a simulation. A mask has bit `i` for service `i`; `None` in place of a mask stands for all services.
#[derive(Clone, Debug)]
enum Op {
    /// Publishes the service with this number, or removes it if there is no spec.
    Publish(u8, Option<ServiceSpec>),
    /// Makes the services of this mask visible.
    SetVisible(Option<u8>),
    /// Makes a wildcard subscription include the visible services of this mask.
    SetWildcard(Option<u8>),
    /// Publishes the own resources of the proxy. Their names and bodies depend on this number.
    PublishOwn(u8),
    /// Delivers at most this number of responses to Envoy.
    DeliverToEnvoy(u8),
    /// Delivers at most this number of requests to the stream.
    DeliverToStream(u8),
    /// The stream reads the changes of its view.
    ReadChanges,
    /// Envoy opens a new stream; messages on their way are lost.
    Reconnect,
    /// Envoy subscribes to a cluster by name.
    Subscribe(String),
    /// Envoy unsubscribes from a cluster.
    Unsubscribe(String),
    /// The deadline of every hold passes.
    ExpireHolds,
}

/// Kind of the profiles that the proxy has in a simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Profiles {
    /// All services are visible, and a wildcard subscription includes them. A listener may refer to clusters of several
    /// services.
    AllVisible,
    /// Some services are visible. A wildcard subscription includes all of them.
    Limited,
    /// Some services are visible. A wildcard subscription includes some of them. There are tombstones.
    OnDemand,
}

/// A stream, the model of Envoy, and the messages between them.
struct Simulation {
    store: Arc<Store>,
    /// Published services, by number.
    specs: BTreeMap<u8, ServiceSpec>,
    /// Shared resources of the published services.
    published: Vec<Resource>,
    /// Mask of the visible services.
    visible: Option<u8>,
    /// Mask of the services that a wildcard subscription includes if they are visible.
    wildcard: Option<u8>,
    tombstones: Option<Tombstones>,
    /// Number on which the own resources depend.
    own_content: u8,
    limits: Limits,
    stream: Stream,
    watcher: Watcher,
    now: Instant,
    envoy: Envoy,
    /// Responses that Envoy has not received yet.
    to_envoy: VecDeque<Response>,
    /// Requests that the stream has not received yet.
    to_stream: VecDeque<DeltaDiscoveryRequest>,
    /// Nonces of the responses in flight, by kind, with the number of their resources and removals.
    in_flight: HashMap<ResourceKind, (String, usize)>,
    /// Number of resources and removals of the response that the last ACK or NACK of any kind answered.
    last_response_size: usize,
    /// Version of each resource that was sent on this stream. The stream must not send this version again. An entry is
    /// removed once the stream may send the version again.
    sent: HashMap<(ResourceKind, String), String>,
    /// Resources that the stream listed as rejected after its last step.
    rejected: HashSet<(ResourceKind, String)>,
    /// Clusters that Envoy has subscribed to by name, in requests that the stream has received.
    subscribed_clusters: HashSet<String>,
    /// Resources that Envoy has ACKed or NACKed on this stream, or reported in its first requests. An on-demand
    /// resource may be sent once all resources that it waits for are in this set.
    acked_or_nacked: HashSet<(ResourceKind, String)>,
    /// Whether a hold has expired, so that an on-demand resource may be sent before the resources that it waits for.
    has_expired_hold: bool,
}

/// Returns the kind and name of a rejected resource.
fn rejected_key(rejection: &Rejection) -> (ResourceKind, String) {
    (rejection.kind, rejection.resource.name.to_string())
}

fn proxy() -> ObjectKey {
    ObjectKey::new("shop", "web-0")
}

fn service(i: u8) -> ServiceName {
    ServiceName::new(format!("s{i}"))
}

fn resource(kind: ResourceKind, name: &str, body: &str, service_number: Option<u8>) -> Resource {
    Resource {
        kind,
        name: name.into(),
        version: body.into(),
        body: body.to_owned().into(),
        service: service_number.map(service),
        on_demand: None,
    }
}

fn is_on_demand(name: &str) -> bool {
    name.starts_with('d')
}

/// Returns whether a mask contains a service. `None` contains all services.
fn contains(mask: Option<u8>, i: u8) -> bool {
    mask.is_none_or(|mask| mask & (1 << i) != 0)
}

fn selection(mask: Option<u8>) -> ServiceSelection {
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
    let has_tombstone = kind == ResourceKind::Cluster && is_on_demand(name);
    has_tombstone.then(|| resource(kind, name, TOMBSTONE, None))
}

impl ServiceSpec {
    /// Returns the resources of this service, which has the number `i` in `specs`.
    fn resources(&self, i: u8, specs: &BTreeMap<u8, ServiceSpec>) -> Vec<Resource> {
        let suffix = |bit: u8| if self.invalid & bit == 0 { "" } else { "!" };
        let cluster_type = if self.is_eds { "eds" } else { "static" };
        let cluster = format!("{cluster_type}:{}{}", self.cluster, suffix(INVALID_CLUSTER));
        let name = format!("c{i}");
        let mut all = vec![resource(ResourceKind::Cluster, &name, &cluster, Some(i))];
        if let Some(endpoints) = self.endpoints.filter(|_| self.is_eds) {
            let body = format!("{endpoints}{}", suffix(INVALID_ENDPOINTS));
            all.push(resource(ResourceKind::Endpoints, &name, &body, Some(i)));
        }
        let referenced = specs
            .keys()
            .filter(|other| **other == i || contains(Some(self.references), **other));
        let clusters: Vec<String> = referenced.map(|other| format!("c{other}")).collect();
        let route = self.route.map(|_| format!("/r{i}")).unwrap_or_default();
        let body = format!(
            "{}{route}:{}{}",
            clusters.join(","),
            self.listener,
            suffix(INVALID_LISTENER)
        );
        all.push(resource(ResourceKind::Listener, &format!("l{i}"), &body, Some(i)));
        if let Some(revision) = self.on_demand {
            let after = all.iter().map(|resource| (resource.kind, resource.name.clone()));
            let on_demand = OnDemand {
                after: after.collect(),
            };
            let body = format!("static:{revision}{}", suffix(INVALID_ON_DEMAND));
            all.push(Resource {
                on_demand: Some(Box::new(on_demand)),
                ..resource(ResourceKind::Cluster, &format!("d{i}"), &body, Some(i))
            });
        }
        if let Some(revision) = self.route {
            all.push(resource(
                ResourceKind::Route,
                &format!("r{i}"),
                &revision.to_string(),
                Some(i),
            ));
        }
        all
    }
}

impl Simulation {
    fn new(limits: Limits, profiles: Profiles) -> Self {
        // The log is short, so that the watcher sometimes falls behind the log.
        let store = Arc::new(Store::with_log_capacity(6));
        let watcher = store.watch(&proxy());
        let tombstones = (profiles == Profiles::OnDemand).then(|| Tombstones::new(tombstone));
        let mut simulation = Self {
            store,
            specs: BTreeMap::new(),
            published: Vec::new(),
            visible: None,
            wildcard: None,
            tombstones,
            own_content: 0,
            limits,
            stream: Stream::new(limits),
            watcher,
            now: Instant::now(),
            envoy: Envoy::default(),
            to_envoy: VecDeque::new(),
            to_stream: VecDeque::new(),
            in_flight: HashMap::new(),
            last_response_size: 0,
            sent: HashMap::new(),
            rejected: HashSet::new(),
            subscribed_clusters: HashSet::new(),
            acked_or_nacked: HashSet::new(),
            has_expired_hold: false,
        };
        simulation.to_stream = simulation.envoy.connect().into();
        simulation
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish(i, spec) => {
                match spec {
                    Some(spec) => self.specs.insert(i, spec),
                    None => self.specs.remove(&i),
                };
                self.publish();
            }
            Op::SetVisible(mask) => {
                self.visible = mask;
                self.publish_own();
            }
            Op::SetWildcard(mask) => {
                self.wildcard = mask;
                self.publish_own();
            }
            Op::PublishOwn(content) => {
                self.own_content = content;
                self.publish_own();
            }
            Op::DeliverToEnvoy(count) => (0..count).for_each(|_| self.deliver_to_envoy()),
            Op::DeliverToStream(count) => (0..count).for_each(|_| self.deliver_to_stream()),
            Op::ReadChanges => self.read_changes(),
            Op::Reconnect => self.reconnect(),
            Op::Subscribe(name) => {
                let requests = self.envoy.subscribe_cluster(&name);
                self.to_stream.extend(requests);
            }
            Op::Unsubscribe(name) => {
                let requests = self.envoy.unsubscribe_cluster(&name);
                self.to_stream.extend(requests);
            }
            Op::ExpireHolds => {
                self.expire_holds();
            }
        }
    }

    /// Publishes the shared resources of `specs`.
    fn publish(&mut self) {
        // A resource that is removed and created again is sent again, so `sent` loses the resources of a service that
        // is not published or not visible. The last byte of a name is the digit of its service. The names of own
        // clusters also end with a digit, so `sent` loses an own cluster with the service of the same digit.
        let (specs, visible) = (&self.specs, self.visible);
        self.sent.retain(|(_, name), _| {
            let i = name
                .bytes()
                .last()
                .map(|digit| digit.wrapping_sub(b'0'))
                .filter(|i| *i < SERVICES);
            i.is_none_or(|i| specs.contains_key(&i) && contains(visible, i))
        });
        let resources = self.specs.iter().flat_map(|(i, spec)| spec.resources(*i, specs));
        self.published = resources.collect();
        self.store.replace_mesh(&"default".into(), self.published.clone());
    }

    fn own_resources(&self) -> Vec<Resource> {
        let cluster = format!("own{}", self.own_content % 2);
        let listener = format!("{cluster}:{}", self.own_content);
        vec![
            resource(ResourceKind::Cluster, &cluster, "static:0", None),
            resource(ResourceKind::Listener, "inbound", &listener, None),
        ]
    }

    /// Publishes the profile and the own resources of the proxy.
    fn publish_own(&mut self) {
        let profile = Profile {
            visibility: selection(self.visible),
            wildcard: selection(self.wildcard),
            tombstones: self.tombstones.clone(),
            ..Profile::new("default".into())
        };
        self.store.replace_proxy(&proxy(), profile, self.own_resources());
    }

    /// Passes the changes of the view to the stream.
    fn read_changes(&mut self) {
        let stream = &mut self.stream;
        let output = self
            .watcher
            .read(|view, changes| stream.on_change(changes, view.as_ref()));
        self.handle(output);
    }

    /// Lets the deadline of every hold pass. Returns whether there was a hold.
    fn expire_holds(&mut self) -> bool {
        self.read_changes();
        let Some(deadline) = self.stream.next_deadline(self.now) else {
            return false;
        };
        assert!(deadline <= self.now + self.limits.hold);
        self.now += self.limits.hold;
        self.has_expired_hold = true;
        let (stream, now) = (&mut self.stream, self.now);
        let output = self
            .watcher
            .read(|view, _| stream.on_deadline(now, view.as_ref()));
        self.handle(output);
        assert_eq!(
            self.stream.next_deadline(self.now),
            None,
            "no hold may outlast its deadline"
        );
        true
    }

    fn deliver_to_stream(&mut self) {
        let Some(request) = self.to_stream.pop_front() else {
            return;
        };
        let kind = ResourceKind::from_type_url(&request.type_url).unwrap();
        if let Some((nonce, count)) = self.in_flight.get(&kind)
            && *nonce == request.response_nonce
        {
            self.last_response_size = *count;
            self.in_flight.remove(&kind);
        }
        self.read_changes();
        for name in &request.resource_names_unsubscribe {
            self.sent.remove(&(kind, name.clone()));
            // The wildcard subscription still includes the clusters that other resources wait for.
            if kind != ResourceKind::Cluster {
                self.acked_or_nacked.remove(&(kind, name.clone()));
            }
            self.subscribed_clusters.remove(name);
        }
        for name in &request.resource_names_subscribe {
            self.sent.remove(&(kind, name.clone()));
            if kind == ResourceKind::Cluster {
                self.subscribed_clusters.insert(name.clone());
            }
        }
        let reported = request.initial_resource_versions.keys();
        self.acked_or_nacked
            .extend(reported.map(|name| (kind, name.clone())));
        let stream = &mut self.stream;
        let output = self
            .watcher
            .read(|view, _| stream.on_request(request, view.as_ref()))
            .unwrap();
        self.handle(output);
    }

    /// Records the events of a step of the stream. Checks the responses and puts them on their way to Envoy.
    fn handle(&mut self, output: Output) {
        let rejected = self.stream.rejections();
        let rejected: HashSet<_> = rejected.map(rejected_key).collect();
        for event in output.events {
            match event {
                Event::Acknowledged { kind, resources, .. } => {
                    let names = resources.iter().map(|resource| (kind, resource.name.to_string()));
                    self.acked_or_nacked.extend(names);
                }
                Event::NamesIgnored { .. } => panic!("the limit of names is not reached"),
                Event::Rejected { kind, resources, .. } => {
                    for resource in resources {
                        let key = (kind, resource.name.to_string());
                        // A resource that was rejected alone is not sent again, so no resource waits for it. The stream
                        // does not list the rejection of a resource that the profile no longer selects. Then only the
                        // size of the response shows that the resource was rejected alone.
                        if self.last_response_size == 1 || rejected.contains(&key) {
                            self.acked_or_nacked.insert(key.clone());
                        } else {
                            self.acked_or_nacked.remove(&key);
                        }
                        let is_isolated = self
                            .stream
                            .rejections()
                            .any(|rejection| rejection.resource == resource);
                        // A resource that was rejected together with others may be sent once more.
                        if !is_isolated {
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
            self.to_envoy.push_back(response);
        }
    }

    fn check_response(&mut self, response: &Response) {
        let kind = response.kind.unwrap();
        let count = response.message.resources.len() + response.message.removed_resources.len();
        let before = self
            .in_flight
            .insert(kind, (response.message.nonce.clone(), count));
        assert_eq!(before, None, "two responses of {kind:?} in flight");
        for (name, version, _) in response.message.resources.iter().map(envoy::decode) {
            let before = self.sent.insert((kind, name.clone()), version.clone());
            assert_ne!(before.as_ref(), Some(&version), "{kind:?} {name} was sent twice");
            if kind == ResourceKind::Cluster {
                // Endpoints are sent again after every version of their cluster.
                self.sent.remove(&(ResourceKind::Endpoints, name.clone()));
            }
            if is_on_demand(&name) {
                self.check_on_demand(&name, &version);
            }
        }
        for name in &response.message.removed_resources {
            self.sent.remove(&(kind, name.clone()));
            self.acked_or_nacked.remove(&(kind, name.clone()));
            let needs_tombstone = is_on_demand(name) && self.subscribed_clusters.contains(name);
            assert!(
                !needs_tombstone,
                "{name} was removed without a tombstone: Envoy will never request it again"
            );
        }
    }

    /// Checks that Envoy has subscribed to an on-demand cluster by name before the cluster is sent, and that Envoy has
    /// ACKed or NACKed the resources that the cluster waits for.
    fn check_on_demand(&self, name: &str, version: &str) {
        assert!(
            self.subscribed_clusters.contains(name),
            "{name} was sent without a subscription"
        );
        if version == TOMBSTONE || self.has_expired_hold {
            return;
        }
        let mut published = self.published.iter();
        let resource = published
            .find(|resource| &*resource.name == name)
            .expect("a published resource");
        for (kind, other) in resource.on_demand.iter().flat_map(|on_demand| &on_demand.after) {
            assert!(
                self.acked_or_nacked.contains(&(*kind, other.to_string())),
                "{name} was sent before the ACK or NACK of {kind:?} {other}"
            );
        }
    }

    fn deliver_to_envoy(&mut self) {
        let Some(response) = self.to_envoy.pop_front() else {
            return;
        };
        let requests = self.envoy.receive(&response.message);
        self.to_stream.extend(requests);
    }

    fn reconnect(&mut self) {
        self.stream = Stream::new(self.limits);
        self.watcher = self.store.watch(&proxy());
        self.to_envoy.clear();
        self.in_flight.clear();
        self.sent.clear();
        self.rejected.clear();
        self.subscribed_clusters.clear();
        self.acked_or_nacked.clear();
        // In Envoy, a timeout ends the warming of a cluster whose endpoints were lost with the stream.
        self.envoy.warming.clear();
        self.to_stream = self.envoy.connect().into();
    }

    fn deliver_everything(&mut self) {
        for round in 0.. {
            assert!(
                round < 500,
                "the exchange of messages must end: {:?}",
                self.stream
            );
            self.read_changes();
            if self.to_envoy.is_empty() && self.to_stream.is_empty() {
                break;
            }
            self.deliver_to_envoy();
            self.deliver_to_stream();
        }
    }

    /// Delivers all messages and compares the configuration of Envoy with the expected configuration. If holds remain,
    /// compares again after their deadline.
    fn deliver_and_compare(&mut self) {
        self.deliver_everything();
        if self.stream.next_deadline(self.now).is_some() {
            // On-demand resources may be held.
            self.compare(|name| !is_on_demand(name));
            assert!(self.expire_holds());
            self.deliver_everything();
        }
        assert!(self.stream.is_settled(), "{:?}", self.stream);
        self.compare(|_| true);
    }

    /// Returns the resources of one kind that Envoy should have, as names and bodies.
    fn expected(&self, kind: ResourceKind) -> BTreeMap<String, String> {
        let name_and_body = |resource: &Resource| {
            let body = String::from_utf8(resource.body.to_vec()).unwrap();
            (resource.name.to_string(), body)
        };
        let is_in = |mask: Option<u8>, resource: &Resource| {
            (0..SERVICES).any(|i| resource.service == Some(service(i)) && contains(mask, i))
        };
        let visible: Vec<&Resource> = self
            .published
            .iter()
            .filter(|resource| resource.kind == kind && is_in(self.visible, resource))
            .collect();
        let none = BTreeSet::new();
        let names = self.envoy.subscribed.get(&kind).unwrap_or(&none);
        let by_name: BTreeMap<_, _> = visible
            .iter()
            .map(|resource| name_and_body(resource))
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
            .filter(|resource| resource.on_demand.is_none() && is_in(self.wildcard, resource))
            .map(|resource| name_and_body(resource));
        let own = self.own_resources();
        let own = own
            .iter()
            .filter(|resource| resource.kind == kind)
            .map(name_and_body);
        // For a name that occurs several times, the last body counts.
        tombstones.chain(by_name).chain(by_wildcard).chain(own).collect()
    }

    /// Compares the configuration of Envoy with the expected configuration, for the names that `is_compared` selects.
    fn compare(&self, is_compared: impl Fn(&str) -> bool) {
        let none = BTreeSet::new();
        let rejected: BTreeSet<(ResourceKind, String)> = self.stream.rejections().map(rejected_key).collect();
        for kind in [
            ResourceKind::Cluster,
            ResourceKind::Listener,
            ResourceKind::Endpoints,
            ResourceKind::Route,
        ] {
            let mut applied = self.envoy.applied(kind);
            let mut expected = self.expected(kind);
            applied.retain(|name, _| is_compared(name));
            expected.retain(|name, _| is_compared(name));
            if matches!(kind, ResourceKind::Endpoints | ResourceKind::Route) {
                let names = self.envoy.subscribed.get(&kind).unwrap_or(&none);
                for name in names.iter().filter(|name| !expected.contains_key(*name)) {
                    let has_response = self.envoy.missing.contains(&(kind, name.clone()));
                    assert!(
                        has_response,
                        "the subscription to {kind:?} {name} got no response"
                    );
                }
            }
            for (name, body) in expected.clone() {
                let is_invalid = body.ends_with('!');
                assert_eq!(
                    is_invalid,
                    rejected.contains(&(kind, name.clone())),
                    "{kind:?} {name} {body}"
                );
                if is_invalid {
                    // Envoy keeps any earlier version.
                    expected.remove(&name);
                    applied.remove(&name);
                }
            }
            assert_eq!(applied, expected, "{kind:?}");
        }
        for name in &self.envoy.warming {
            let are_endpoints_rejected = rejected.contains(&(ResourceKind::Endpoints, name.clone()));
            assert!(are_endpoints_rejected, "cluster {name} still waits for endpoints");
        }
    }
}

fn service_spec(profiles: Profiles) -> impl Strategy<Value = ServiceSpec> {
    let invalid = prop_oneof![4 => Just(0), 1 => 0..16_u8];
    let cluster_and_listener = (
        any::<bool>(),
        0..3_u8,
        prop::option::weighted(0.9, 0..3_u8),
        0..3_u8,
    );
    // Listeners refer to other services only if all services are visible. Otherwise, Envoy might not get the clusters
    // of these services.
    let references = if profiles == Profiles::AllVisible {
        (0..16_u8).boxed()
    } else {
        Just(0).boxed()
    };
    let on_demand = if profiles == Profiles::OnDemand {
        prop::option::weighted(0.8, 0..3_u8).boxed()
    } else {
        Just(None).boxed()
    };
    let route = prop::option::of(0..2_u8);
    (cluster_and_listener, references, route, on_demand, invalid).prop_map(
        |((is_eds, cluster, endpoints, listener), references, route, on_demand, invalid)| ServiceSpec {
            is_eds,
            cluster,
            endpoints,
            listener,
            references,
            route,
            on_demand,
            invalid,
        },
    )
}

/// Returns random steps. Holds expire during these steps only if `expires_holds` is true.
fn ops(profiles: Profiles, expires_holds: bool) -> impl Strategy<Value = Vec<Op>> {
    let (is_limited, is_on_demand) = (profiles != Profiles::AllVisible, profiles == Profiles::OnDemand);
    let mask = |is_random: bool| {
        if is_random {
            prop_oneof![1 => Just(None), 5 => (0..16_u8).prop_map(Some)].boxed()
        } else {
            Just(None).boxed()
        }
    };
    let name = || {
        let prefix = if is_on_demand {
            prop_oneof![1 => Just('c'), 3 => Just('d')].boxed()
        } else {
            Just('c').boxed()
        };
        // The highest number belongs to no service.
        (prefix, 0..SERVICES + 1).prop_map(|(prefix, i)| format!("{prefix}{i}"))
    };
    let publish = (0..SERVICES, prop::option::weighted(0.75, service_spec(profiles)));
    let op = prop_oneof![
        60 => publish.prop_map(|(i, spec)| Op::Publish(i, spec)),
        10 => mask(is_limited).prop_map(Op::SetVisible),
        if is_on_demand { 20 } else { 1 } => mask(is_on_demand).prop_map(Op::SetWildcard),
        10 => (0..4_u8).prop_map(Op::PublishOwn),
        60 => (1..4_u8).prop_map(Op::DeliverToEnvoy),
        60 => (1..5_u8).prop_map(Op::DeliverToStream),
        30 => Just(Op::ReadChanges),
        10 => Just(Op::Reconnect),
        if is_on_demand { 40 } else { 10 } => name().prop_map(Op::Subscribe),
        10 => name().prop_map(Op::Unsubscribe),
        if expires_holds { 10 } else { 1 } => Just(if expires_holds { Op::ExpireHolds } else { Op::ReadChanges }),
    ];
    prop::collection::vec(op, 0..80)
}

/// Applies the steps, then delivers all messages and checks Envoy's configuration.
fn run(profiles: Profiles, ops: Vec<Op>, response_bytes: usize, pending: usize) {
    let limits = Limits {
        response_bytes,
        names: 100,
        pending,
        ..Limits::default()
    };
    let mut simulation = Simulation::new(limits, profiles);
    for op in ops {
        simulation.apply(op);
    }
    simulation.publish_own();
    simulation.deliver_and_compare();
}

/// Values of [`Limits::response_bytes`].
fn response_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1 << 20), 1..400_usize]
}

/// Values of [`Limits::pending`].
fn pending() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1000), 1..4_usize]
}

proptest! {
    // More cases than by default, because few sequences of steps reveal a wrong order.
    #![proptest_config({
        let default = ProptestConfig::default();
        ProptestConfig { cases: 8 * default.cases, ..default }
    })]

    #[test]
    fn envoy_ends_with_its_expected_configuration(
        ops in ops(Profiles::AllVisible, false),
        response_bytes in response_bytes(),
        pending in pending(),
    ) {
        run(Profiles::AllVisible, ops, response_bytes, pending);
    }

    #[test]
    fn envoy_with_limited_visibility_ends_with_its_expected_configuration(
        ops in ops(Profiles::Limited, false),
        response_bytes in response_bytes(),
    ) {
        run(Profiles::Limited, ops, response_bytes, 1000);
    }

    #[test]
    fn envoy_with_on_demand_clusters_ends_with_its_expected_configuration(
        ops in ops(Profiles::OnDemand, false),
        response_bytes in response_bytes(),
        pending in pending(),
    ) {
        run(Profiles::OnDemand, ops, response_bytes, pending);
    }

    #[test]
    fn envoy_with_expiring_holds_ends_with_its_expected_configuration(
        ops in ops(Profiles::OnDemand, true),
        response_bytes in response_bytes(),
        pending in pending(),
    ) {
        run(Profiles::OnDemand, ops, response_bytes, pending);
    }
}

#[test]
fn hold_ends_when_the_profile_no_longer_selects_the_rejected_awaited_resource() {
    let invalid_listener = ServiceSpec {
        is_eds: false,
        cluster: 0,
        endpoints: None,
        listener: 0,
        references: 0,
        route: None,
        on_demand: Some(0),
        invalid: INVALID_LISTENER,
    };
    let ops = vec![
        Op::Subscribe("d2".into()),
        Op::SetVisible(None),
        Op::DeliverToStream(1),
        Op::DeliverToEnvoy(1),
        Op::Publish(2, Some(invalid_listener)),
        Op::DeliverToStream(2),
        Op::PublishOwn(0),
        Op::DeliverToStream(1),
        Op::DeliverToEnvoy(2),
        Op::DeliverToStream(2),
        // The wildcard subscription no longer includes service 2.
        Op::SetWildcard(Some(1 << 3)),
    ];
    run(Profiles::OnDemand, ops, 1 << 20, 1000);
}
