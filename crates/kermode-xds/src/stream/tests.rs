use std::collections::HashSet;

use kermode_envoy::Resource;
use kermode_envoy::ResourceKind::{Cluster, Endpoints, Listener, Route, Secret};
use kermode_model::ObjectKey;
use kermode_protocol::ads;
use prost::Message;

use super::*;
use crate::store::{Profile, Store, Visibility, Watcher};

const LIMITS: Limits = Limits {
    response_bytes: 1 << 20,
    names: 10,
    pending: 1000,
    hold: Duration::from_secs(3),
};

/// One stream over a store. Resources are named and versioned as `a=1`.
struct Fixture {
    store: Arc<Store>,
    stream: Stream,
    watcher: Watcher,
    shared: Vec<Resource>,
}

fn proxy() -> ObjectKey {
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

fn with_versions(request: DeltaDiscoveryRequest, versions: &[(&str, &str)]) -> DeltaDiscoveryRequest {
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

/// A response as text: `Cluster a=1 b=2 -c`, removed names with a minus.
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

fn shown(responses: &[Response]) -> Vec<String> {
    responses.iter().map(show).collect()
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        let store = Arc::new(Store::default());
        let watcher = store.watch(&proxy());
        Self {
            store,
            stream: Stream::new(limits),
            watcher,
            shared: Vec::new(),
        }
    }

    /// A known proxy whose mesh shares these.
    fn with(shared: &[(ResourceKind, &str)]) -> Self {
        let mut fixture = Self::new(LIMITS);
        fixture.store.replace_proxy(&proxy(), profile(), Vec::new());
        fixture.publish(shared);
        fixture
    }

    /// Publishes these, in place of what was published under the same names.
    fn publish(&mut self, resources: &[(ResourceKind, &str)]) -> Vec<Response> {
        for resource in resources.iter().map(|(kind, text)| mk_resource(*kind, text)) {
            self.shared
                .retain(|old| (old.kind, &old.name) != (resource.kind, &resource.name));
            self.shared.push(resource);
        }
        self.store.replace_mesh(&"default".into(), self.shared.clone());
        self.look()
    }

    fn retract(&mut self, names: &[(ResourceKind, &str)]) -> Vec<Response> {
        self.shared.retain(|old| !names.contains(&(old.kind, &*old.name)));
        self.publish(&[])
    }

    fn look(&mut self) -> Vec<Response> {
        let stream = &mut self.stream;
        self.watcher
            .read(|view, changes| stream.on_change(changes, view.as_ref()))
            .responses
    }

    fn send(&mut self, request: DeltaDiscoveryRequest) -> Vec<Response> {
        self.step(request).responses
    }

    fn step(&mut self, request: DeltaDiscoveryRequest) -> Output {
        assert_eq!(self.look(), [], "the test takes changes before it sends");
        let stream = &mut self.stream;
        self.watcher
            .read(|view, _| stream.on_request(request, view.as_ref()))
            .unwrap()
    }

    /// Whether everything that changed of endpoints is confirmed.
    fn is_confirmed(&mut self) -> bool {
        let stream = &self.stream;
        self.watcher.read(|view, _| {
            let view = view.unwrap();
            stream.acknowledged_sequence(&view) == Some(view.sequence())
        })
    }

    /// Sends a request and acknowledges everything until nothing comes any more; returns what came.
    fn settle(&mut self, request: DeltaDiscoveryRequest) -> Vec<String> {
        let mut seen = Vec::new();
        let mut responses = self.send(request);
        while !responses.is_empty() {
            seen.extend(shown(&responses));
            responses = responses
                .iter()
                .flat_map(|response| self.send(ack(response)))
                .collect();
        }
        seen
    }
}

#[test]
fn a_wildcard_is_answered_even_if_there_is_nothing() {
    for wildcard in [request(Cluster), subscribe(Cluster, &["*"]), request(Listener)] {
        let mut fixture = Fixture::with(&[]);
        let responses = fixture.send(wildcard);
        assert_eq!(responses.len(), 1, "{responses:?}");
        assert!(responses[0].message.resources.is_empty());
        assert!(fixture.send(ack(&responses[0])).is_empty());
        assert!(fixture.stream.is_settled());
    }
}

#[test]
fn an_empty_first_request_for_another_kind_asks_for_nothing() {
    let mut fixture = Fixture::with(&[(Endpoints, "a=1"), (Secret, "s=1")]);
    assert!(fixture.send(request(Endpoints)).is_empty());
    assert!(fixture.send(request(Secret)).is_empty());
}

#[test]
fn nothing_is_answered_before_the_proxy_is_known() {
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
        .replace_proxy(&proxy(), profile(), vec![mk_resource(Cluster, "own=1")]);
    assert_eq!(shown(&fixture.look()), ["x/Other", "Cluster a=1 own=1"]);
}

#[test]
fn a_proxy_that_is_gone_keeps_what_it_has() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1")]);
    fixture.settle(request(Cluster));
    fixture.store.remove_proxy(&proxy());
    assert!(fixture.retract(&[(Cluster, "a")]).is_empty());
    fixture.store.replace_proxy(&proxy(), profile(), Vec::new());
    assert_eq!(shown(&fixture.look()), ["Cluster -a"]);
}

