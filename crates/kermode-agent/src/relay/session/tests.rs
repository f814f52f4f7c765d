//! Tests of a session across lost and new upstream streams: single steps, and random interleavings with models of Envoy
//! and of the control plane.

use std::collections::BTreeMap;

use kermode_protocol::ads::{Status, encode_resource};

use super::*;

const CDS: &str = "cds";
const EDS: &str = "eds";

fn mk_cache() -> Cache {
    Cache::new(1 << 20)
}

fn node() -> Node {
    Node {
        id: "mesh.web.demo".to_owned(),
        ..Node::default()
    }
}

fn subscribe(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn unsubscribe(type_url: &str, name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec![name.to_owned()],
        ..subscribe(type_url, &[])
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(Status {
            code: 3,
            message: "no".to_owned(),
        }),
        ..ack(response)
    }
}

fn response(type_url: &str, nonce: &str, items: &[(&str, &str)], removed: &[&str]) -> DeltaDiscoveryResponse {
    let encoded = items
        .iter()
        .map(|(name, version)| encode_resource(type_url, name, version, Bytes::from_static(b"body")));
    DeltaDiscoveryResponse {
        resources: encoded.collect(),
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Returns the names and versions of the resources in a response.
fn versions_in(response: &DeltaDiscoveryResponse) -> BTreeMap<String, String> {
    let decoded = response
        .resources
        .iter()
        .map(|bytes| Resource::decode(bytes.clone()).unwrap());
    decoded
        .map(|resource| (resource.name, resource.version))
        .collect()
}

fn mk_versions(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter()
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
        .collect()
}

/// Returns a session whose Envoy acknowledged the clusters a and b and the endpoints of both.
fn mk_configured(cache: &mut Cache) -> Session {
    let mut session = Session::default();
    session.on_request(subscribe(CDS, &[]), cache);
    session.on_opening();
    let clusters = session.on_response(response(CDS, "1", &[("a", "1"), ("b", "1")], &[]));
    session.on_request(ack(&clusters), cache);
    session.on_request(subscribe(EDS, &["a", "b"]), cache);
    let endpoints = session.on_response(response(EDS, "2", &[("a", "1"), ("b", "1")], &[]));
    session.on_request(ack(&endpoints), cache);
    session
}

#[test]
fn session_replaces_nonces_and_sends_the_node_once() {
    let mut cache = mk_cache();
    let mut session = Session::default();
    assert_eq!(
        session.on_request(subscribe(CDS, &[]), &mut cache),
        Output::default()
    );
    let opening = session.on_opening();
    assert_eq!(opening.len(), 1);
    assert_eq!(
        (opening[0].type_url.as_str(), &opening[0].node),
        (CDS, &Some(node()))
    );
    for expected in ["1", "2"] {
        let clusters = session.on_response(response(CDS, "control-plane-nonce", &[("a", "1")], &[]));
        assert_eq!(clusters.nonce, expected);
        let forwarded = session.on_request(ack(&clusters), &mut cache).request.unwrap();
        assert_eq!(
            (forwarded.response_nonce.as_str(), forwarded.node),
            ("control-plane-nonce", None)
        );
    }
    let forwarded = session
        .on_request(subscribe(EDS, &["a"]), &mut cache)
        .request
        .unwrap();
    assert_eq!(
        (forwarded.resource_names_subscribe, forwarded.node),
        (vec!["a".to_owned()], None)
    );
}

#[test]
fn restarted_envoy_gets_the_acknowledged_configuration() {
    let mut cache = mk_cache();
    drop(mk_configured(&mut cache));
    let mut session = Session::default();
    session.on_request(subscribe(CDS, &[]), &mut cache);
    session.on_opening();
    session.on_closed();
    let clusters = session.go_offline(&cache);
    assert_eq!(versions_in(&clusters[0]), mk_versions(&[("a", "1"), ("b", "1")]));
    // Further subscriptions get a response from the cache and are not forwarded.
    let output = session.on_request(ack(&clusters[0]), &mut cache);
    assert_eq!(output, Output::default());
    let output = session.on_request(subscribe(EDS, &["b"]), &mut cache);
    assert_eq!(versions_in(&output.responses[0]), mk_versions(&[("b", "1")]));
    session.on_request(ack(&output.responses[0]), &mut cache);

    // The control plane receives Envoy's versions and responds again.
    let opening = session.on_opening();
    let version_counts: Vec<_> = opening
        .iter()
        .map(|request| (request.type_url.as_str(), request.initial_resource_versions.len()))
        .collect();
    assert_eq!(version_counts, [(CDS, 2), (EDS, 1)]);
    session.on_response(response(CDS, "1", &[], &[]));
    let output = session.on_request(subscribe(EDS, &["a"]), &mut cache);
    assert_eq!((output.responses.len(), output.request.is_some()), (0, true));
}

#[test]
fn rejected_version_does_not_replace_the_acknowledged_version() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    let bad = session.on_response(response(CDS, "3", &[("a", "2")], &["b"]));
    let forwarded = session.on_request(nack(&bad), &mut cache).request.unwrap();
    assert!(forwarded.error_detail.is_some() && forwarded.response_nonce == "3");
    session.on_closed();
    let opening = session.on_opening();
    let versions = &opening[0].initial_resource_versions;
    assert_eq!((versions["a"].as_str(), versions.len()), ("1", 2));

    let mut restarted = Session::default();
    restarted.on_request(subscribe(CDS, &[]), &mut cache);
    let clusters = restarted.go_offline(&cache);
    assert_eq!(versions_in(&clusters[0]), mk_versions(&[("a", "1"), ("b", "1")]));
}

#[test]
fn response_in_flight_is_requested_again_and_its_late_ack_is_not_forwarded() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    let response_in_flight = session.on_response(response(CDS, "3", &[("a", "2")], &[]));
    session.on_closed();
    let opening = session.on_opening();
    assert_eq!(opening[0].initial_resource_versions["a"], IN_FLIGHT_VERSION);
    assert_eq!(
        session.on_request(ack(&response_in_flight), &mut cache).request,
        None
    );
    // The session has recorded the acknowledged version nevertheless.
    session.on_closed();
    assert_eq!(session.on_opening()[0].initial_resource_versions["a"], "2");
}

