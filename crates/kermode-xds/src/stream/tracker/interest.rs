//! What the client says it wants: wildcard and names, side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use kermode_envoy::ResourceKind;

use super::{Tracker, WILDCARD};
use crate::store::{Stamp, View};
use kermode_protocol::ads::DeltaDiscoveryRequest;

// === impl Tracker ===

impl Tracker {
    /// Whether the client ever asked for this kind on this stream.
    pub(in crate::stream) fn is_heard(&self) -> bool {
        self.heard
    }

    /// How many names the client asked for.
    pub(in crate::stream) fn subscribed_names(&self) -> usize {
        self.names.len()
    }

    /// Takes the change of interest in a request.
    pub(in crate::stream) fn on_interest(
        &mut self,
        request: &DeltaDiscoveryRequest,
        view: Option<&View<'_>>,
    ) {
        let first = !self.heard;
        self.heard = true;
        if first {
            for (name, version) in &request.initial_resource_versions {
                self.client.insert(self.stamp(name, version, view));
            }
            if self.means_everything(request) {
                self.want_everything(first);
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.unsubscribe(name);
        }
        for name in &request.resource_names_subscribe {
            if name == WILDCARD {
                self.want_everything(first);
            } else {
                self.subscribe(name, first, view);
            }
        }
        if first && !self.wildcard {
            self.keep_named();
        }
        if first {
            self.compare_all(0);
        }
    }

    /// Has these answered again, as far as the client asked for them.
    pub(in crate::stream) fn force_known(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        for name in names {
            if self.names.contains(&name) {
                self.enqueue(name, 0, 0, true);
            }
        }
    }

    /// Remembers clusters that went out before the client said which endpoints it has.
    pub(in crate::stream) fn remember_early(&mut self, names: impl Iterator<Item = Arc<str>>) {
        self.early.extend(names);
    }

    /// Forgets them, and returns them.
    pub(in crate::stream) fn take_early(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.early)
    }

    /// The older way to say `*`: a first request that names nothing. Only these two kinds know it.
    fn means_everything(&self, request: &DeltaDiscoveryRequest) -> bool {
        request.resource_names_subscribe.is_empty()
            && matches!(self.kind, ResourceKind::Cluster | ResourceKind::Listener)
    }

    fn want_everything(&mut self, first: bool) {
        self.wildcard = true;
        if !first {
            // It may have dropped all of it and asked again before it could say so.
            self.keep_named();
        }
        self.greet = true;
        self.compare_all(0);
    }

    fn subscribe(&mut self, name: &str, first: bool, view: Option<&View<'_>>) {
        let known = self.client.get(name);
        let stored = || {
            view.and_then(|view| view.get(self.kind, name))
                .map(|entry| &entry.stamp)
        };
        // The store's own text, so that it is not kept once a stream.
        let name: Arc<str> = known
            .or_else(stored)
            .map_or_else(|| name.into(), |stamp| stamp.name.clone());
        let has = first && self.client.contains(&name);
        self.names.insert(name.clone());
        // Asked for again, it is to be sent again: the client may have dropped it meanwhile.
        self.enqueue(name, 0, 0, !has);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            self.greet = false;
            self.keep_named();
            self.pending.retain(|name, _| self.names.contains(name));
            self.rejected.retain(|name, _| self.names.contains(name));
            return;
        }
        let Some(name) = self.names.remove(name) else {
            return;
        };
        if self.wildcard {
            // The client cannot tell whether it still gets it by the wildcard: say so.
            self.enqueue(name, 0, 0, true);
        } else {
            self.client.remove(&name);
            self.pending.remove(&name);
            self.rejected.remove(&name);
        }
    }

    /// Forgets what the client had by the wildcard alone.
    fn keep_named(&mut self) {
        self.client.retain(|name| self.names.contains(name));
    }

    /// The store's own stamp where it is the same, so that it is not kept twice.
    fn stamp(&self, name: &str, version: &str, view: Option<&View<'_>>) -> Arc<Stamp> {
        let current = view
            .and_then(|view| view.get(self.kind, name))
            .map(|entry| &entry.stamp);
        match current.filter(|stamp| &*stamp.version == version) {
            Some(stamp) => stamp.clone(),
            None => Arc::new(Stamp {
                name: name.into(),
                version: version.into(),
            }),
        }
    }
}
