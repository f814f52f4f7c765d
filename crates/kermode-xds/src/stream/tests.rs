//! Tests of a stream. Each test covers one rule of the state machine.

use std::collections::HashSet;

use kermode_envoy::ResourceKind::{Cluster, Endpoints, Listener, Route, Secret};
use kermode_envoy::{OnDemand, Resource};
use kermode_model::ObjectKey;
use kermode_protocol::ads;
use prost::Message;

use super::*;
use crate::store::{Profile, ServiceSelection, Store, Tombstones, Watcher};

const LIMITS: Limits = Limits {
    response_bytes: 1 << 20,
    names: 10,
    names_without_resource: 10,
    pending: 1000,
    hold: Duration::from_secs(3),
};

/// One stream of a proxy, and its store. In texts such as `a=1`, `a` is the name of a resource and `1` its version.
struct Fixture {
    store: Arc<Store>,
    stream: Stream,
    watcher: Watcher,
    /// The published shared resources.
    shared: Vec<Resource>,
}

fn proxy_key() -> ObjectKey {
    ObjectKey::new("shop", "web-0")
}

fn profile() -> Profile {
    Profile::new("default".into())
}

fn mk_resource(kind: ResourceKind, text: &str) -> Resource {
    let (name, version) = text.split_once('=').expect("name=version");
    Resource {
        kind,
        name: name.into(),
        version: version.into(),
        body: version.to_owned().into(),
        service: None,
        on_demand: None,
    }
}

fn request(kind: ResourceKind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        ..Default::default()
    }
}

fn subscribe(kind: ResourceKind, names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..request(kind)
    }
}

fn unsubscribe(kind: ResourceKind, name: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec![name.into()],
        ..request(kind)
    }
}

fn with_initial_versions(request: DeltaDiscoveryRequest, versions: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let versions = versions
        .iter()
        .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    DeltaDiscoveryRequest {
        initial_resource_versions: versions.collect(),
        ..request
    }
}

fn ack(response: &Response) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.message.type_url.clone(),
        response_nonce: response.message.nonce.clone(),
        ..Default::default()
    }
}

fn nack(response: &Response) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(ads::Status {
            code: 13,
            message: "bad address".into(),
        }),
        ..ack(response)
    }
}

/// Returns a response as text, such as `Cluster a=1 b=2 -c`: name and version of each resource, then the removed names,
/// each with a minus.
fn show(response: &Response) -> String {
    let kind = response
        .kind
        .map_or_else(|| response.message.type_url.clone(), |kind| format!("{kind:?}"));
    let resources = response.message.resources.iter().map(|encoded| {
        let resource = ads::Resource::decode(encoded.clone()).unwrap();
        format!(" {}={}", resource.name, resource.version)
    });
    let removed = response
        .message
        .removed_resources
        .iter()
        .map(|name| format!(" -{name}"));
    kind + &resources.chain(removed).collect::<String>()
}