#[test]
fn fully_configured_envoy_gets_nothing_when_the_control_plane_is_lost() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    session.on_closed();
    assert_eq!(session.go_offline(&cache), []);
    // Envoy subscribes again when a cluster is updated, and waits for the response.
    let output = session.on_request(subscribe(EDS, &["a"]), &mut cache);
    assert_eq!(versions_in(&output.responses[0]), mk_versions(&[("a", "1")]));
}

#[test]
fn incomplete_configuration_is_completed_from_the_cache() {
    let mut cache = mk_cache();
    drop(mk_configured(&mut cache));
    let mut session = Session::default();
    session.on_request(subscribe(CDS, &[]), &mut cache);
    session.on_opening();
    let clusters = session.on_response(response(CDS, "1", &[("a", "2"), ("b", "1")], &[]));
    session.on_request(ack(&clusters), &mut cache);
    session.on_request(subscribe(EDS, &["a", "b"]), &mut cache);
    session.on_closed();
    let sent = session.go_offline(&cache);
    assert_eq!((sent.len(), sent[0].type_url.as_str()), (1, EDS));
    assert_eq!(versions_in(&sent[0]), mk_versions(&[("a", "1"), ("b", "1")]));
}

#[test]
fn removed_resources_are_not_cached() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    let removal = session.on_response(response(CDS, "3", &[], &["b"]));
    session.on_request(ack(&removal), &mut cache);
    session.on_request(unsubscribe(EDS, "b"), &mut cache);
    assert_eq!((cache.get(CDS, "b"), cache.get(EDS, "b")), (None, None));

    // The first response to a wildcard has all resources: resources that the response lacks no longer exist.
    let mut restarted = Session::default();
    restarted.on_request(subscribe(CDS, &[]), &mut cache);
    restarted.on_opening();
    let clusters = restarted.on_response(response(CDS, "1", &[("c", "1")], &[]));
    restarted.on_request(ack(&clusters), &mut cache);
    assert_eq!(cache.get(CDS, "a"), None);
    assert!(cache.get(CDS, "c").is_some());
}

