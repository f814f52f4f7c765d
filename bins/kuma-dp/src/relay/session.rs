//! One ADS stream of Envoy's as a state machine without IO: what Envoy wants and has, and which stream to the control
//! plane, or the cache in its place, has to answer.
//!
//! Envoy's stream outlives those to the control plane. A new one begins with all that Envoy subscribed to and the versions
//! that Envoy acknowledged, so only differences come; nonces are replaced, since each stream counts its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};
use prost::Message as _;

use super::cache::{Cache, Entry, Item};

const WILDCARD: &str = "*";
/// The version of what Envoy was sent and has not answered yet: no version at all, so that the control plane says what is
/// right.
const UNSURE: &str = "?";

/// What a step leads to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Output {
    /// To Envoy, in this order.
    pub(super) responses: Vec<DeltaDiscoveryResponse>,
    /// To the control plane.
    pub(super) request: Option<DeltaDiscoveryRequest>,
}

/// The machine.
#[derive(Debug, Default)]
pub(super) struct Session {
    node: Option<Node>,
    /// In the order in which Envoy asked for them first, which is the order it needs them in.
    subscriptions: Vec<Subscription>,
    /// Counts the streams to the control plane.
    epoch: u64,
    link: Link,
    /// Whether the cache answers.
    is_offline: bool,
    nonces: u64,
    /// What Envoy has not answered yet, by nonce.
    in_flight: HashMap<String, InFlight>,
}

/// The stream to the control plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Closed,
    /// Nothing was sent on it.
    New,
    Introduced,
}

/// What Envoy wants and has of one kind.
#[derive(Debug)]
struct Subscription {
    kind: Arc<str>,
    /// It wants whatever there is,
    wildcard: bool,
    /// and these.
    names: BTreeSet<String>,
    /// What it acknowledged: a version, or that there is no such resource.
    known: HashMap<Arc<str>, Option<Arc<str>>>,
    /// Whether it got a response.
    is_answered: bool,
}

/// A response that Envoy has not answered.
#[derive(Debug)]
struct InFlight {
    kind: Arc<str>,
    source: Source,
    items: Vec<(Arc<str>, Item)>,
    removed: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Source {
    Cache,
    ControlPlane { epoch: u64, nonce: String },
}

// === impl Session ===

impl Session {
    /// Whether Envoy has asked for something.
    pub(super) fn is_begun(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Takes a request of Envoy's.
    pub(super) fn on_request(&mut self, mut request: DeltaDiscoveryRequest, cache: &mut Cache) -> Output {
        if let Some(node) = request.node.take() {
            self.node = Some(node);
        }
        let answered = self.on_answer(&request, cache);
        let (index, is_first) = self.subscribe(&request, cache);
        let responses = if self.is_offline {
            self.answer(index, is_first, &request.resource_names_subscribe, cache)
        } else {
            None
        };
        Output {
            responses: responses.into_iter().collect(),
            request: self.forward(request, answered, is_first),
        }
    }

    /// A stream to the control plane begins; what has to be sent on it first.
    pub(super) fn on_open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.epoch += 1;
        self.link = Link::New;
        let requests: Vec<_> = self
            .subscriptions
            .iter()
            .filter_map(|subscription| {
                let in_flight = self.in_flight.values();
                let unsure = in_flight.filter(|sent| sent.kind == subscription.kind);
                subscription.resumption(unsure.flat_map(InFlight::names))
            })
            .collect();
        requests
            .into_iter()
            .map(|request| self.introduced(request))
            .collect()
    }

    /// Takes a response of the control plane's; what Envoy gets.
    pub(super) fn on_response(&mut self, mut response: DeltaDiscoveryResponse) -> DeltaDiscoveryResponse {
        self.is_offline = false;
        let items = response.resources.iter().filter_map(item).collect();
        let in_flight = InFlight {
            kind: response.type_url.as_str().into(),
            source: Source::ControlPlane {
                epoch: self.epoch,
                nonce: std::mem::take(&mut response.nonce),
            },
            items,
            removed: response.removed_resources.clone(),
        };
        response.nonce = self.sent(in_flight);
        response
    }

    /// The stream to the control plane has ended, or could not be had.
    pub(super) fn on_closed(&mut self) {
        self.link = Link::Closed;
    }