fn show_all(responses: &[Response]) -> Vec<String> {
    responses.iter().map(show).collect()
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        let store = Arc::new(Store::default());
        let watcher = store.watch(&proxy_key());
        Self {
            store,
            stream: Stream::new(limits),
            watcher,
            shared: Vec::new(),
        }
    }

    /// Creates the stream of a published proxy in a mesh with these shared resources.
    fn with_shared(shared: &[(ResourceKind, &str)]) -> Self {
        let mut fixture = Self::new(LIMITS);
        fixture.store.replace_proxy(&proxy_key(), profile(), Vec::new());
        fixture.publish(shared);
        fixture
    }

    /// Publishes shared resources, in addition to the published ones or in place of those with the same kind and name.
    /// Returns the responses.
    fn publish(&mut self, resources: &[(ResourceKind, &str)]) -> Vec<Response> {
        for resource in resources.iter().map(|(kind, text)| mk_resource(*kind, text)) {
            self.shared
                .retain(|old| (old.kind, &old.name) != (resource.kind, &resource.name));
            self.shared.push(resource);
        }
        self.store.replace_mesh(&"default".into(), self.shared.clone());
        self.read_changes()
    }

    /// Removes shared resources. Returns the responses.
    fn remove(&mut self, keys: &[(ResourceKind, &str)]) -> Vec<Response> {
        self.shared.retain(|old| !keys.contains(&(old.kind, &*old.name)));
        self.publish(&[])
    }

    /// Passes the changes of the view to the stream. Returns the responses.
    fn read_changes(&mut self) -> Vec<Response> {
        let stream = &mut self.stream;
        self.watcher
            .read(|view, changes| stream.on_change(changes, view.as_ref()))
            .responses
    }

    /// Sends a request. Returns the responses.
    fn send(&mut self, request: DeltaDiscoveryRequest) -> Vec<Response> {
        self.send_for_output(request).responses
    }

    /// Sends a request. Returns the responses and events.
    fn send_for_output(&mut self, request: DeltaDiscoveryRequest) -> Output {
        assert_eq!(
            self.read_changes(),
            [],
            "a test must read changes before it sends a request"
        );
        let stream = &mut self.stream;
        self.watcher
            .read(|view, _| stream.on_request(request, view.as_ref()))
            .unwrap()
    }

    /// Returns whether the client has acknowledged every published change of endpoints.
    fn are_endpoints_acknowledged(&mut self) -> bool {
        let stream = &self.stream;
        self.watcher.read(|view, _| {
            let view = view.unwrap();
            stream.acknowledged_sequence(&view) == Some(view.sequence())
        })
    }

    /// Sends a request and ACKs all responses. Returns the responses as texts.
    fn send_and_ack_all(&mut self, request: DeltaDiscoveryRequest) -> Vec<String> {
        let mut shown = Vec::new();
        let mut responses = self.send(request);
        while !responses.is_empty() {
            shown.extend(show_all(&responses));
            responses = responses
                .iter()
                .flat_map(|response| self.send(ack(response)))
                .collect();
        }
        shown
    }
}

#[test]
fn wildcard_subscription_gets_a_response_even_without_resources() {
    for wildcard in [request(Cluster), subscribe(Cluster, &["*"]), request(Listener)] {
        let mut fixture = Fixture::with_shared(&[]);
        let responses = fixture.send(wildcard);
        assert_eq!(responses.len(), 1, "{responses:?}");
        assert!(responses[0].message.resources.is_empty());
        assert!(fixture.send(ack(&responses[0])).is_empty());
        assert!(fixture.stream.is_settled());
    }
}

#[test]
fn empty_first_request_subscribes_only_to_clusters_or_listeners() {
    let mut fixture = Fixture::with_shared(&[(Endpoints, "a=1"), (Secret, "s=1")]);
    assert!(fixture.send(request(Endpoints)).is_empty());
    assert!(fixture.send(request(Secret)).is_empty());
}

#[test]
fn no_response_is_sent_before_the_proxy_is_published() {
    let mut fixture = Fixture::new(LIMITS);
    assert!(fixture.publish(&[(Cluster, "a=1")]).is_empty());
    assert!(fixture.send(request(Cluster)).is_empty());
    assert!(
        fixture
            .send(DeltaDiscoveryRequest {
                type_url: "x/Other".into(),
                ..Default::default()
            })
            .is_empty()
    );
    fixture
        .store
        .replace_proxy(&proxy_key(), profile(), vec![mk_resource(Cluster, "own=1")]);
    assert_eq!(
        show_all(&fixture.read_changes()),
        ["x/Other", "Cluster a=1 own=1"]
    );
}

#[test]
fn removed_proxy_keeps_its_configuration_until_it_is_published_again() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.store.remove_proxy(&proxy_key());
    assert!(fixture.remove(&[(Cluster, "a")]).is_empty());
    fixture.store.replace_proxy(&proxy_key(), profile(), Vec::new());
    assert_eq!(show_all(&fixture.read_changes()), ["Cluster -a"]);
}

#[test]
fn missing_resource_is_reported_as_removed_once_and_sent_after_its_creation() {
    let mut fixture = Fixture::with_shared(&[]);
    assert_eq!(
        fixture.send_and_ack_all(subscribe(Endpoints, &["a"])),
        ["Endpoints -a"]
    );
    assert!(fixture.publish(&[(Endpoints, "other=1")]).is_empty());
    assert_eq!(
        show_all(&fixture.publish(&[(Endpoints, "a=1")])),
        ["Endpoints a=1"]
    );
}