#[test]
fn nonexistence_of_a_resource_is_cached() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    session.on_request(subscribe(EDS, &["nonexistent"]), &mut cache);
    let nonexistence = session.on_response(response(EDS, "3", &[], &["nonexistent"]));
    session.on_request(ack(&nonexistence), &mut cache);
    session.on_closed();
    assert!(
        !session.on_opening()[1]
            .initial_resource_versions
            .contains_key("nonexistent")
    );

    let mut restarted = Session::default();
    restarted.go_offline(&cache);
    let output = restarted.on_request(subscribe(EDS, &["nonexistent", "unknown"]), &mut cache);
    assert_eq!(
        output.responses[0].removed_resources,
        ["nonexistent"],
        "an unknown name gets no response"
    );
}

#[test]
fn empty_configuration_is_sent_only_if_it_is_cached() {
    let mut cache = mk_cache();
    let mut session = Session::default();
    session.on_request(subscribe(CDS, &[]), &mut cache);
    assert_eq!(
        session.go_offline(&cache),
        [],
        "an empty response would let Envoy start without clusters"
    );
    session.on_opening();
    let empty = session.on_response(response(CDS, "1", &[], &[]));
    session.on_request(ack(&empty), &mut cache);

    let mut restarted = Session::default();
    restarted.on_request(subscribe(CDS, &[]), &mut cache);
    assert_eq!(restarted.go_offline(&cache).len(), 1);
}

#[test]
fn empty_subscription_is_not_resumed() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    for name in ["a", "b"] {
        session.on_request(unsubscribe(EDS, name), &mut cache);
    }
    session.on_closed();
    let opening = session.on_opening();
    assert_eq!(
        opening
            .iter()
            .map(|request| request.type_url.as_str())
            .collect::<Vec<_>>(),
        [CDS]
    );
    let forwarded = session
        .on_request(subscribe(EDS, &["a"]), &mut cache)
        .request
        .unwrap();
    assert_eq!(forwarded.resource_names_subscribe, ["a"]);
}

#[test]
fn restarted_envoy_gets_the_on_demand_resources_that_it_had_without_a_control_plane() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    session.on_request(subscribe(CDS, &["on-demand"]), &mut cache);
    let cluster = session.on_response(response(CDS, "3", &[("on-demand", "1")], &[]));
    session.on_request(ack(&cluster), &mut cache);
    session.on_request(subscribe(EDS, &["on-demand"]), &mut cache);
    let endpoints = session.on_response(response(EDS, "4", &[("on-demand", "2")], &[]));
    session.on_request(ack(&endpoints), &mut cache);

    let mut restarted = Session::default();
    restarted.on_request(subscribe(CDS, &[]), &mut cache);
    restarted.on_opening();
    restarted.on_closed();
    let clusters = restarted.go_offline(&cache).remove(0);
    assert_eq!(
        versions_in(&clusters),
        mk_versions(&[("a", "1"), ("b", "1"), ("on-demand", "1")])
    );
    restarted.on_request(ack(&clusters), &mut cache);
    let output = restarted.on_request(subscribe(EDS, &["on-demand"]), &mut cache);
    assert_eq!(
        versions_in(&output.responses[0]),
        mk_versions(&[("on-demand", "2")])
    );
}