#[test]
fn a_name_that_does_not_exist_is_answered_once_and_sent_when_it_does() {
    let mut fixture = Fixture::with(&[]);
    assert_eq!(fixture.settle(subscribe(Endpoints, &["a"])), ["Endpoints -a"]);
    assert!(fixture.publish(&[(Endpoints, "other=1")]).is_empty());
    assert_eq!(shown(&fixture.publish(&[(Endpoints, "a=1")])), ["Endpoints a=1"]);
}

#[test]
fn a_name_that_is_asked_for_again_is_answered_again() {
    let mut fixture = Fixture::with(&[(Endpoints, "a=1"), (Endpoints, "b=1")]);
    fixture.settle(subscribe(Endpoints, &["a", "b"]));
    assert_eq!(fixture.settle(subscribe(Endpoints, &["a"])), ["Endpoints a=1"]);
}

#[test]
fn wildcard_and_names_of_one_kind_live_side_by_side() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1")]);
    assert_eq!(
        fixture.settle(subscribe(Cluster, &["*", "dst|10.0.0.1:80"])),
        ["Cluster a=1 -dst|10.0.0.1:80"]
    );
    let responses = fixture.publish(&[(Cluster, "dst|10.0.0.1:80=1"), (Cluster, "b=1")]);
    assert_eq!(shown(&responses), ["Cluster b=1 dst|10.0.0.1:80=1"]);
    fixture.send(ack(&responses[0]));

    // The client cannot tell what the wildcard still gives it, so it is told.
    assert_eq!(
        fixture.settle(unsubscribe(Cluster, "dst|10.0.0.1:80")),
        ["Cluster dst|10.0.0.1:80=1"]
    );
    // Without the wildcard only names count, and what the client dropped itself is not removed.
    assert_eq!(fixture.settle(subscribe(Cluster, &["b"])), ["Cluster b=1"]);
    assert!(fixture.settle(unsubscribe(Cluster, "*")).is_empty());
    assert!(fixture.publish(&[(Cluster, "a=2")]).is_empty());
    assert_eq!(shown(&fixture.publish(&[(Cluster, "b=2")])), ["Cluster b=2"]);
}

#[test]
fn a_name_that_is_unsubscribed_is_not_sent_any_more() {
    let mut fixture = Fixture::with(&[(Endpoints, "a=1")]);
    fixture.settle(subscribe(Endpoints, &["a"]));
    assert!(fixture.settle(unsubscribe(Endpoints, "a")).is_empty());
    assert!(fixture.publish(&[(Endpoints, "a=2")]).is_empty());
    assert!(fixture.retract(&[(Endpoints, "a")]).is_empty());
}

#[test]
fn a_client_that_comes_back_gets_what_differs_and_what_is_gone() {
    let mut fixture = Fixture::with(&[(Listener, "same=1"), (Listener, "changed=2"), (Listener, "new=1")]);
    let first = with_versions(
        request(Listener),
        &[("same", "1"), ("changed", "1"), ("gone", "1")],
    );
    assert_eq!(fixture.settle(first), ["Listener changed=2 new=1 -gone"]);

    let mut fixture = Fixture::with(&[(Endpoints, "same=1"), (Endpoints, "changed=2")]);
    let names = subscribe(Endpoints, &["same", "changed", "gone", "never"]);
    let first = with_versions(names, &[("same", "1"), ("changed", "1"), ("gone", "1")]);
    assert_eq!(fixture.settle(first), ["Endpoints changed=2 -gone -never"]);
}

#[test]
fn what_changes_while_a_response_is_in_flight_is_sent_once_after_its_answer() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1")]);
    let responses = fixture.send(request(Cluster));
    for change in ["a=2", "b=1", "a=3", "c=1"] {
        assert!(fixture.publish(&[(Cluster, change)]).is_empty());
    }
    assert!(fixture.retract(&[(Cluster, "c")]).is_empty());
    assert_eq!(shown(&fixture.send(ack(&responses[0]))), ["Cluster a=3 b=1"]);
}