#[test]
fn repeated_subscription_gets_another_response() {
    let mut fixture = Fixture::with_shared(&[(Endpoints, "a=1"), (Endpoints, "b=1")]);
    fixture.send_and_ack_all(subscribe(Endpoints, &["a", "b"]));
    assert_eq!(
        fixture.send_and_ack_all(subscribe(Endpoints, &["a"])),
        ["Endpoints a=1"]
    );
}

#[test]
fn wildcard_and_explicit_subscriptions_of_one_kind_coexist() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1")]);
    assert_eq!(
        fixture.send_and_ack_all(subscribe(Cluster, &["*", "named"])),
        ["Cluster a=1 -named"]
    );
    let responses = fixture.publish(&[(Cluster, "named=1"), (Cluster, "b=1")]);
    assert_eq!(show_all(&responses), ["Cluster b=1 named=1"]);
    fixture.send(ack(&responses[0]));

    // The wildcard still includes the resource, so it is sent again, as the protocol requires.
    assert_eq!(
        fixture.send_and_ack_all(unsubscribe(Cluster, "named")),
        ["Cluster named=1"]
    );
    // Without the wildcard, only resources that are subscribed to by name are sent. The client drops the others itself,
    // so no removal is sent for them.
    assert_eq!(
        fixture.send_and_ack_all(subscribe(Cluster, &["b"])),
        ["Cluster b=1"]
    );
    assert!(fixture.send_and_ack_all(unsubscribe(Cluster, "*")).is_empty());
    assert!(fixture.publish(&[(Cluster, "a=2")]).is_empty());
    assert_eq!(show_all(&fixture.publish(&[(Cluster, "b=2")])), ["Cluster b=2"]);
}

#[test]
fn unsubscribed_name_is_no_longer_sent() {
    let mut fixture = Fixture::with_shared(&[(Endpoints, "a=1")]);
    fixture.send_and_ack_all(subscribe(Endpoints, &["a"]));
    assert!(fixture.send_and_ack_all(unsubscribe(Endpoints, "a")).is_empty());
    assert!(fixture.publish(&[(Endpoints, "a=2")]).is_empty());
    assert!(fixture.remove(&[(Endpoints, "a")]).is_empty());
}

#[test]
fn reconnecting_client_gets_only_changed_new_and_removed_resources() {
    let mut fixture =
        Fixture::with_shared(&[(Listener, "same=1"), (Listener, "changed=2"), (Listener, "new=1")]);
    let first_request = with_initial_versions(
        request(Listener),
        &[("same", "1"), ("changed", "1"), ("gone", "1")],
    );
    assert_eq!(
        fixture.send_and_ack_all(first_request),
        ["Listener changed=2 new=1 -gone"]
    );

    let mut fixture = Fixture::with_shared(&[(Endpoints, "same=1"), (Endpoints, "changed=2")]);
    let names = subscribe(Endpoints, &["same", "changed", "gone", "never"]);
    let first_request = with_initial_versions(names, &[("same", "1"), ("changed", "1"), ("gone", "1")]);
    assert_eq!(
        fixture.send_and_ack_all(first_request),
        ["Endpoints changed=2 -gone -never"]
    );
}

#[test]
fn changes_while_a_response_is_in_flight_are_sent_once_after_its_ack() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1")]);
    let responses = fixture.send(request(Cluster));
    for change in ["a=2", "b=1", "a=3", "c=1"] {
        assert!(fixture.publish(&[(Cluster, change)]).is_empty());
    }
    assert!(fixture.remove(&[(Cluster, "c")]).is_empty());
    assert_eq!(show_all(&fixture.send(ack(&responses[0]))), ["Cluster a=3 b=1"]);
}

#[test]
fn changes_beyond_the_limit_of_pending_names_are_sent() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1")]);
    fixture.stream = Stream::new(Limits { pending: 2, ..LIMITS });
    let responses = fixture.send(request(Cluster));
    for change in ["b=1", "c=1", "d=1", "e=1"] {
        fixture.publish(&[(Cluster, change)]);
    }
    fixture.remove(&[(Cluster, "a")]);
    assert_eq!(
        show_all(&fixture.send(ack(&responses[0]))),
        ["Cluster b=1 c=1 d=1 e=1 -a"]
    );
}

