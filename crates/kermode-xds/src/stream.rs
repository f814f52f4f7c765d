//! State machine of one delta ADS stream: requests and changes in, responses out, no IO and no clock.
//!
//! ```text
//! server ──on_request, on_change, on_deadline──▶ Stream ──Output──▶ server
//! ```
//!
//! The protocol is Envoy's [xDS protocol](https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol). The
//! protocol leaves the following to the server:
//!
//! - **Flow control**: at most one response of each kind is in flight. Resources that change meanwhile are sent in
//!   their newest version after the ACK or NACK. A slow client costs at most one pending name for each resource.
//! - **Make before break** ([`order`]): a listener waits for missing clusters and endpoints that were published before
//!   the listener. The removal of a cluster waits for listeners that changed before the removal.
//! - **Rejections**: a rejected response with several resources is sent again in halves until the invalid resource is
//!   isolated. That resource is not sent again until it changes, and delays nothing else.
//! - **Warming**: Envoy waits for the endpoints of each new version of a cluster, even if Envoy has these endpoints,
//!   and does not request them again (envoyproxy/envoy#47302). Endpoints are therefore sent after every version of
//!   their cluster.
//! - **On-demand resources**: sent to a subscription by name, not to a wildcard subscription. For a name that does not
//!   exist, a tombstone is sent if the profile has one, and the name stays subscribed. Of names without a resource and
//!   without a tombstone, at most [`Limits::names_without_resource`] stay subscribed. An on-demand resource can be held: it is not sent until other resources are acknowledged, or until a time limit ([`hold`]).

mod hold;
mod order;
mod tracker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kermode_envoy::ResourceKind;
use kermode_protocol::ads::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use crate::store::{Changes, VersionedName, View};
use hold::Holds;
use order::DelayedChanges;
use tracker::{ResponseContent, Tracker};

/// Limits of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a response in bytes. Further resources go into the next response. A resource above this size is
    /// sent in a response of its own.
    pub response_bytes: usize,
    /// Maximum number of names that a client may subscribe to, of all kinds together.
    pub names: usize,
    /// Maximum number of names that a client may subscribe to beside a wildcard although they have no resource. A
    /// further name is reported as removed and not stored, so the stream does not send its resource if it is created
    /// later.
    pub names_without_resource: usize,
    /// Maximum number of changed names of one kind that are stored while a response is in flight. If more names change,
    /// the stream compares all names after the ACK or NACK.
    pub pending: usize,
    /// Maximum time for which an on-demand resource is held. Must be less than the 5 s after which an on-demand
    /// discovery of Envoy times out.
    pub hold: Duration,
}

/// Result of one step of the state machine. A step is one call of a method such as [`Stream::on_request`].
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// Responses to send, in this order.
    pub responses: Vec<Response>,
    /// ACKs and NACKs of earlier responses.
    pub events: Vec<Event>,
}

/// A response to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// Kind of the resources; `None` for a type that Kermode does not serve.
    pub kind: Option<ResourceKind>,
    /// The message.
    pub message: DeltaDiscoveryResponse,
}

/// ACK or NACK of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client applied the response.
    Acknowledged {
        /// Kind of the resources.
        kind: ResourceKind,
        /// New and changed resources of the response.
        resources: Vec<Arc<VersionedName>>,
        /// Names of the removed resources of the response.
        removed: Vec<Arc<str>>,
    },
    /// The client rejected the response.
    Rejected {
        /// Kind of the resources.
        kind: ResourceKind,
        /// Resources of the response. If there is more than one, they are sent again in parts.
        resources: Vec<Arc<VersionedName>>,
        /// Error message of the client.
        message: Arc<str>,
    },
    /// The client subscribed to names beyond [`Limits::names_without_resource`], which are not stored.
    NamesIgnored {
        /// Kind of the resources.
        kind: ResourceKind,
        /// Number of names.
        count: usize,
    },
}

/// A resource that the client rejected and that has not changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name and rejected version of the resource.
    pub resource: Arc<VersionedName>,
    /// Error message of the client.
    pub message: Arc<str>,
}

/// Reason why a request ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The client subscribed to more names than [`Limits::names`] allows.
    #[error(
        "the proxy subscribed to more than {limit} names; list only the services that its Pod needs in the annotation kuma.io/transparent-proxying-reachable-services"
    )]
    TooManyNames {
        /// The limit.
        limit: usize,
    },
}

/// Maximum number of stored requests for types that Kermode does not serve. A stream stores these requests until its
/// proxy is published. Bounds memory; Envoy requests fewer types.
const MAX_UNSERVED_TYPES: usize = 16;

