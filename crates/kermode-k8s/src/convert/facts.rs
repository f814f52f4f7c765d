//! Facts: the fields of Kubernetes objects that the control plane reads. All other fields are dropped on receipt.
//!
//! The index compares new facts with stored facts, so an update that changes only other fields, such as the resource
//! version, causes no work. The index also deduplicates equal strings of many Pods.

mod endpoint_slice;
mod namespace;
mod node;
mod owner;
mod pod;
mod readiness;
mod restart;
mod service;

pub use endpoint_slice::{EndpointSliceFacts, NOT_DERIVED_FROM_SELECTOR};
pub use namespace::NamespaceFacts;
pub use node::NodeFacts;
pub use owner::{IntermediateFacts, IntermediateId, IntermediateKind, OwnerRef};
pub use pod::{ContainerFacts, ContainerState, PodFacts, PodPhase, ProbeFacts, ProbeKind};
pub use readiness::Readiness;
pub use restart::RestartPolicy;
pub use service::{ServiceFacts, ServicePortFacts, TargetPort};

use std::collections::BTreeMap;
use std::sync::Arc;

use kermode_crds::annotation;

/// Name of the sidecar container. It may be an ordinary container or a native sidecar.
pub const SIDECAR: &str = "kuma-sidecar";

/// Labels or annotations, sorted by key. Stored as a slice, because a slice is smaller than a map and can be shared by
/// the Pods of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pairs(Arc<[(Arc<str>, Arc<str>)]>);

/// Replaces equal values by one shared allocation.
pub(crate) trait Deduplicate {
    /// Deduplicates a string.
    fn dedup_text(&mut self, text: &mut Arc<str>);
    /// Deduplicates labels or annotations.
    fn dedup_pairs(&mut self, pairs: &mut Pairs);
}

impl Pairs {
    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let position = self.0.binary_search_by(|(candidate, _)| (**candidate).cmp(key));
        position.ok().map(|index| &self.0[index].1)
    }

    /// Iterates over all pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `other` contains all of these pairs.
    pub fn is_within(&self, other: &Self) -> bool {
        self.iter()
            .all(|(key, value)| other.get(key).is_some_and(|found| found == value))
    }

    fn all(map: Option<&BTreeMap<String, String>>) -> Self {
        Self::filtered(map, |_| true)
    }

    fn kuma_only(map: Option<&BTreeMap<String, String>>) -> Self {
        Self::filtered(map, |key| key.contains(annotation::RESERVED_KEY_PART))
    }

    fn filtered(map: Option<&BTreeMap<String, String>>, includes: impl Fn(&str) -> bool) -> Self {
        map.into_iter()
            .flatten()
            .filter(|(key, _)| includes(key))
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect()
    }

    /// Returns the number of references to the allocation.
    pub(crate) fn reference_count(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Applies `replace` to every key and value. Does nothing if the allocation of the pairs has another reference.
    pub(crate) fn replace_texts_if_unshared(&mut self, mut replace: impl FnMut(&mut Arc<str>)) {
        for (key, value) in Arc::get_mut(&mut self.0).into_iter().flatten() {
            replace(key);
            replace(value);
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

/// Converts a port number of the Kubernetes API; `None` if it is out of range.
fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// Whether the protocol of a port is TCP, which is also the default. The mesh supports no other protocol.
fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}