#[test]
fn ack_with_a_stale_nonce_is_ignored() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1")]);
    let responses = fixture.send(request(Cluster));
    fixture.publish(&[(Cluster, "a=2")]);
    let stale = DeltaDiscoveryRequest {
        response_nonce: "stale".into(),
        ..request(Cluster)
    };
    assert_eq!(fixture.send_for_output(stale), Output::default());
    let output = fixture.send_for_output(ack(&responses[0]));
    assert!(
        matches!(&output.events[..], [Event::Acknowledged { kind: Cluster, .. }]),
        "{output:?}"
    );
    assert_eq!(show_all(&output.responses), ["Cluster a=2"]);
    assert_eq!(
        fixture.send_for_output(ack(&responses[0])),
        Output::default(),
        "a second ACK of a response must be ignored"
    );
}

#[test]
fn rejected_resource_is_not_sent_again_until_it_changes() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1")]);
    let responses = fixture.send(request(Cluster));
    let output = fixture.send_for_output(nack(&responses[0]));
    assert!(output.responses.is_empty());
    let [
        Event::Rejected {
            kind: Cluster,
            message,
            ..
        },
    ] = &output.events[..]
    else {
        panic!("{output:?}")
    };
    assert_eq!(&**message, "bad address");
    let rejection = fixture.stream.rejections().next().expect("a rejection");
    assert_eq!(
        (&*rejection.resource.version, &*rejection.message),
        ("1", "bad address")
    );

    let responses = fixture.publish(&[(Cluster, "b=1")]);
    assert_eq!(show_all(&responses), ["Cluster b=1"]);
    fixture.send(ack(&responses[0]));
    // A switch from all services to limited visibility makes the stream compare all names.
    let visibility = ServiceSelection::Only(HashSet::new());
    fixture.store.replace_proxy(
        &proxy_key(),
        Profile {
            visibility,
            ..profile()
        },
        Vec::new(),
    );
    assert!(fixture.read_changes().is_empty());
    let responses = fixture.publish(&[(Cluster, "a=2")]);
    assert_eq!(show_all(&responses), ["Cluster a=2"]);
    fixture.send(ack(&responses[0]));
    assert_eq!(fixture.stream.rejections().count(), 0);
}

#[test]
fn invalid_resource_of_a_rejected_response_is_isolated_and_the_others_are_accepted() {
    let texts: Vec<String> = (0..8).map(|i| format!("{i}=1")).collect();
    let clusters: Vec<(ResourceKind, &str)> = texts.iter().map(|text| (Cluster, text.as_str())).collect();
    let mut fixture = Fixture::with_shared(&clusters);
    let mut responses = fixture.send(request(Cluster));
    // The client rejects every response that contains resource 5. `accepted` holds the texts of the other responses.
    let mut accepted = String::new();
    let mut response_count = 0;
    while let Some(response) = responses.pop() {
        response_count += 1;
        let text = show(&response);
        let request = if text.contains("5=1") {
            nack(&response)
        } else {
            ack(&response)
        };
        if request.error_detail.is_none() {
            accepted += &text;
        }
        responses.extend(fixture.send(request));
    }
    let rejected: Vec<&str> = fixture
        .stream
        .rejections()
        .map(|rejection| &*rejection.resource.name)
        .collect();
    assert_eq!(rejected, ["5"]);
    for i in (0..8).filter(|i| *i != 5) {
        assert!(
            accepted.contains(&format!(" {i}=1")),
            "resource {i} is missing in {accepted}"
        );
    }
    assert_eq!(
        response_count, 7,
        "the first response, and two responses for each of three halvings"
    );
}

#[test]
fn listener_waits_for_clusters_and_endpoints_published_with_it() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Listener, "a=1")]);
    assert_eq!(show_all(&clusters), ["Cluster a=1"]);
    // Envoy requests the endpoints before it ACKs the cluster.
    let endpoints = fixture.send(subscribe(Endpoints, &["a"]));
    assert_eq!(show_all(&endpoints), ["Endpoints a=1"]);
    assert!(
        fixture.send(ack(&clusters[0])).is_empty(),
        "the listener must wait for the ACK of the endpoints"
    );
    assert_eq!(show_all(&fixture.send(ack(&endpoints[0]))), ["Listener a=1"]);
}

#[test]
fn listener_does_not_wait_for_endpoints_that_the_client_did_not_subscribe_to() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Listener, "a=1")]);
    assert_eq!(show_all(&fixture.send(ack(&clusters[0]))), ["Listener a=1"]);
}

