//! One delta ADS stream as a state machine: requests and changes in, responses out, no IO.
//!
//! `docs/api-docs/xds_protocol` of Envoy is the reference. What this machine adds to the letter of it:
//!
//! - **Flow control**: one response a kind is in flight; what changes meanwhile is sent, in its newest version, after
//!   the answer. So a slow client costs at most one remembered name a resource.
//! - **Make before break** (`order`): a listener waits for the clusters and endpoints that were published before it
//!   and that the client does not have yet; a cluster is removed after the listeners that were changed before.
//! - **Rejections**: when a response with several resources is rejected, it is sent again in halves until the bad one
//!   is alone; that one is not sent again until it changes, and never holds anything up.
//! - **Warming**: a client that gets a cluster anew waits for its endpoints even when it has them, and does not ask for
//!   them again (envoyproxy/envoy#47302), so they are sent after every version of their cluster.

mod order;
mod tracker;

use std::collections::BTreeSet;
use std::sync::Arc;

use kermode_envoy::ResourceKind;

use crate::store::{Changes, Stamp, View};
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use order::Gate;
use tracker::{Batch, Tracker};

/// Bounds of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of a response, in bytes, beyond which the rest goes into the next one. A single larger resource still
    /// goes, alone.
    pub response_bytes: usize,
    /// How many names a client may subscribe to by name, all kinds together.
    pub names: usize,
    /// How many changed names a kind remembers while a response is in flight, before it compares everything.
    pub pending: usize,
}

/// What one step of the machine leads to.
#[derive(Debug, Default, PartialEq)]
pub struct Output {
    /// To be sent, in this order.
    pub replies: Vec<Reply>,
    /// What the client said of earlier responses.
    pub events: Vec<Event>,
}

/// A response to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Its kind; none for one that we do not serve.
    pub kind: Option<ResourceKind>,
    /// The message.
    pub response: DeltaDiscoveryResponse,
}

/// The client answered a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has applied it.
    Acknowledged {
        /// What it was about.
        kind: ResourceKind,
        /// What it has now.
        resources: Vec<Arc<Stamp>>,
        /// What it has no longer.
        removed: Vec<Arc<str>>,
    },
    /// It refused it.
    Rejected {
        /// What it was about.
        kind: ResourceKind,
        /// What the response held. When it is more than one, they are tried again apart.
        resources: Vec<Arc<Stamp>>,
        /// Envoy's explanation.
        message: Arc<str>,
    },
}

/// A resource that the client refused and that has not changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name and the refused version.
    pub stamp: Arc<Stamp>,
    /// Envoy's explanation.
    pub message: Arc<str>,
}

/// The client broke a rule; its stream has to end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It asks for more names than allowed.
    #[error(
        "the proxy subscribed to more than {limit} names; raise the limit of names a stream, or let it reach fewer services"
    )]
    TooManyNames {
        /// The limit.
        limit: usize,
    },
}

/// How many kinds that we do not serve are answered at once.
const UNSERVED: usize = 16;

/// The machine.
#[derive(Debug)]
pub struct Stream {
    limits: Limits,
    nonces: u64,
    trackers: [Tracker; ResourceKind::ALL.len()],
    /// Questions for kinds that we do not serve, until the proxy is known.
    unserved: Vec<(String, Vec<String>)>,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            response_bytes: 1 << 20,
            names: 50_000,
            pending: 8192,
        }
    }
}

// === impl Stream ===