#[test]
fn so_many_changes_that_they_are_not_remembered_are_still_sent() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1")]);
    fixture.stream = Stream::new(Limits { pending: 2, ..LIMITS });
    let responses = fixture.send(request(Cluster));
    for change in ["b=1", "c=1", "d=1", "e=1"] {
        fixture.publish(&[(Cluster, change)]);
    }
    fixture.retract(&[(Cluster, "a")]);
    assert_eq!(
        shown(&fixture.send(ack(&responses[0]))),
        ["Cluster b=1 c=1 d=1 e=1 -a"]
    );
}

#[test]
fn an_answer_to_something_else_is_ignored() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1")]);
    let responses = fixture.send(request(Cluster));
    fixture.publish(&[(Cluster, "a=2")]);
    let stale = DeltaDiscoveryRequest {
        response_nonce: "stale".into(),
        ..request(Cluster)
    };
    assert_eq!(fixture.step(stale), Output::default());
    let output = fixture.step(ack(&responses[0]));
    assert!(
        matches!(&output.events[..], [Event::Acknowledged { kind: Cluster, .. }]),
        "{output:?}"
    );
    assert_eq!(shown(&output.responses), ["Cluster a=2"]);
    assert_eq!(
        fixture.step(ack(&responses[0])),
        Output::default(),
        "it was answered already"
    );
}

#[test]
fn a_rejected_resource_is_not_sent_again_until_it_changes() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1")]);
    let responses = fixture.send(request(Cluster));
    let output = fixture.step(nack(&responses[0]));
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
    let rejection = fixture.stream.rejections().next().expect("it is remembered");
    assert_eq!(
        (&*rejection.resource.version, &*rejection.message),
        ("1", "bad address")
    );

    let responses = fixture.publish(&[(Cluster, "b=1")]);
    assert_eq!(shown(&responses), ["Cluster b=1"]);
    fixture.send(ack(&responses[0]));
    // Another profile has everything compared.
    let visibility = Visibility::Only(HashSet::new());
    fixture.store.replace_proxy(
        &proxy(),
        Profile {
            visibility,
            ..profile()
        },
        Vec::new(),
    );
    assert!(fixture.look().is_empty());
    let responses = fixture.publish(&[(Cluster, "a=2")]);
    assert_eq!(shown(&responses), ["Cluster a=2"]);
    fixture.send(ack(&responses[0]));
    assert_eq!(fixture.stream.rejections().count(), 0);
}

#[test]
fn the_bad_one_of_a_rejected_response_is_found_and_the_others_are_accepted() {
    let all: Vec<String> = (0..8).map(|i| format!("{i}=1")).collect();
    let all: Vec<(ResourceKind, &str)> = all.iter().map(|text| (Cluster, text.as_str())).collect();
    let mut fixture = Fixture::with(&all);
    let mut responses = fixture.send(request(Cluster));
    let mut accepted = String::new();
    let mut count = 0;
    while let Some(response) = responses.pop() {
        count += 1;
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
            "{i} is missing in {accepted}"
        );
    }
    assert_eq!(
        count, 7,
        "the first, and two for each of three times that it was halved"
    );
}

#[test]
fn a_listener_waits_for_the_clusters_and_endpoints_published_before_it() {
    let mut fixture = Fixture::with(&[]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Listener, "a=1")]);
    assert_eq!(shown(&clusters), ["Cluster a=1"]);
    // Envoy asks for the endpoints before it acknowledges the cluster.
    let endpoints = fixture.send(subscribe(Endpoints, &["a"]));
    assert_eq!(shown(&endpoints), ["Endpoints a=1"]);
    assert!(
        fixture.send(ack(&clusters[0])).is_empty(),
        "the endpoints are not there yet"
    );
    assert_eq!(shown(&fixture.send(ack(&endpoints[0]))), ["Listener a=1"]);
}

#[test]
fn a_listener_does_not_wait_for_endpoints_that_nobody_asks_for() {
    let mut fixture = Fixture::with(&[]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Listener, "a=1")]);
    assert_eq!(shown(&fixture.send(ack(&clusters[0]))), ["Listener a=1"]);
}