#[test]
fn listener_does_not_wait_for_a_rejected_cluster_or_rejected_endpoints() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Listener, "a=1")]);
    let listeners = fixture.send(nack(&clusters[0]));
    assert_eq!(show_all(&listeners), ["Listener a=1"]);
    fixture.send(ack(&listeners[0]));

    let clusters = fixture.publish(&[(Cluster, "b=1"), (Endpoints, "b=1"), (Listener, "b=1")]);
    let endpoints = fixture.send(subscribe(Endpoints, &["b"]));
    fixture.send(ack(&clusters[0]));
    assert_eq!(show_all(&fixture.send(nack(&endpoints[0]))), ["Listener b=1"]);
}

#[test]
fn listener_does_not_wait_for_clusters_published_after_it() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1")]);
    fixture.publish(&[(Listener, "a=1")]);
    fixture.publish(&[(Cluster, "b=1")]);
    let responses = fixture.send(ack(&clusters[0]));
    assert_eq!(show_all(&responses), ["Cluster b=1", "Listener a=1"]);
}

#[test]
fn changed_cluster_delays_no_listener() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Listener, "a=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let responses = fixture.publish(&[(Cluster, "a=2"), (Listener, "a=2")]);
    assert_eq!(show_all(&responses), ["Cluster a=2", "Listener a=2"]);
}

#[test]
fn route_waits_for_new_clusters() {
    let mut fixture = Fixture::with_shared(&[(Route, "r=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(subscribe(Route, &["r"]));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Route, "r=2")]);
    assert_eq!(show_all(&clusters), ["Cluster a=1"]);
    assert_eq!(show_all(&fixture.send(ack(&clusters[0]))), ["Route r=2"]);
}

#[test]
fn cluster_is_removed_after_its_listener() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Listener, "a=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(subscribe(Endpoints, &["a"]));
    fixture.send_and_ack_all(request(Listener));
    let listeners = fixture.remove(&[(Cluster, "a"), (Endpoints, "a"), (Listener, "a")]);
    assert_eq!(show_all(&listeners), ["Listener -a"]);
    let clusters = fixture.send(ack(&listeners[0]));
    assert_eq!(show_all(&clusters), ["Cluster -a"]);
    // Envoy drops the endpoints with the cluster, so their removal is not sent.
    assert!(fixture.send(unsubscribe(Endpoints, "a")).is_empty());
    assert!(fixture.send(ack(&clusters[0])).is_empty());
    assert!(fixture.stream.is_settled());
}

#[test]
fn later_listener_changes_do_not_delay_a_cluster_removal() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Listener, "a=1"), (Listener, "b=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let listeners = fixture.remove(&[(Cluster, "a"), (Listener, "a")]);
    fixture.publish(&[(Listener, "b=2")]);
    let responses = fixture.send(ack(&listeners[0]));
    assert_eq!(show_all(&responses), ["Cluster -a", "Listener b=2"]);
}

#[test]
fn removal_of_a_changed_cluster_waits_for_its_listener() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Cluster, "b=1"), (Listener, "a=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "b=2")]);
    fixture.publish(&[(Cluster, "a=2")]);
    let listeners = fixture.remove(&[(Cluster, "a"), (Listener, "a")]);
    assert_eq!(show_all(&listeners), ["Listener -a"]);
    assert!(fixture.send(ack(&clusters[0])).is_empty());
    assert_eq!(show_all(&fixture.send(ack(&listeners[0]))), ["Cluster -a"]);
}

#[test]
fn cluster_removal_waits_until_a_reconnecting_client_reports_its_listeners() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "b=1"), (Listener, "b=1")]);
    let clusters = fixture.send(with_initial_versions(request(Cluster), &[("a", "1")]));
    assert_eq!(
        show_all(&clusters),
        ["Cluster b=1"],
        "a cluster must not be removed while listeners may refer to it"
    );
    let listeners = fixture.send(with_initial_versions(request(Listener), &[("a", "1")]));
    assert_eq!(show_all(&listeners), ["Listener -a"]);
    assert!(fixture.send(ack(&clusters[0])).is_empty());
    let listeners = fixture.send(ack(&listeners[0]));
    assert_eq!(show_all(&listeners), ["Listener b=1"]);
    assert_eq!(show_all(&fixture.send(ack(&listeners[0]))), ["Cluster -a"]);
}