/// State of one delta ADS stream.
#[derive(Debug)]
pub struct Stream {
    limits: Limits,
    /// Number of nonces used so far.
    nonce_count: u64,
    /// State of each kind, indexed by the kind.
    trackers: [Tracker; ResourceKind::ALL.len()],
    /// Unanswered requests for types that Kermode does not serve: the type URL and the subscribed names.
    unserved: Vec<(String, Vec<String>)>,
    holds: Holds,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            response_bytes: 1 << 20,
            names: 50_000,
            names_without_resource: ads::MAX_NAMES_WITHOUT_RESOURCE,
            pending: 8192,
            hold: Duration::from_secs(3),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Creates the state of a new stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            nonce_count: 0,
            trackers: ResourceKind::ALL.map(Tracker::new),
            unserved: Vec::new(),
            holds: Holds::default(),
        }
    }

    /// Handles a request. Before the proxy is published, there is no view and the request is only recorded, because an
    /// Envoy that receives an empty response starts without configuration.
    pub fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        view: Option<&View<'_>>,
    ) -> Result<Output, RequestError> {
        let mut events = Vec::new();
        match ResourceKind::from_type_url(&request.type_url) {
            Some(kind) => {
                // Names of the clusters that were sent before the client requested endpoints. The endpoints of these
                // clusters are sent again (see *Warming* in the module documentation).
                let clusters_sent_before = if kind == ResourceKind::Endpoints {
                    self.trackers[ResourceKind::Cluster as usize].take_sent_before_endpoints()
                } else {
                    BTreeSet::new()
                };
                let tracker = &mut self.trackers[kind as usize];
                events.extend(tracker.on_ack_or_nack(&request));
                let limit = self.limits.names_without_resource;
                let count = tracker.on_subscription(&request, view, limit);
                if count > 0 {
                    events.push(Event::NamesIgnored { kind, count });
                }
                tracker.resend_subscribed(clusters_sent_before);
            }
            None => self.on_unserved(request),
        }
        self.check_limits()?;
        Ok(Output {
            responses: self.send_pending(view),
            events,
        })
    }

    /// Handles changes of the view.
    pub fn on_change(&mut self, changes: Changes, view: Option<&View<'_>>) -> Output {
        match changes {
            Changes::Unknown => self.trackers.iter_mut().for_each(Tracker::on_unknown_changes),
            Changes::Known(changes) => {
                if let Some(view) = view {
                    for tracker in &mut self.trackers {
                        tracker.rebase(changes.iter(), view);
                    }
                }
                for change in changes {
                    self.trackers[change.key.kind as usize].on_change(change, self.limits.pending);
                }
            }
        }
        Output {
            responses: self.send_pending(view),
            events: Vec::new(),
        }
    }

    /// Returns the time at which the server must call [`Stream::on_deadline`], if any. Must be called after every step,
    /// because the time limit of newly held resources starts at `now`.
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        self.holds.next_deadline(now, self.limits.hold)
    }

    /// Sends the held resources whose time limit has passed at `now`.
    pub fn on_deadline(&mut self, now: Instant, view: Option<&View<'_>>) -> Output {
        self.holds.expire(now);
        Output {
            responses: self.send_pending(view),
            events: Vec::new(),
        }
    }

    /// Returns the resources that the client rejected and that have not changed since.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.trackers.iter().flat_map(Tracker::rejections)
    }

    /// Number of resources that the client rejected and that have not changed since.
    pub fn rejected_count(&self) -> usize {
        self.trackers.iter().map(Tracker::rejected_count).sum()
    }

    /// Returns whether all resources were sent and every response was ACKed or NACKed.
    pub fn is_settled(&self) -> bool {
        self.trackers.iter().all(Tracker::is_settled)
    }

    /// Returns whether the client has ACKed or NACKed all of its first configuration. Envoy requests listeners last.
    pub fn has_first_configuration(&self) -> bool {
        self.trackers[ResourceKind::Listener as usize].has_ack_or_nack() && self.is_settled()
    }

    /// Returns whether a response of this kind is in flight.
    pub fn is_in_flight(&self, kind: ResourceKind) -> bool {
        self.trackers[kind as usize].is_in_flight()
    }

    /// Returns the sequence number up to which the client has applied every change of endpoints. `None` until the
    /// client has reported its endpoints, and while the client rejects any endpoints.
    pub fn acknowledged_sequence(&self, view: &View<'_>) -> Option<u64> {
        let [clusters, endpoints] =
            [ResourceKind::Cluster, ResourceKind::Endpoints].map(|kind| &self.trackers[kind as usize]);
        // A client requests the endpoints of its clusters before it ACKs the clusters. Therefore, a client that has
        // ACKed all clusters without requesting endpoints has no endpoints. Before that ACK, the client may have
        // endpoints from an earlier stream.
        let has_no_endpoints = clusters.has_ack_or_nack() && clusters.is_settled();
        let are_endpoints_known = endpoints.is_requested() || has_no_endpoints;
        if !are_endpoints_known || endpoints.rejected_count() > 0 {
            return None;
        }
        let oldest_change = endpoints.oldest_change(view);
        Some(oldest_change.map_or(view.sequence(), |oldest| oldest.saturating_sub(1)))
    }

    fn check_limits(&self) -> Result<(), RequestError> {
        let limit = self.limits.names;
        let name_count: usize = self.trackers.iter().map(Tracker::explicit_name_count).sum();
        if name_count > limit {
            Err(RequestError::TooManyNames { limit })
        } else {
            Ok(())
        }
    }

    /// Returns all responses that may be sent now.
    fn send_pending(&mut self, view: Option<&View<'_>>) -> Vec<Response> {
        let Some(view) = view else { return Vec::new() };
        let mut responses: Vec<Response> = std::mem::take(&mut self.unserved)
            .into_iter()
            .map(|subscribed| self.empty_response(subscribed))
            .collect();
        for tracker in &mut self.trackers {
            tracker.enqueue_differences(view);
        }
        self.holds.update(&self.trackers, view);
        for kind in order::KINDS {
            // In most steps, only one kind has something to send. This check is cheaper than determining delayed
            // changes.
            if self.trackers[kind as usize].has_nothing_to_send() {
                continue;
            }
            let delayed = DelayedChanges::new(kind, &self.trackers, view);
            let limit = self.limits.response_bytes;
            let Some(content) = self.trackers[kind as usize].next_content(view, &delayed, &self.holds, limit)
            else {
                continue;
            };
            if kind == ResourceKind::Cluster {
                self.resend_endpoints(&content);
            }
            responses.push(self.send(kind, content, view));
        }
        for tracker in &mut self.trackers {
            tracker.compact(view);
        }
        responses
    }

    /// Schedules the endpoints of the clusters in a response to be resent (see *Warming* in the module documentation).
    fn resend_endpoints(&mut self, clusters: &ResponseContent) {
        let items = clusters.items.iter().filter(|item| !item.is_tombstone);
        let names = items.map(|item| item.resource.name.clone());
        let endpoints = &mut self.trackers[ResourceKind::Endpoints as usize];
        if endpoints.is_requested() {
            endpoints.resend_subscribed(names);
        } else {
            self.trackers[ResourceKind::Cluster as usize].record_sent_before_endpoints(names);
        }
    }

    /// Builds the response with this content, and records the response as in flight.
    fn send(&mut self, kind: ResourceKind, content: ResponseContent, view: &View<'_>) -> Response {
        let nonce = self.next_nonce();
        let message = DeltaDiscoveryResponse {
            system_version_info: view.sequence().to_string(),
            resources: content.items.iter().map(|item| item.encoded.clone()).collect(),
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            removed_resources: content
                .removed
                .iter()
                .map(|name| name.as_ref().to_owned())
                .collect(),
        };
        self.trackers[kind as usize].on_sent(nonce, content);
        Response {
            kind: Some(kind),
            message,
        }
    }

    /// Records a request for a type that Kermode does not serve. The server responds without resources, because Envoy
    /// waits for a response to its first request for each type.
    fn on_unserved(&mut self, request: DeltaDiscoveryRequest) {
        let is_recorded = self.unserved.iter().any(|(url, _)| *url == request.type_url);
        // The first request for a type, which has no nonce, and subscriptions to further names need a response. ACKs
        // and NACKs without such names do not.
        let needs_response =
            request.response_nonce.is_empty() || !request.resource_names_subscribe.is_empty();
        if needs_response && !is_recorded && self.unserved.len() < MAX_UNSERVED_TYPES {
            self.unserved
                .push((request.type_url, request.resource_names_subscribe));
        }
    }

    /// Returns the response to a request for an unserved type: without resources, and with all requested names as
    /// removed.
    fn empty_response(&mut self, (type_url, mut names): (String, Vec<String>)) -> Response {
        names.retain(|name| name != tracker::WILDCARD);
        let nonce = self.next_nonce();
        let message = DeltaDiscoveryResponse {
            type_url,
            nonce,
            removed_resources: names,
            ..Default::default()
        };
        Response { kind: None, message }
    }

    fn next_nonce(&mut self) -> String {
        self.nonce_count += 1;
        self.nonce_count.to_string()
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