#[test]
fn a_listener_does_not_wait_for_a_rejected_cluster_nor_for_rejected_endpoints() {
    let mut fixture = Fixture::with(&[]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Listener, "a=1")]);
    let listeners = fixture.send(nack(&clusters[0]));
    assert_eq!(shown(&listeners), ["Listener a=1"]);
    fixture.send(ack(&listeners[0]));

    let clusters = fixture.publish(&[(Cluster, "b=1"), (Endpoints, "b=1"), (Listener, "b=1")]);
    let endpoints = fixture.send(subscribe(Endpoints, &["b"]));
    fixture.send(ack(&clusters[0]));
    assert_eq!(shown(&fixture.send(nack(&endpoints[0]))), ["Listener b=1"]);
}

#[test]
fn a_listener_does_not_wait_for_clusters_published_after_it() {
    let mut fixture = Fixture::with(&[]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "a=1")]);
    fixture.publish(&[(Listener, "a=1")]);
    fixture.publish(&[(Cluster, "b=1")]);
    let responses = fixture.send(ack(&clusters[0]));
    assert_eq!(shown(&responses), ["Cluster b=1", "Listener a=1"]);
}

#[test]
fn a_changed_cluster_holds_no_listener_back() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Listener, "a=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let responses = fixture.publish(&[(Cluster, "a=2"), (Listener, "a=2")]);
    assert_eq!(shown(&responses), ["Cluster a=2", "Listener a=2"]);
}

#[test]
fn a_route_waits_for_new_clusters_too() {
    let mut fixture = Fixture::with(&[(Route, "r=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(subscribe(Route, &["r"]));
    let clusters = fixture.publish(&[(Cluster, "a=1"), (Route, "r=2")]);
    assert_eq!(shown(&clusters), ["Cluster a=1"]);
    assert_eq!(shown(&fixture.send(ack(&clusters[0]))), ["Route r=2"]);
}

#[test]
fn a_cluster_is_removed_after_the_listener_that_used_it() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Listener, "a=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(subscribe(Endpoints, &["a"]));
    fixture.settle(request(Listener));
    let listeners = fixture.retract(&[(Cluster, "a"), (Endpoints, "a"), (Listener, "a")]);
    assert_eq!(shown(&listeners), ["Listener -a"]);
    let clusters = fixture.send(ack(&listeners[0]));
    assert_eq!(shown(&clusters), ["Cluster -a"]);
    // Envoy drops the endpoints with the cluster, so it need not be told.
    assert!(fixture.send(unsubscribe(Endpoints, "a")).is_empty());
    assert!(fixture.send(ack(&clusters[0])).is_empty());
    assert!(fixture.stream.is_settled());
}

#[test]
fn later_changes_of_listeners_do_not_keep_a_cluster_alive() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Listener, "a=1"), (Listener, "b=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let listeners = fixture.retract(&[(Cluster, "a"), (Listener, "a")]);
    fixture.publish(&[(Listener, "b=2")]);
    let responses = fixture.send(ack(&listeners[0]));
    assert_eq!(shown(&responses), ["Cluster -a", "Listener b=2"]);
}

#[test]
fn a_cluster_that_changed_before_it_was_removed_waits_for_its_listener_too() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Cluster, "b=1"), (Listener, "a=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(request(Listener));
    let clusters = fixture.publish(&[(Cluster, "b=2")]);
    fixture.publish(&[(Cluster, "a=2")]);
    let listeners = fixture.retract(&[(Cluster, "a"), (Listener, "a")]);
    assert_eq!(shown(&listeners), ["Listener -a"]);
    assert!(fixture.send(ack(&clusters[0])).is_empty());
    assert_eq!(shown(&fixture.send(ack(&listeners[0]))), ["Cluster -a"]);
}

#[test]
fn a_client_that_comes_back_first_says_which_listeners_it_has() {
    let mut fixture = Fixture::with(&[(Cluster, "b=1"), (Listener, "b=1")]);
    let clusters = fixture.send(with_versions(request(Cluster), &[("a", "1")]));
    assert_eq!(
        shown(&clusters),
        ["Cluster b=1"],
        "listeners may still use the old one"
    );
    let listeners = fixture.send(with_versions(request(Listener), &[("a", "1")]));
    assert_eq!(shown(&listeners), ["Listener -a"]);
    assert!(fixture.send(ack(&clusters[0])).is_empty());
    let listeners = fixture.send(ack(&listeners[0]));
    assert_eq!(shown(&listeners), ["Listener b=1"]);
    assert_eq!(shown(&fixture.send(ack(&listeners[0]))), ["Cluster -a"]);
}

#[test]
fn endpoints_follow_every_version_of_their_cluster() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Endpoints, "a=1"), (Endpoints, "b=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(subscribe(Endpoints, &["a", "b"]));
    let responses = fixture.publish(&[(Cluster, "a=2")]);
    assert_eq!(shown(&responses), ["Cluster a=2", "Endpoints a=1"]);
}