#[test]
fn endpoints_are_sent_again_after_every_change_of_their_cluster() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Endpoints, "b=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(subscribe(Endpoints, &["a", "b"]));
    let responses = fixture.publish(&[(Cluster, "a=2")]);
    assert_eq!(show_all(&responses), ["Cluster a=2", "Endpoints a=1"]);
}

#[test]
fn earlier_version_of_endpoints_is_sent_after_a_cluster_change_and_a_rejection() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Endpoints, "a=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(subscribe(Endpoints, &["a"]));
    let responses = fixture.publish(&[(Cluster, "a=2"), (Endpoints, "a=2")]);
    assert_eq!(show_all(&responses), ["Cluster a=2", "Endpoints a=2"]);
    fixture.send(ack(&responses[0]));
    fixture.send(nack(&responses[1]));
    // Envoy dropped the accepted endpoints with the old cluster, so the new cluster has no endpoints.
    let responses = fixture.publish(&[(Endpoints, "a=1")]);
    assert_eq!(show_all(&responses), ["Endpoints a=1"]);
}

#[test]
fn endpoints_are_sent_again_if_their_cluster_was_sent_before_they_were_requested() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=2"), (Endpoints, "a=1"), (Endpoints, "b=1")]);
    let clusters = fixture.send(with_initial_versions(request(Cluster), &[("a", "1")]));
    assert_eq!(show_all(&clusters), ["Cluster a=2"]);
    let endpoints = with_initial_versions(subscribe(Endpoints, &["a", "b"]), &[("a", "1"), ("b", "1")]);
    assert_eq!(show_all(&fixture.send(endpoints)), ["Endpoints a=1"]);
}

#[test]
fn endpoints_change_is_acknowledged_by_an_ack_and_not_by_a_nack() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Endpoints, "a=1")]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(subscribe(Endpoints, &["a"]));
    assert!(fixture.are_endpoints_acknowledged());
    let responses = fixture.publish(&[(Endpoints, "a=2")]);
    assert!(!fixture.are_endpoints_acknowledged());
    fixture.send(nack(&responses[0]));
    assert!(
        !fixture.are_endpoints_acknowledged(),
        "a NACK must not acknowledge the change"
    );
    let responses = fixture.publish(&[(Endpoints, "a=3")]);
    fixture.send(ack(&responses[0]));
    assert!(fixture.are_endpoints_acknowledged());
}

#[test]
fn reconnecting_client_acknowledges_nothing_before_it_reports_its_endpoints() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "a=1"), (Endpoints, "a=2")]);
    let clusters = fixture.send(with_initial_versions(request(Cluster), &[("a", "1")]));
    assert!(!fixture.are_endpoints_acknowledged());
    let endpoints = with_initial_versions(subscribe(Endpoints, &["a"]), &[("a", "1")]);
    let responses = fixture.send(endpoints);
    assert_eq!(show_all(&responses), ["Endpoints a=2"]);
    fixture.send(ack(&clusters[0]));
    assert!(!fixture.are_endpoints_acknowledged());
    fixture.send(ack(&responses[0]));
    assert!(fixture.are_endpoints_acknowledged());

    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    assert!(
        fixture.are_endpoints_acknowledged(),
        "a client without clusters has no endpoints to acknowledge"
    );
}

#[test]
fn large_response_is_split_and_a_large_resource_is_sent_alone() {
    let large = format!("m={}", "x".repeat(500));
    let mut fixture = Fixture::with_shared(&[
        (Secret, "a=1"),
        (Secret, "b=1"),
        (Secret, &large),
        (Secret, "z=1"),
    ]);
    fixture.stream = Stream::new(Limits {
        response_bytes: 300,
        ..LIMITS
    });
    let responses = fixture.send_and_ack_all(subscribe(Secret, &["a", "b", "m", "z"]));
    assert_eq!(
        responses,
        ["Secret a=1 b=1 z=1".to_owned(), format!("Secret {large}")]
    );
}

