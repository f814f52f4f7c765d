//! First stage: what is kept of a Kubernetes object. Everything else is dropped at the edge.
//!
//! Facts are compared with the ones before them, so a write that changes nothing of interest (a heartbeat, a
//! resource version) ends here. They hold shared text: `Index` makes equal text of many pods one allocation.

mod cluster;
mod pod;
mod service;

pub use cluster::{NamespaceFacts, OwnerFacts, OwnerId, OwnerKind, Workload};
pub use pod::{ContainerFacts, ContainerState, PodFacts, PodPhase, ProbeFacts, ProbeKind, RestartPolicy};
pub use service::{ServiceFacts, ServicePortFacts, TargetPort};

use std::collections::BTreeMap;
use std::sync::Arc;

use kermode_crds::annotation;

/// Name of the sidecar's container, native or classic.
pub const SIDECAR: &str = "kuma-sidecar";

/// Labels or annotations, sorted by key. Smaller than a map, and a selector needs no more than binary search. Pods of one
/// workload have the same ones, and can share them as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pairs(Arc<[(Arc<str>, Arc<str>)]>);

/// Puts one allocation in the place of equal ones.
pub(crate) trait Share {
    /// Of a text.
    fn text(&mut self, text: &mut Arc<str>);
    /// Of labels or annotations.
    fn pairs(&mut self, pairs: &mut Pairs);
}

impl Pairs {
    /// Value of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let found = self.0.binary_search_by(|(candidate, _)| (**candidate).cmp(key));
        found.ok().map(|at| &self.0[at].1)
    }

    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all of these pairs are among those.
    pub fn is_within(&self, other: &Self) -> bool {
        self.iter()
            .all(|(key, value)| other.get(key).is_some_and(|found| found == value))
    }

    fn all(map: Option<&BTreeMap<String, String>>) -> Self {
        Self::some(map, |_| true)
    }

    fn kuma_only(map: Option<&BTreeMap<String, String>>) -> Self {
        Self::some(map, |key| key.contains(annotation::RESERVED))
    }

    fn some(map: Option<&BTreeMap<String, String>>, wanted: impl Fn(&str) -> bool) -> Self {
        map.into_iter()
            .flatten()
            .filter(|(key, _)| wanted(key))
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect()
    }

    /// How many hold the same allocation.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Replaces every text by what `share` makes of it, unless somebody else holds them too.
    pub(crate) fn share_texts(&mut self, mut share: impl FnMut(&mut Arc<str>)) {
        for (key, value) in Arc::get_mut(&mut self.0).into_iter().flatten() {
            share(key);
            share(value);
        }
    }
}

impl FromIterator<(Arc<str>, Arc<str>)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<str>)>>(pairs: I) -> Self {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_unstable();
        pairs.dedup_by(|later, kept| later.0 == kept.0);
        Self(pairs.into())
    }
}

/// A port number of the API, where it can be one.
fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// Whether the protocol of a port is TCP, the only one a mesh carries; an absent one means TCP.
fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}