#[test]
fn on_demand_resources_that_a_restarted_envoy_got_from_the_cache_are_subscribed_when_the_control_plane_returns()
 {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    session.on_request(subscribe(CDS, &["on-demand"]), &mut cache);
    let cluster = session.on_response(response(CDS, "3", &[("on-demand", "1")], &[]));
    session.on_request(ack(&cluster), &mut cache);

    // The second restart shows that the cache keeps the kind of the subscription.
    for _ in 0..2 {
        let mut restarted = Session::default();
        restarted.on_request(subscribe(CDS, &[]), &mut cache);
        let clusters = restarted.go_offline(&cache).remove(0);
        restarted.on_request(ack(&clusters), &mut cache);
        let opening = restarted.on_opening();
        assert_eq!(opening[0].resource_names_subscribe, ["*", "on-demand"]);
        assert_eq!(opening[0].initial_resource_versions["on-demand"], "1");
    }
}

#[test]
fn names_beyond_the_limit_of_names_without_a_resource_are_not_resumed() {
    let mut cache = mk_cache();
    let mut session = Session::default();
    let absent: Vec<_> = (0..MAX_NAMES_WITHOUT_RESOURCE)
        .map(|index| index.to_string())
        .collect();
    let absent: Vec<_> = absent.iter().map(String::as_str).collect();
    let mut acknowledge = |nonce: &str, names: &[&str], items: &[(&str, &str)], removed: &[&str]| {
        session.on_request(subscribe(CDS, names), &mut cache);
        let answer = session.on_response(response(CDS, nonce, items, removed));
        session.on_request(ack(&answer), &mut cache);
        session.on_opening().remove(0).resource_names_subscribe
    };
    acknowledge("1", &["*", "used"], &[("used", "1")], &[]);
    let resumed = acknowledge("2", &absent, &[], &absent);
    assert_eq!(resumed.len(), absent.len() + 2);
    // The second name is stored already, so only the first one exceeds the limit.
    assert_eq!(
        acknowledge("3", &["further"], &[], &["further", absent[0]]),
        resumed
    );
    // A name that gets a resource makes room for another one.
    acknowledge("4", &[], &[(absent[0], "1")], &[]);
    assert_eq!(
        acknowledge("5", &["other"], &[], &["other"]).len(),
        resumed.len() + 1
    );
}

#[test]
fn explicit_names_are_resumed_together_with_the_wildcard() {
    let mut cache = mk_cache();
    let mut session = mk_configured(&mut cache);
    session.on_request(subscribe(CDS, &["on-demand"]), &mut cache);
    let opening = session.on_opening();
    assert_eq!(opening[0].resource_names_subscribe, ["*", "on-demand"]);
}