#[test]
fn subscription_above_the_limit_of_names_is_an_error() {
    let mut fixture = Fixture::with_shared(&[]);
    // One name more than the limit.
    let names: Vec<String> = (0..11).map(|i| i.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let result = fixture.stream.on_request(subscribe(Endpoints, &names), None);
    assert_eq!(result, Err(RequestError::TooManyNames { limit: 10 }));
    assert!(
        fixture
            .stream
            .on_request(subscribe(Endpoints, &names[..3]), None)
            .is_err(),
        "the names of the failed request must still count"
    );
}

#[test]
fn name_beyond_the_limit_of_names_without_resource_is_reported_as_removed_and_not_stored() {
    let mut fixture = Fixture::with_shared(&[(Cluster, "existing=1")]);
    fixture.stream = Stream::new(Limits {
        names_without_resource: 4,
        ..LIMITS
    });
    fixture.send_and_ack_all(subscribe(Cluster, &["*", "a", "b", "c", "d"]));
    let output = fixture.send_for_output(subscribe(Cluster, &["e", "existing", "b", "f"]));
    let ignored = Event::NamesIgnored {
        kind: Cluster,
        count: 2,
    };
    assert_eq!(output.events, [ignored]);
    assert_eq!(
        show_all(&output.responses),
        ["Cluster existing=1 -b -e -f"],
        "the limit applies neither to existing resources nor to stored names"
    );
    fixture.send(ack(&output.responses[0]));
    let proxy_resources = ["a=1", "b=1", "e=1"].map(|text| mk_on_demand(text, &[]));
    fixture
        .store
        .replace_proxy(&proxy_key(), profile(), proxy_resources.to_vec());
    let responses = fixture.read_changes();
    assert_eq!(show_all(&responses), ["Cluster a=1 b=1"]);
    fixture.send(ack(&responses[0]));
    // A name that is no longer subscribed makes room for another one.
    fixture.send_and_ack_all(unsubscribe(Cluster, "a"));
    assert_eq!(fixture.send_for_output(subscribe(Cluster, &["g"])).events, []);
}

#[test]
fn names_without_resource_are_not_limited_without_a_wildcard() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.stream = Stream::new(Limits {
        names_without_resource: 0,
        ..LIMITS
    });
    let responses = fixture.send(subscribe(Endpoints, &["a"]));
    assert_eq!(show_all(&responses), ["Endpoints -a"]);
    fixture.send(ack(&responses[0]));
    let responses = fixture.publish(&[(Endpoints, "a=1")]);
    assert_eq!(show_all(&responses), ["Endpoints a=1"]);
}

#[test]
fn ignored_names_do_not_accumulate_while_the_client_does_not_ack() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.stream = Stream::new(Limits {
        names_without_resource: 2,
        ..LIMITS
    });
    let first = fixture.send(subscribe(Cluster, &["*", "a", "b"]));
    for name in ["c", "d", "e"] {
        assert_eq!(fixture.send(subscribe(Cluster, &[name])), []);
    }
    assert_eq!(show_all(&fixture.send(ack(&first[0]))), ["Cluster -c -d"]);
}

#[test]
fn unserved_type_gets_a_response_without_resources() {
    let mut fixture = Fixture::with_shared(&[]);
    let request = DeltaDiscoveryRequest {
        type_url: "x/Other".into(),
        ..subscribe(Cluster, &["a", "*"])
    };
    let responses = fixture.send(request);
    assert_eq!(show_all(&responses), ["x/Other -a"]);
    assert!(fixture.send(ack(&responses[0])).is_empty());
}

/// Returns a profile with a tombstone of version `none` for every cluster.
fn profile_with_tombstones() -> Profile {
    let tombstone = |kind, name: &str| (kind == Cluster).then(|| mk_resource(kind, &format!("{name}=none")));
    Profile {
        tombstones: Some(Tombstones::new(tombstone)),
        ..profile()
    }
}

/// Returns an on-demand cluster that is held until the resources in `after` are acknowledged.
fn mk_on_demand(text: &str, after: &[(ResourceKind, &str)]) -> Resource {
    let after = after.iter().map(|(kind, name)| (*kind, (*name).into()));
    Resource {
        on_demand: Some(Box::new(OnDemand {
            after: after.collect(),
        })),
        ..mk_resource(Cluster, text)
    }
}