impl Stream {
    /// A fresh stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            nonces: 0,
            trackers: ResourceKind::ALL.map(Tracker::new),
            unserved: Vec::new(),
        }
    }

    /// Takes a request. Without a view the proxy is not known yet: its interest is remembered, nothing is answered,
    /// since an Envoy that is told "nothing" starts with nothing.
    pub fn on_request(
        &mut self,
        request: DeltaDiscoveryRequest,
        view: Option<&View<'_>>,
    ) -> Result<Output, RequestError> {
        let mut events = Vec::new();
        match ResourceKind::from_type_url(&request.type_url) {
            Some(kind) => {
                let early = if kind == ResourceKind::Endpoints {
                    self.trackers[ResourceKind::Cluster as usize].take_early()
                } else {
                    BTreeSet::new()
                };
                let tracker = &mut self.trackers[kind as usize];
                events.extend(tracker.on_answer(&request));
                tracker.on_interest(&request, view);
                tracker.force_known(early);
            }
            None => self.on_unserved(request),
        }
        self.check_limits()?;
        Ok(Output {
            replies: self.pump(view),
            events,
        })
    }

    /// Takes what changed in the store.
    pub fn on_change(&mut self, changes: Changes, view: Option<&View<'_>>) -> Output {
        match changes {
            Changes::All => self.trackers.iter_mut().for_each(Tracker::compare_everything),
            Changes::Some(changes) => {
                if let Some(view) = view {
                    for tracker in &mut self.trackers {
                        tracker.follow(changes.iter(), view);
                    }
                }
                for change in changes {
                    self.trackers[change.key.kind as usize].note(change, self.limits.pending);
                }
            }
        }
        Output {
            replies: self.pump(view),
            events: Vec::new(),
        }
    }

    /// What the client refused and what has not changed since.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.trackers.iter().flat_map(Tracker::rejections)
    }

    /// How many those are.
    pub fn refused(&self) -> usize {
        self.trackers.iter().map(Tracker::refused).sum()
    }

    /// Whether everything that was to be sent was sent and answered.
    pub fn is_settled(&self) -> bool {
        self.trackers.iter().all(Tracker::is_settled)
    }

    /// Whether the client has its first configuration: of what an Envoy asks for, listeners come last.
    pub fn is_started(&self) -> bool {
        self.trackers[ResourceKind::Listener as usize].is_answered() && self.is_settled()
    }

    /// Whether a response of that kind is on its way, or its answer.
    pub fn awaits_answer(&self, kind: ResourceKind) -> bool {
        self.trackers[kind as usize].awaits_answer()
    }

    /// Up to which point of the store's sequence the client has applied every change of endpoints; none while it has not
    /// said what it has, and while it refuses any.
    pub fn confirmed(&self, view: &View<'_>) -> Option<u64> {
        let [clusters, endpoints] =
            [ResourceKind::Cluster, ResourceKind::Endpoints].map(|kind| &self.trackers[kind as usize]);
        // A client that has clusters asks for their endpoints before it answers, and until then may have any.
        let has_none = !endpoints.is_heard() && clusters.is_answered() && clusters.is_settled();
        if !endpoints.is_heard() && !has_none || endpoints.rejections().next().is_some() {
            return None;
        }
        let waiting = endpoints.oldest_change(view);
        Some(waiting.map_or(view.sequence(), |oldest| oldest.saturating_sub(1)))
    }

    fn check_limits(&self) -> Result<(), RequestError> {
        let limit = self.limits.names;
        let names: usize = self.trackers.iter().map(Tracker::subscribed_names).sum();
        if names > limit {
            Err(RequestError::TooManyNames { limit })
        } else {
            Ok(())
        }
    }

    /// Sends whatever may be sent now.
    fn pump(&mut self, view: Option<&View<'_>>) -> Vec<Reply> {
        let Some(view) = view else { return Vec::new() };
        let mut replies: Vec<Reply> = std::mem::take(&mut self.unserved)
            .into_iter()
            .map(|asked| self.nothing_of(asked))
            .collect();
        for tracker in &mut self.trackers {
            tracker.expand(view);
        }
        for kind in order::SENDING {
            // Most of the time this is so of all kinds but one, and a gate looks at others' state.
            if self.trackers[kind as usize].has_nothing_to_send() {
                continue;
            }
            let gate = Gate::of(kind, &self.trackers, view);
            let Some(batch) = self.trackers[kind as usize].next(view, &gate, self.limits.response_bytes)
            else {
                continue;
            };
            if kind == ResourceKind::Cluster {
                self.rewarm(&batch);
            }
            replies.push(self.send(kind, batch, view));
        }
        for tracker in &mut self.trackers {
            tracker.settle(view);
        }
        replies
    }

    /// Makes the endpoints of clusters that go out follow them.
    fn rewarm(&mut self, clusters: &Batch) {
        let names = clusters.items.iter().map(|item| item.stamp.name.clone());
        let endpoints = &mut self.trackers[ResourceKind::Endpoints as usize];
        if endpoints.is_heard() {
            endpoints.force_known(names);
        } else {
            self.trackers[ResourceKind::Cluster as usize].remember_early(names);
        }
    }

    fn send(&mut self, kind: ResourceKind, batch: Batch, view: &View<'_>) -> Reply {
        let nonce = self.next_nonce();
        let response = DeltaDiscoveryResponse {
            system_version_info: view.sequence().to_string(),
            resources: batch.items.iter().map(|item| item.encoded.clone()).collect(),
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            removed_resources: batch
                .removed
                .iter()
                .map(|name| name.as_ref().to_owned())
                .collect(),
        };
        self.trackers[kind as usize].sent(nonce, batch);
        Reply {
            kind: Some(kind),
            response,
        }
    }

    /// A client waits for kinds that we do not serve as well: tell it that there is nothing.
    fn on_unserved(&mut self, request: DeltaDiscoveryRequest) {
        let known = self.unserved.iter().any(|(url, _)| *url == request.type_url);
        let asks = request.response_nonce.is_empty() || !request.resource_names_subscribe.is_empty();
        if asks && !known && self.unserved.len() < UNSERVED {
            self.unserved
                .push((request.type_url, request.resource_names_subscribe));
        }
    }

    fn nothing_of(&mut self, (type_url, mut names): (String, Vec<String>)) -> Reply {
        names.retain(|name| name != tracker::WILDCARD);
        let nonce = self.next_nonce();
        let response = DeltaDiscoveryResponse {
            type_url,
            nonce,
            removed_resources: names,
            ..Default::default()
        };
        Reply { kind: None, response }
    }

    fn next_nonce(&mut self) -> String {
        self.nonces += 1;
        self.nonces.to_string()
    }
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
