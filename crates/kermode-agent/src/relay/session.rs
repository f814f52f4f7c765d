//! State machine of one ADS stream of Envoy: its subscriptions, the acknowledged versions, and the source of responses,
//! which is the control plane or the cache. No IO.
//!
//! Envoy's stream outlives the upstream streams. A new upstream stream starts with all of Envoy's subscriptions and
//! acknowledged versions, so the control plane sends only differences. Nonces are replaced because each upstream stream
//! has its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use kermode_protocol::ads::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, MAX_NAMES_WITHOUT_RESOURCE, Node, Resource,
};
use prost::Message as _;

use super::cache::{Cache, EncodedResource, Entry};

/// Name that subscribes to all resources of a type.
const WILDCARD: &str = "*";
/// Version that a new upstream stream reports for resources in flight. No resource has this version, so the control
/// plane sends the resources again.
const IN_FLIGHT_VERSION: &str = "?";

/// Messages to send after an event.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Output {
    /// Responses to Envoy, in order.
    pub(super) responses: Vec<DeltaDiscoveryResponse>,
    /// Request to the control plane.
    pub(super) request: Option<DeltaDiscoveryRequest>,
}

/// State machine of one ADS stream of Envoy.
#[derive(Debug, Default)]
pub(super) struct Session {
    node: Option<Node>,
    /// One subscription per type, in the order in which Envoy first requested the types. New upstream streams request
    /// the types in this order, because Envoy needs the responses in this order.
    subscriptions: Vec<Subscription>,
    /// Number of the latest upstream stream. Each attempt to open a stream counts.
    epoch: u64,
    upstream: Upstream,
    /// Whether the cache responds to Envoy's subscriptions, because the control plane does not.
    is_offline: bool,
    last_nonce: u64,
    /// Responses in flight, by nonce.
    in_flight: HashMap<String, InFlight>,
}

/// State of the upstream stream. Requests are sent from the attempt to open the stream on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upstream {
    #[default]
    Closed,
    /// Opening; no request was sent yet.
    New,
    /// Opening or open; the first request, which contains the node, was sent.
    Started,
}

/// Envoy's subscription to one type, and the acknowledged versions.
#[derive(Debug)]
struct Subscription {
    type_url: Arc<str>,
    /// Whether Envoy subscribed to all resources of the type.
    is_wildcard: bool,
    /// Explicitly subscribed names: by Envoy, or by an earlier Envoy whose resources this one got from the cache.
    names: BTreeSet<String>,
    /// Acknowledged version by name; `None` if Envoy acknowledged that the resource does not exist.
    acknowledged: HashMap<Arc<str>, Option<Arc<str>>>,
    /// Whether a response of this type was sent to Envoy.
    has_response: bool,
}

/// Response that Envoy has neither acknowledged nor rejected.
#[derive(Debug)]
struct InFlight {
    type_url: Arc<str>,
    source: Source,
    /// Sent resources with their names.
    items: Vec<(Arc<str>, EncodedResource)>,
    /// Names that the response lists as removed, including names that never existed.
    removed: Vec<String>,
}

/// Origin of a response.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Cache,
    ControlPlane {
        /// Number of the upstream stream.
        epoch: u64,
        /// Nonce that the control plane gave the response.
        nonce: String,
    },
}

// === impl Session ===