#[test]
fn missing_resource_has_a_tombstone_before_its_creation_and_after_its_removal() {
    let mut fixture = Fixture::with_shared(&[]);
    let profile = profile_with_tombstones();
    fixture.store.replace_proxy(&proxy_key(), profile, Vec::new());
    assert_eq!(fixture.read_changes(), []);
    assert_eq!(
        fixture.send_and_ack_all(subscribe(Cluster, &["*", "a"])),
        ["Cluster a=none"]
    );
    let responses = fixture.publish(&[(Cluster, "a=1")]);
    assert_eq!(show_all(&responses), ["Cluster a=1"]);
    fixture.send(ack(&responses[0]));
    let responses = fixture.remove(&[(Cluster, "a")]);
    assert_eq!(show_all(&responses), ["Cluster a=none"]);
    fixture.send(ack(&responses[0]));
    // The profile has no tombstones for other kinds.
    assert_eq!(
        fixture.send_and_ack_all(subscribe(Endpoints, &["a"])),
        ["Endpoints -a"]
    );
    // With a wildcard subscription, the protocol requires a response to the unsubscription. The wildcard does not
    // include a tombstone, so the response is a removal.
    assert_eq!(
        fixture.send_and_ack_all(unsubscribe(Cluster, "a")),
        ["Cluster -a"]
    );
}

#[test]
fn tombstone_that_a_reconnecting_client_reports_is_not_sent_again() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture
        .store
        .replace_proxy(&proxy_key(), profile_with_tombstones(), Vec::new());
    assert_eq!(fixture.read_changes(), []);
    let first_request = with_initial_versions(subscribe(Cluster, &["*", "a", "b"]), &[("a", "none")]);
    assert_eq!(fixture.send_and_ack_all(first_request), ["Cluster b=none"]);
}

#[test]
fn on_demand_resource_is_held_until_other_resources_are_acknowledged_and_delays_nothing_else() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.send_and_ack_all(request(Listener));
    let after = [(Cluster, "svc"), (Listener, "out"), (Route, "does-not-exist")];
    // A resource that does not exist holds nothing.
    fixture.shared.push(mk_on_demand("dst=1", &after));
    let clusters = fixture.publish(&[(Cluster, "svc=1"), (Listener, "out=1")]);
    assert_eq!(show_all(&clusters), ["Cluster svc=1"]);
    assert_eq!(fixture.send(subscribe(Cluster, &["dst", "other"])), []);
    let responses = fixture.send(ack(&clusters[0]));
    assert_eq!(show_all(&responses), ["Cluster -other", "Listener out=1"]);
    assert_eq!(fixture.send(ack(&responses[0])), []);
    assert_eq!(show_all(&fixture.send(ack(&responses[1]))), ["Cluster dst=1"]);
}

#[test]
fn nack_ends_the_hold_of_an_on_demand_resource() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    fixture.shared.push(mk_on_demand("dst=1", &[(Cluster, "svc")]));
    let clusters = fixture.publish(&[(Cluster, "svc=1")]);
    assert_eq!(fixture.send(subscribe(Cluster, &["dst"])), []);
    assert_eq!(show_all(&fixture.send(nack(&clusters[0]))), ["Cluster dst=1"]);
}

#[test]
fn deadline_ends_the_hold_of_an_on_demand_resource() {
    let mut fixture = Fixture::with_shared(&[]);
    fixture.send_and_ack_all(request(Cluster));
    // The client never requests listeners.
    fixture.shared.push(mk_on_demand("dst=1", &[(Listener, "out")]));
    assert_eq!(fixture.publish(&[(Listener, "out=1")]), []);
    let start = Instant::now();
    assert_eq!(fixture.stream.next_deadline(start), None);
    assert_eq!(fixture.send(subscribe(Cluster, &["dst"])), []);
    let deadline = start + LIMITS.hold;
    assert_eq!(fixture.stream.next_deadline(start), Some(deadline));
    let before_deadline = start + LIMITS.hold / 2;
    assert_eq!(fixture.stream.next_deadline(before_deadline), Some(deadline));
    let mut on_deadline = |now| {
        let stream = &mut fixture.stream;
        let step = |view: Option<crate::store::View<'_>>, _| stream.on_deadline(now, view.as_ref());
        show_all(&fixture.watcher.read(step).responses)
    };
    assert_eq!(on_deadline(before_deadline), [] as [&str; 0]);
    assert_eq!(on_deadline(deadline), ["Cluster dst=1"]);
    assert_eq!(fixture.stream.next_deadline(deadline), None);
}