#[test]
fn versions_of_an_envoy_that_reopens_its_stream_are_forwarded() {
    let mut cache = mk_cache();
    drop(mk_configured(&mut cache));
    let mut session = Session::default();
    let first_request = DeltaDiscoveryRequest {
        initial_resource_versions: [("a", "1"), ("b", "1")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..subscribe(CDS, &[])
    };
    session.on_request(first_request, &mut cache);
    assert_eq!(session.on_opening()[0].initial_resource_versions.len(), 2);
}

#[test]
fn full_cache_drops_unused_resources_before_it_is_disabled() {
    let size = encode_resource(EDS, "a", "1", Bytes::from_static(b"body")).len();
    // Space for four entries: 140 bytes are more than the name, the version and the overhead of an entry.
    let mut cache = Cache::new(4 * (size + 140));
    let mut session = mk_configured(&mut cache);
    assert!(cache.get(EDS, "a").is_some());
    // An Envoy with other subscriptions replaces the resources of the previous Envoy.
    let mut restarted = Session::default();
    restarted.on_request(subscribe(EDS, &["c", "d"]), &mut cache);
    restarted.on_opening();
    let endpoints = restarted.on_response(response(EDS, "1", &[("c", "1"), ("d", "1")], &[]));
    restarted.on_request(ack(&endpoints), &mut cache);
    assert!(cache.get(EDS, "c").is_some() && cache.get(EDS, "a").is_none());
    // Resources of one Envoy that exceed the limit disable the cache.
    session.on_opening();
    let many: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    let clusters = session.on_response(response(CDS, "5", &many, &[]));
    session.on_request(ack(&clusters), &mut cache);
    assert!(cache.get(CDS, "0").is_none() && cache.get(EDS, "c").is_none());
}

// === random interleavings ===

/// Model of the control plane and of one stream: the part of delta xDS that the test needs. The model shares no code
/// with the session.
#[derive(Default)]
struct ControlPlane {
    /// State of each type, by type URL.
    types: BTreeMap<String, ServedType>,
    last_nonce: u32,
}

#[derive(Default)]
struct ServedType {
    is_wildcard: bool,
    names: BTreeSet<String>,
    /// Versions that Envoy has or that are in flight to Envoy, by name.
    envoy_versions: BTreeMap<String, String>,
    in_flight: Option<SentResponse>,
    /// Versions that Envoy rejected, by name.
    rejected: BTreeMap<String, String>,
    needs_response: bool,
}

struct SentResponse {
    nonce: String,
    /// The resource in the response; `None` for a removal or an empty response.
    resource: Option<SentResource>,
}

struct SentResource {
    name: String,
    version: String,
    /// Version that Envoy had before.
    previous_version: Option<String>,
}

/// Returns whether the model of Envoy rejects a version.
fn is_rejected(version: &str) -> bool {
    version.ends_with('5')
}

/// Versions of the control plane's resources, by type and name.
type Resources = BTreeMap<&'static str, BTreeMap<String, String>>;

impl ControlPlane {
    fn on_request(&mut self, request: &DeltaDiscoveryRequest) {
        let is_first = !self.types.contains_key(&request.type_url);
        let served = self.types.entry(request.type_url.clone()).or_default();
        if is_first {
            assert!(
                request.response_nonce.is_empty(),
                "an ACK of another stream's response"
            );
            served
                .envoy_versions
                .extend(request.initial_resource_versions.clone());
            served.is_wildcard = request.resource_names_subscribe.is_empty();
            served.needs_response = served.is_wildcard;
        } else if !request.response_nonce.is_empty() {
            let sent = served.in_flight.take().expect("an ACK without a response");
            assert_eq!(sent.nonce, request.response_nonce);
            if request.error_detail.is_some() {
                let resource = sent.resource.expect("a NACK of a response without resources");
                match resource.previous_version {
                    Some(version) => served.envoy_versions.insert(resource.name.clone(), version),
                    None => served.envoy_versions.remove(&resource.name),
                };
                served.rejected.insert(resource.name, resource.version);
            }
        }
        for name in &request.resource_names_subscribe {
            served.names.insert(name.clone());
            if !is_first {
                served.envoy_versions.remove(name);
            }
        }
        for name in &request.resource_names_unsubscribe {
            served.names.remove(name);
            served.envoy_versions.remove(name);
        }
    }

    /// Returns the next response, of any type that has none in flight.
    fn next_response(&mut self, resources: &Resources) -> Option<DeltaDiscoveryResponse> {
        for (type_url, served) in &mut self.types {
            if served.in_flight.is_some() {
                continue;
            }
            let resources = &resources[type_url.as_str()];
            let changed = resources.iter().find(|(name, version)| {
                let is_subscribed = served.is_wildcard || served.names.contains(*name);
                let envoy_has = served.envoy_versions.get(*name) == Some(*version);
                let envoy_rejected = served.rejected.get(*name) == Some(*version);
                is_subscribed && !envoy_has && !envoy_rejected
            });
            let removed = served
                .envoy_versions
                .keys()
                .filter(|name| !resources.contains_key(*name));
            let removed: Vec<_> = removed.cloned().collect();
            if changed.is_none() && removed.is_empty() && !served.needs_response {
                continue;
            }
            served.needs_response = false;
            self.last_nonce += 1;
            let nonce = self.last_nonce.to_string();
            for name in &removed {
                served.envoy_versions.remove(name);
            }
            // A response contains either removals or one resource, so a NACK always rejects that resource.
            let changed = changed.filter(|_| removed.is_empty());
            let resource = changed.map(|(name, version)| SentResource {
                name: name.clone(),
                version: version.clone(),
                previous_version: served.envoy_versions.insert(name.clone(), version.clone()),
            });
            let items: Vec<_> = changed
                .iter()
                .map(|(name, version)| (name.as_str(), version.as_str()))
                .collect();
            let removed: Vec<_> = removed.iter().map(String::as_str).collect();
            let response = response(type_url, &nonce, &items, &removed);
            served.in_flight = Some(SentResponse { nonce, resource });
            return Some(response);
        }
        None
    }
}

/// Model of Envoy: subscribes to all clusters and to the endpoints of its clusters.
#[derive(Default)]
struct Envoy {
    /// Versions of the applied clusters, by name.
    clusters: BTreeMap<String, String>,
    /// Versions of the applied endpoints, by name of the cluster.
    endpoints: BTreeMap<String, String>,
    has_subscribed: bool,
    in_flight_responses: std::collections::VecDeque<DeltaDiscoveryResponse>,
}

impl Envoy {
    /// The first call subscribes to all clusters. Each later call handles one response. Returns the requests to send.
    fn step(&mut self) -> Vec<DeltaDiscoveryRequest> {
        if !std::mem::replace(&mut self.has_subscribed, true) {
            return vec![subscribe(CDS, &[])];
        }
        let Some(next) = self.in_flight_responses.pop_front() else {
            return Vec::new();
        };
        if versions_in(&next).values().any(|version| is_rejected(version)) {
            return vec![nack(&next)];
        }
        let mut requests = vec![ack(&next)];
        if next.type_url == EDS {
            for name in &next.removed_resources {
                self.endpoints.remove(name);
            }
            let endpoints_of_clusters = versions_in(&next)
                .into_iter()
                .filter(|(name, _)| self.clusters.contains_key(name));
            self.endpoints.extend(endpoints_of_clusters);
            return requests;
        }
        for (name, version) in versions_in(&next) {
            if self.clusters.insert(name.clone(), version).is_none() {
                requests.push(DeltaDiscoveryRequest {
                    node: None,
                    ..subscribe(EDS, &[&name])
                });
            }
        }
        for name in &next.removed_resources {
            if self.clusters.remove(name).is_some() {
                self.endpoints.remove(name);
                requests.push(unsubscribe(EDS, name));
            }
        }
        requests
    }
}

struct Simulation {
    /// Current resources of the control plane.
    resources: Resources,
    session: Session,
    cache: Cache,
    /// The control plane, while an upstream stream is open.
    control_plane: Option<ControlPlane>,
    envoy: Envoy,
}

impl Simulation {
    /// Lets Envoy subscribe or handle one response. Returns whether Envoy sent a request.
    fn step_envoy(&mut self) -> bool {
        let requests = self.envoy.step();
        let has_sent = !requests.is_empty();
        for request in requests {
            let output = self.session.on_request(request, &mut self.cache);
            self.envoy.in_flight_responses.extend(output.responses);
            if let Some(request) = output.request {
                let control_plane = self
                    .control_plane
                    .as_mut()
                    .expect("a request without an upstream stream");
                control_plane.on_request(&request);
            }
        }
        has_sent
    }

    /// Lets the control plane send one response. Returns whether the control plane had a response to send.
    fn step_control_plane(&mut self) -> bool {
        let Some(control_plane) = &mut self.control_plane else {
            return false;
        };
        let Some(response) = control_plane.next_response(&self.resources) else {
            return false;
        };
        let response = self.session.on_response(response);
        self.envoy.in_flight_responses.push_back(response);
        true
    }

    fn connect_control_plane(&mut self) {
        if self.control_plane.is_some() || !self.session.has_subscriptions() {
            return;
        }
        let mut control_plane = ControlPlane::default();
        self.session
            .on_opening()
            .iter()
            .for_each(|request| control_plane.on_request(request));
        self.control_plane = Some(control_plane);
    }

    fn disconnect_control_plane(&mut self) {
        if self.control_plane.take().is_some() {
            self.session.on_closed();
        }
        let responses = self.session.go_offline(&self.cache);
        self.envoy.in_flight_responses.extend(responses);
    }

    /// Runs until neither Envoy nor the control plane has anything to send.
    fn settle(&mut self) {
        for step in 0.. {
            assert!(step < 10_000, "the simulation does not settle");
            let envoy_sent = self.step_envoy();
            let control_plane_sent = self.step_control_plane();
            if !envoy_sent && !control_plane_sent {
                return;
            }
        }
    }

    fn step_at_random(&mut self, step: usize, random: &mut fastrand::Rng) {
        match random.u8(0..12) {
            0..=3 => drop(self.step_envoy()),
            4..=6 => drop(self.step_control_plane()),
            7 => self.connect_control_plane(),
            8 => self.disconnect_control_plane(),
            // Envoy restarts, which also ends the upstream stream.
            9 if random.u8(0..4) == 0 => {
                self.session = Session::default();
                self.envoy = Envoy::default();
                self.control_plane = None;
            }
            // A cluster and its endpoints change or are removed.
            _ => {
                let name = ["a", "b", "c"][random.usize(0..3)];
                let exists = random.u8(0..4) > 0;
                for type_url in [CDS, EDS] {
                    let resources = self.resources.get_mut(type_url).unwrap();
                    if exists {
                        resources.insert(name.to_owned(), step.to_string());
                    } else {
                        resources.remove(name);
                    }
                }
            }
        }
    }
}

#[test]
fn envoy_converges_under_any_interleaving_and_a_restarted_envoy_gets_the_same_state() {
    for seed in 0..3000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut simulation = Simulation {
            resources: [(CDS, BTreeMap::new()), (EDS, BTreeMap::new())].into(),
            session: Session::default(),
            cache: mk_cache(),
            control_plane: None,
            envoy: Envoy::default(),
        };
        for step in 0..random.usize(10..120) {
            simulation.step_at_random(step, &mut random);
        }
        // Connecting needs a subscription, so Envoy subscribes first, if it has not done so before.
        simulation.step_envoy();
        simulation.connect_control_plane();
        simulation.settle();
        let envoy = std::mem::take(&mut simulation.envoy);
        for (type_url, applied) in [(CDS, &envoy.clusters), (EDS, &envoy.endpoints)] {
            let published = &simulation.resources[type_url];
            let removed = applied.keys().find(|name| !published.contains_key(*name));
            assert_eq!(
                removed, None,
                "seed {seed}: Envoy has a removed resource of {type_url}"
            );
            assert!(!applied.values().any(|version| is_rejected(version)));
            for (name, version) in published {
                // Envoy does not have rejected versions, and has endpoints of its clusters only.
                if !is_rejected(version) && envoy.clusters.contains_key(name) {
                    assert_eq!(applied.get(name), Some(version), "seed {seed}: {type_url} {name}");
                }
                if !is_rejected(version) && type_url == CDS {
                    assert!(
                        applied.contains_key(name),
                        "seed {seed}: Envoy lacks cluster {name}"
                    );
                }
            }
        }

        // Envoy restarts without a control plane.
        simulation.control_plane = None;
        simulation.session = Session::default();
        simulation.envoy = Envoy::default();
        simulation.step_envoy();
        simulation.disconnect_control_plane();
        simulation.settle();
        let restarted = &simulation.envoy;
        for (before, after) in [
            (&envoy.clusters, &restarted.clusters),
            (&envoy.endpoints, &restarted.endpoints),
        ] {
            for (name, version) in before {
                assert_eq!(
                    after.get(name),
                    Some(version),
                    "seed {seed}: {name} from the cache"
                );
            }
            assert!(!after.values().any(|version| is_rejected(version)), "seed {seed}");
        }
    }
}