#[test]
fn endpoints_that_a_changed_cluster_refused_are_replaced_even_by_those_it_had_before() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Endpoints, "a=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(subscribe(Endpoints, &["a"]));
    let responses = fixture.publish(&[(Cluster, "a=2"), (Endpoints, "a=2")]);
    assert_eq!(shown(&responses), ["Cluster a=2", "Endpoints a=2"]);
    fixture.send(ack(&responses[0]));
    fixture.send(nack(&responses[1]));
    // The new cluster has none: those that the client accepted went with the old one.
    let responses = fixture.publish(&[(Endpoints, "a=1")]);
    assert_eq!(shown(&responses), ["Endpoints a=1"]);
}

#[test]
fn endpoints_follow_a_cluster_that_overtook_the_question_for_them() {
    let mut fixture = Fixture::with(&[(Cluster, "a=2"), (Endpoints, "a=1"), (Endpoints, "b=1")]);
    let clusters = fixture.send(with_versions(request(Cluster), &[("a", "1")]));
    assert_eq!(shown(&clusters), ["Cluster a=2"]);
    let endpoints = with_versions(subscribe(Endpoints, &["a", "b"]), &[("a", "1"), ("b", "1")]);
    assert_eq!(shown(&fixture.send(endpoints)), ["Endpoints a=1"]);
}

#[test]
fn a_change_of_endpoints_is_confirmed_by_its_answer_alone() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Endpoints, "a=1")]);
    fixture.settle(request(Cluster));
    fixture.settle(subscribe(Endpoints, &["a"]));
    assert!(fixture.is_confirmed());
    let responses = fixture.publish(&[(Endpoints, "a=2")]);
    assert!(!fixture.is_confirmed());
    fixture.send(nack(&responses[0]));
    assert!(!fixture.is_confirmed(), "it keeps those that it had");
    let responses = fixture.publish(&[(Endpoints, "a=3")]);
    fixture.send(ack(&responses[0]));
    assert!(fixture.is_confirmed());
}

#[test]
fn a_client_that_comes_back_may_have_endpoints_until_it_says_what_it_has() {
    let mut fixture = Fixture::with(&[(Cluster, "a=1"), (Endpoints, "a=2")]);
    let clusters = fixture.send(with_versions(request(Cluster), &[("a", "1")]));
    assert!(!fixture.is_confirmed());
    let endpoints = with_versions(subscribe(Endpoints, &["a"]), &[("a", "1")]);
    let responses = fixture.send(endpoints);
    assert_eq!(shown(&responses), ["Endpoints a=2"]);
    fixture.send(ack(&clusters[0]));
    assert!(!fixture.is_confirmed());
    fixture.send(ack(&responses[0]));
    assert!(fixture.is_confirmed());

    let mut fixture = Fixture::with(&[]);
    fixture.settle(request(Cluster));
    assert!(fixture.is_confirmed(), "without clusters there are no endpoints");
}

#[test]
fn a_large_set_is_split_and_one_large_resource_goes_alone() {
    let large = format!("m={}", "x".repeat(500));
    let mut fixture = Fixture::with(&[
        (Secret, "a=1"),
        (Secret, "b=1"),
        (Secret, &large),
        (Secret, "z=1"),
    ]);
    fixture.stream = Stream::new(Limits {
        response_bytes: 300,
        ..LIMITS
    });
    let responses = fixture.settle(subscribe(Secret, &["a", "b", "m", "z"]));
    assert_eq!(
        responses,
        ["Secret a=1 b=1 z=1".to_owned(), format!("Secret {large}")]
    );
}

#[test]
fn too_many_names_end_the_stream() {
    let mut fixture = Fixture::with(&[]);
    let names: Vec<String> = (0..11).map(|i| i.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = fixture.stream.on_request(subscribe(Endpoints, &names), None);
    assert_eq!(refused, Err(RequestError::TooManyNames { limit: 10 }));
    assert!(
        fixture
            .stream
            .on_request(subscribe(Endpoints, &names[..3]), None)
            .is_err(),
        "they are still there"
    );
}

#[test]
fn a_kind_that_is_not_served_is_answered_with_nothing() {
    let mut fixture = Fixture::with(&[]);
    let asked = DeltaDiscoveryRequest {
        type_url: "x/Other".into(),
        ..subscribe(Cluster, &["a", "*"])
    };
    let responses = fixture.send(asked);
    assert_eq!(shown(&responses), ["x/Other -a"]);
    assert!(fixture.send(ack(&responses[0])).is_empty());
}