    /// From now until the next response of the control plane, the cache answers: what Envoy waits for.
    pub(super) fn go_offline(&mut self, cache: &Cache) -> Vec<DeltaDiscoveryResponse> {
        if std::mem::replace(&mut self.is_offline, true) {
            return Vec::new();
        }
        (0..self.subscriptions.len())
            .filter_map(|index| {
                let subscription = &self.subscriptions[index];
                let names = subscription.names.iter();
                let missing: Vec<_> = names
                    .filter(|name| !subscription.known.contains_key(name.as_str()))
                    .cloned()
                    .collect();
                self.answer(index, true, &missing, cache)
            })
            .collect()
    }

    /// Takes the answer to a response; the nonce to pass on, when the control plane is waiting for it.
    fn on_answer(&mut self, request: &DeltaDiscoveryRequest, cache: &mut Cache) -> Option<String> {
        let in_flight = self.in_flight.remove(&request.response_nonce)?;
        let from_control_plane = in_flight.source != Source::Cache;
        if let Some(error) = &request.error_detail {
            if !from_control_plane {
                tracing::error!(
                    kind = &*in_flight.kind,
                    error = error.message,
                    "Envoy refused the configuration that it had before"
                );
            }
        } else if let Some(subscription) = self.find(&in_flight.kind) {
            subscription.acknowledged(in_flight.items, in_flight.removed, from_control_plane, cache);
            self.bound(cache);
        }
        match in_flight.source {
            Source::ControlPlane { epoch, nonce } if epoch == self.epoch && self.link != Link::Closed => {
                Some(nonce)
            }
            Source::ControlPlane { .. } | Source::Cache => None,
        }
    }

    /// Takes a change of interest; which subscription it is, and whether it is new.
    fn subscribe(&mut self, request: &DeltaDiscoveryRequest, cache: &mut Cache) -> (usize, bool) {
        let kind = request.type_url.as_str();
        if let Some(index) = self.subscriptions.iter().position(|known| &*known.kind == kind) {
            self.subscriptions[index].change(request, cache);
            return (index, false);
        }
        if self.subscriptions.is_empty() && request.initial_resource_versions.is_empty() {
            cache.try_again();
        }
        self.subscriptions.push(Subscription::new(request));
        (self.subscriptions.len() - 1, true)
    }

    /// What the control plane has to hear of a request, if anything.
    fn forward(
        &mut self,
        mut request: DeltaDiscoveryRequest,
        answered: Option<String>,
        is_first: bool,
    ) -> Option<DeltaDiscoveryRequest> {
        if answered.is_none() {
            request.error_detail = None;
        }
        request.response_nonce = answered.unwrap_or_default();
        let says_something = is_first
            || !request.response_nonce.is_empty()
            || !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        (says_something && self.link != Link::Closed).then(|| self.introduced(request))
    }

    /// The first request of a stream says who asks.
    fn introduced(&mut self, mut request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
        if self.link == Link::New {
            self.link = Link::Introduced;
            request.node.clone_from(&self.node);
        }
        request
    }

    /// What the cache has for a subscription: these names, and everything if that is wanted and `all` asked for.
    fn answer(
        &mut self,
        index: usize,
        all: bool,
        names: &[String],
        cache: &Cache,
    ) -> Option<DeltaDiscoveryResponse> {
        let subscription = &mut self.subscriptions[index];
        let kind = subscription.kind.clone();
        let mut items = Vec::new();
        let mut removed = Vec::new();
        for name in names {
            match cache.get(&kind, name) {
                Some(Entry::Present(item)) => items.push((Arc::from(name.as_str()), item.clone())),
                Some(Entry::Absent) => removed.push(name.clone()),
                None => {}
            }
        }
        let everything = cache.all(&kind).filter(|_| all && subscription.wildcard);
        let is_greeting = everything.is_some() && !subscription.is_answered;
        for (name, item) in everything.into_iter().flatten() {
            let is_there =
                subscription.known.contains_key(name) || names.iter().any(|named| **named == **name);
            if !is_there {
                items.push((name.clone(), item.clone()));
            }
        }
        if items.is_empty() && removed.is_empty() && !is_greeting {
            return None;
        }
        tracing::warn!(
            kind = &*kind,
            resources = items.len(),
            "the control plane does not answer: Envoy gets the configuration that it had before"
        );
        let resources = items.iter().map(|(_, item)| item.encoded.clone()).collect();
        let in_flight = InFlight {
            kind: kind.clone(),
            source: Source::Cache,
            items,
            removed: removed.clone(),
        };
        Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: kind.to_string(),
            nonce: self.sent(in_flight),
            removed_resources: removed,
        })
    }

    fn sent(&mut self, in_flight: InFlight) -> String {
        if let Some(subscription) = self.find(&in_flight.kind) {
            subscription.is_answered = true;
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        self.in_flight.insert(nonce.clone(), in_flight);
        nonce
    }

    /// Keeps the cache within its limit: without what earlier Envoys had, else not at all.
    fn bound(&self, cache: &mut Cache) {
        if !cache.is_over() {
            return;
        }
        for subscription in &self.subscriptions {
            cache.retain(&subscription.kind, |name| subscription.known.contains_key(name));
        }
        if cache.is_over() {
            cache.give_up();
        }
    }

    fn find(&mut self, kind: &str) -> Option<&mut Subscription> {
        self.subscriptions
            .iter_mut()
            .find(|subscription| &*subscription.kind == kind)
    }
}