impl Session {
    /// Returns whether Envoy has subscribed to anything.
    pub(super) fn has_subscriptions(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Handles a request of Envoy.
    pub(super) fn on_request(&mut self, mut request: DeltaDiscoveryRequest, cache: &mut Cache) -> Output {
        if let Some(node) = request.node.take() {
            self.node = Some(node);
        }
        let nonce = self.on_ack_or_nack(&request, cache);
        let (index, is_new) = self.subscribe(&request, cache);
        let cached_response = if self.is_offline {
            self.respond_from_cache(index, is_new, &request.resource_names_subscribe, cache)
        } else {
            None
        };
        Output {
            responses: cached_response.into_iter().collect(),
            request: self.forward(request, nonce, is_new),
        }
    }

    /// Handles the attempt to open an upstream stream. Returns the requests that the stream starts with.
    pub(super) fn on_opening(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.epoch += 1;
        self.upstream = Upstream::New;
        let requests: Vec<_> = self
            .subscriptions
            .iter()
            .filter_map(|subscription| {
                let names_in_flight = self
                    .in_flight
                    .values()
                    .filter(|response| response.type_url == subscription.type_url)
                    .flat_map(InFlight::names);
                subscription.resuming_request(names_in_flight)
            })
            .collect();
        requests
            .into_iter()
            .map(|request| self.with_node(request))
            .collect()
    }

    /// Handles a response of the control plane. Returns the response to Envoy.
    pub(super) fn on_response(&mut self, mut response: DeltaDiscoveryResponse) -> DeltaDiscoveryResponse {
        self.is_offline = false;
        let items = response.resources.iter().filter_map(decode_resource).collect();
        let in_flight = InFlight {
            type_url: response.type_url.as_str().into(),
            source: Source::ControlPlane {
                epoch: self.epoch,
                nonce: std::mem::take(&mut response.nonce),
            },
            items,
            removed: response.removed_resources.clone(),
        };
        response.nonce = self.track(in_flight);
        response
    }

    /// Handles the end of the upstream stream, or a failure to open it.
    pub(super) fn on_closed(&mut self) {
        self.upstream = Upstream::Closed;
    }

    /// Lets the cache respond until the next response of the control plane. Returns the cache's responses to
    /// the subscriptions whose resources Envoy has not acknowledged.
    pub(super) fn go_offline(&mut self, cache: &Cache) -> Vec<DeltaDiscoveryResponse> {
        if std::mem::replace(&mut self.is_offline, true) {
            return Vec::new();
        }
        (0..self.subscriptions.len())
            .filter_map(|index| {
                let subscription = &self.subscriptions[index];
                let unacknowledged: Vec<_> = subscription
                    .names
                    .iter()
                    .filter(|name| !subscription.acknowledged.contains_key(name.as_str()))
                    .cloned()
                    .collect();
                self.respond_from_cache(index, true, &unacknowledged, cache)
            })
            .collect()
    }

    /// Handles the ACK or NACK of a response, if the request is one. If the response came from the current upstream
    /// stream, returns the control plane's nonce of the response.
    fn on_ack_or_nack(&mut self, request: &DeltaDiscoveryRequest, cache: &mut Cache) -> Option<String> {
        let in_flight = self.in_flight.remove(&request.response_nonce)?;
        let is_from_control_plane = in_flight.source != Source::Cache;
        if let Some(error) = &request.error_detail {
            if !is_from_control_plane {
                tracing::error!(
                    type_url = &*in_flight.type_url,
                    error = error.message,
                    "Envoy rejected the cached configuration"
                );
            }
        } else if let Some(subscription) = self.subscription_mut(&in_flight.type_url) {
            subscription.on_acknowledged(in_flight.items, in_flight.removed, is_from_control_plane, cache);
            self.enforce_limit(cache);
        }
        match in_flight.source {
            Source::ControlPlane { epoch, nonce }
                if epoch == self.epoch && self.upstream != Upstream::Closed =>
            {
                Some(nonce)
            }
            Source::ControlPlane { .. } | Source::Cache => None,
        }
    }

    /// Applies the subscribed and unsubscribed names of a request. Returns the index of the subscription, and whether
    /// the subscription is new.
    fn subscribe(&mut self, request: &DeltaDiscoveryRequest, cache: &mut Cache) -> (usize, bool) {
        let type_url = request.type_url.as_str();
        if let Some(index) = self
            .subscriptions
            .iter()
            .position(|subscription| &*subscription.type_url == type_url)
        {
            self.subscriptions[index].apply(request, cache);
            return (index, false);
        }
        let starts_without_resources =
            self.subscriptions.is_empty() && request.initial_resource_versions.is_empty();
        if starts_without_resources {
            cache.enable();
        }
        self.subscriptions.push(Subscription::new(request));
        (self.subscriptions.len() - 1, true)
    }

    /// Returns the part of a request that the control plane needs. Returns `None` if there is no such part, or if the
    /// upstream stream is closed. `nonce` is the control plane's nonce of the response that the request acknowledges or
    /// rejects, if any.
    fn forward(
        &mut self,
        mut request: DeltaDiscoveryRequest,
        nonce: Option<String>,
        is_new_subscription: bool,
    ) -> Option<DeltaDiscoveryRequest> {
        if nonce.is_none() {
            request.error_detail = None;
        }
        request.response_nonce = nonce.unwrap_or_default();
        let is_needed = is_new_subscription
            || !request.response_nonce.is_empty()
            || !request.resource_names_subscribe.is_empty()
            || !request.resource_names_unsubscribe.is_empty();
        (is_needed && self.upstream != Upstream::Closed).then(|| self.with_node(request))
    }

    /// Adds the node to the first request of an upstream stream.
    fn with_node(&mut self, mut request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
        if self.upstream == Upstream::New {
            self.upstream = Upstream::Started;
            request.node.clone_from(&self.node);
        }
        request
    }

    /// Returns a response with cached resources: the resources in `names` and, if `include_all` is set and the
    /// subscription is a wildcard, all other resources that Envoy has not acknowledged. Returns `None` if the cache has
    /// nothing to send.
    fn respond_from_cache(
        &mut self,
        index: usize,
        include_all: bool,
        names: &[String],
        cache: &Cache,
    ) -> Option<DeltaDiscoveryResponse> {
        let subscription = &mut self.subscriptions[index];
        let type_url = subscription.type_url.clone();
        let mut items = Vec::new();
        let mut removed = Vec::new();
        for name in names {
            match cache.get(&type_url, name) {
                Some(Entry::Present(item)) => items.push((Arc::from(name.as_str()), item.clone())),
                Some(Entry::Absent) => removed.push(name.clone()),
                None => {}
            }
        }
        let all_cached = cache
            .all(&type_url)
            .filter(|_| include_all && subscription.is_wildcard);
        // Envoy waits for the first response to a wildcard even if there are no resources.
        let is_first_to_wildcard = all_cached.is_some() && !subscription.has_response;
        for (name, item) in all_cached.into_iter().flatten() {
            let is_acknowledged = subscription.acknowledged.contains_key(name);
            let is_in_names = names.iter().any(|requested| **requested == **name);
            if !is_acknowledged && !is_in_names {
                items.push((name.clone(), item.clone()));
                // Envoy has the resource from now on and does not subscribe to it again, so the session does.
                if item.is_subscribed_by_name {
                    subscription.names.insert(name.to_string());
                }
            }
        }
        if items.is_empty() && removed.is_empty() && !is_first_to_wildcard {
            return None;
        }
        tracing::warn!(
            type_url = &*type_url,
            resources = items.len(),
            "the control plane does not respond: Envoy receives the cached configuration"
        );
        let resources = items.iter().map(|(_, item)| item.encoded.clone()).collect();
        let in_flight = InFlight {
            type_url: type_url.clone(),
            source: Source::Cache,
            items,
            removed: removed.clone(),
        };
        Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: type_url.to_string(),
            nonce: self.track(in_flight),
            removed_resources: removed,
        })
    }

    /// Records a response in flight. Returns a new nonce for the response.
    fn track(&mut self, in_flight: InFlight) -> String {
        if let Some(subscription) = self.subscription_mut(&in_flight.type_url) {
            subscription.has_response = true;
        }
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        self.in_flight.insert(nonce.clone(), in_flight);
        nonce
    }

    /// Enforces the cache's limit: drops resources that only earlier Envoy processes received. If the remaining
    /// resources exceed the limit, disables the cache.
    fn enforce_limit(&self, cache: &mut Cache) {
        if !cache.exceeds_limit() {
            return;
        }
        for subscription in &self.subscriptions {
            cache.retain(&subscription.type_url, |name| {
                subscription.acknowledged.contains_key(name)
            });
        }
        if cache.exceeds_limit() {
            cache.disable();
        }
    }

    fn subscription_mut(&mut self, type_url: &str) -> Option<&mut Subscription> {
        self.subscriptions
            .iter_mut()
            .find(|subscription| &*subscription.type_url == type_url)
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
    /// Returns the subscription of the first request for a type. A request without names subscribes to all
    /// resources of the type.
    fn new(request: &DeltaDiscoveryRequest) -> Self {
        let mut names: BTreeSet<_> = request.resource_names_subscribe.iter().cloned().collect();
        let is_empty = names.is_empty();
        let acknowledged = request
            .initial_resource_versions
            .iter()
            .map(|(name, version)| (name.as_str().into(), Some(version.as_str().into())))
            .collect();
        Self {
            type_url: request.type_url.as_str().into(),
            is_wildcard: names.remove(WILDCARD) || is_empty,
            names,
            acknowledged,
            has_response: false,
        }
    }

    /// Applies the subscribed and unsubscribed names of a request.
    fn apply(&mut self, request: &DeltaDiscoveryRequest, cache: &mut Cache) {
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.is_wildcard = true;
            } else {
                self.names.insert(name.clone());
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.is_wildcard = false;
                self.acknowledged.retain(|name, _| self.names.contains(&**name));
                cache.retain(&self.type_url, |name| self.names.contains(name));
            } else {
                self.names.remove(name);
            }
            if !self.includes(name) {
                self.acknowledged.remove(name.as_str());
                cache.remove(&self.type_url, name);
            }
        }
    }

    fn includes(&self, name: &str) -> bool {
        self.is_wildcard || self.names.contains(name)
    }

    fn on_acknowledged(
        &mut self,
        items: Vec<(Arc<str>, EncodedResource)>,
        removed: Vec<String>,
        is_from_control_plane: bool,
        cache: &mut Cache,
    ) {
        for (name, item) in items {
            if !self.includes(&name) {
                continue;
            }
            self.acknowledged.insert(name.clone(), Some(item.version.clone()));
            // Copies the resource, because a slice would keep the whole response in memory.
            let encoded = if is_from_control_plane {
                Bytes::copy_from_slice(&item.encoded)
            } else {
                item.encoded.clone()
            };
            let item = EncodedResource {
                encoded,
                is_subscribed_by_name: self.names.contains(&*name),
                ..item
            };
            cache.put(&self.type_url, name, Entry::Present(item));
        }
        let mut capacity = self.capacity_for_absent_names(&removed);
        for name in removed {
            let is_absent_already = self.acknowledged.get(name.as_str()) == Some(&None);
            if !is_absent_already && self.names.contains(&name) {
                if capacity == 0 {
                    self.names.remove(&name);
                } else {
                    capacity -= 1;
                }
            }
            // Caches the absence for a restarted Envoy that subscribes to the name.
            if self.names.contains(&name) {
                let name: Arc<str> = name.into();
                self.acknowledged.insert(name.clone(), None);
                cache.put(&self.type_url, name, Entry::Absent);
            } else {
                self.acknowledged.remove(name.as_str());
                cache.remove(&self.type_url, &name);
            }
        }
        if is_from_control_plane && self.is_wildcard {
            // Drops resources that only an earlier Envoy process received: they no longer exist.
            cache.retain(&self.type_url, |name| self.acknowledged.contains_key(name));
            cache.set_complete(&self.type_url);
        }
    }

    /// Returns how many further names without a resource the subscription may store, before it stores any of `removed`.
    /// Names without a wildcard are not limited, because they belong to resources that Envoy has.
    fn capacity_for_absent_names(&self, removed: &[String]) -> usize {
        if !self.is_wildcard || !removed.iter().any(|name| self.names.contains(name)) {
            return usize::MAX;
        }
        let absent_count = self
            .acknowledged
            .values()
            .filter(|version| version.is_none())
            .count();
        MAX_NAMES_WITHOUT_RESOURCE.saturating_sub(absent_count)
    }

    /// Returns the first request for this type on a new upstream stream, with the subscribed names, the acknowledged
    /// versions, and [`IN_FLIGHT_VERSION`] for the names in flight. Returns `None` for an empty subscription, because a
    /// request without names would subscribe to all resources of the type.
    fn resuming_request<'a>(
        &self,
        names_in_flight: impl Iterator<Item = &'a str>,
    ) -> Option<DeltaDiscoveryRequest> {
        if !self.is_wildcard && self.names.is_empty() {
            return None;
        }
        let wildcard = (self.is_wildcard && !self.names.is_empty()).then(|| WILDCARD.to_owned());
        let acknowledged = self
            .acknowledged
            .iter()
            .filter_map(|(name, version)| Some((name.to_string(), version.as_ref()?.to_string())));
        let in_flight = names_in_flight
            .filter(|name| self.includes(name))
            .map(|name| (name.to_owned(), IN_FLIGHT_VERSION.to_owned()));
        Some(DeltaDiscoveryRequest {
            type_url: self.type_url.to_string(),
            resource_names_subscribe: wildcard.into_iter().chain(self.names.iter().cloned()).collect(),
            initial_resource_versions: acknowledged.chain(in_flight).collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }
}

/// Returns name, version and bytes of an encoded resource. The message inside is not decoded.
fn decode_resource(encoded: &Bytes) -> Option<(Arc<str>, EncodedResource)> {
    let resource = Resource::decode(encoded.clone()).ok()?;
    let item = EncodedResource {
        version: resource.version.into(),
        encoded: encoded.clone(),
        is_subscribed_by_name: false,
    };
    Some((resource.name.into(), item))
}

#[cfg(test)]
mod tests;