// === impl InFlight ===

impl InFlight {
    fn names(&self) -> impl Iterator<Item = &str> {
        let items = self.items.iter().map(|(name, _)| &**name);
        items.chain(self.removed.iter().map(String::as_str))
    }
}

// === impl Subscription ===

impl Subscription {
    /// From the first request for a kind: without names, it means everything.
    fn new(request: &DeltaDiscoveryRequest) -> Self {
        let mut names: BTreeSet<_> = request.resource_names_subscribe.iter().cloned().collect();
        let is_empty = names.is_empty();
        let known = request.initial_resource_versions.iter();
        Self {
            kind: request.type_url.as_str().into(),
            wildcard: names.remove(WILDCARD) || is_empty,
            names,
            known: known
                .map(|(name, version)| (name.as_str().into(), Some(version.as_str().into())))
                .collect(),
            is_answered: false,
        }
    }

    fn change(&mut self, request: &DeltaDiscoveryRequest, cache: &mut Cache) {
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                self.names.insert(name.clone());
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
                self.known.retain(|name, _| self.names.contains(&**name));
                cache.retain(&self.kind, |name| self.names.contains(name));
            } else {
                self.names.remove(name);
            }
            if !self.wants(name) {
                self.known.remove(name.as_str());
                cache.forget(&self.kind, name);
            }
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn acknowledged(
        &mut self,
        items: Vec<(Arc<str>, Item)>,
        removed: Vec<String>,
        from_control_plane: bool,
        cache: &mut Cache,
    ) {
        for (name, item) in items {
            if !self.wants(&name) {
                continue;
            }
            self.known.insert(name.clone(), Some(item.version.clone()));
            // A slice would keep the whole message that it came in.
            let encoded = if from_control_plane {
                Bytes::copy_from_slice(&item.encoded)
            } else {
                item.encoded.clone()
            };
            cache.put(&self.kind, name, Entry::Present(Item { encoded, ..item }));
        }
        for name in removed {
            if self.names.contains(&name) {
                let name: Arc<str> = name.into();
                self.known.insert(name.clone(), None);
                cache.put(&self.kind, name, Entry::Absent);
            } else {
                self.known.remove(name.as_str());
                cache.forget(&self.kind, &name);
            }
        }
        if from_control_plane && self.wildcard {
            // What an earlier Envoy had and this one is not sent has gone meanwhile.
            cache.retain(&self.kind, |name| self.known.contains_key(name));
            cache.complete(&self.kind);
        }
    }

    /// The first request for this on a new stream; none when Envoy wants nothing of it at the moment, since without
    /// names it would mean everything.
    fn resumption<'a>(&self, unsure: impl Iterator<Item = &'a str>) -> Option<DeltaDiscoveryRequest> {
        if !self.wildcard && self.names.is_empty() {
            return None;
        }
        let wildcard = (self.wildcard && !self.names.is_empty()).then(|| WILDCARD.to_owned());
        let known = self.known.iter();
        let known =
            known.filter_map(|(name, version)| Some((name.to_string(), version.as_ref()?.to_string())));
        let unsure = unsure
            .filter(|name| self.wants(name))
            .map(|name| (name.to_owned(), UNSURE.to_owned()));
        Some(DeltaDiscoveryRequest {
            type_url: self.kind.to_string(),
            resource_names_subscribe: wildcard.into_iter().chain(self.names.iter().cloned()).collect(),
            initial_resource_versions: known.chain(unsure).collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }
}

/// Name, version and bytes of a resource; the resource itself is not decoded.
fn item(encoded: &Bytes) -> Option<(Arc<str>, Item)> {
    let resource = Resource::decode(encoded.clone()).ok()?;
    let item = Item {
        version: resource.version.into(),
        encoded: encoded.clone(),
    };
    Some((resource.name.into(), item))
}

#[cfg(test)]
mod tests;
