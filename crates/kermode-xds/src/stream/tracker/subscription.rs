//! Subscriptions of the client: the wildcard and explicit names, which may be combined.

use std::collections::BTreeSet;
use std::sync::Arc;

use kermode_envoy::ResourceKind;
use kermode_protocol::ads::DeltaDiscoveryRequest;

use super::{Tracker, UNKNOWN_SINCE, WILDCARD};
use crate::store::{VersionedName, View};

// === impl Tracker ===

impl Tracker {
    /// Returns whether the client has requested this kind on this stream.
    pub(in crate::stream) fn is_requested(&self) -> bool {
        self.is_requested
    }

    /// Returns the number of names that the client is subscribed to explicitly.
    pub(in crate::stream) fn explicit_name_count(&self) -> usize {
        self.explicit_names.len()
    }

    /// Applies the subscription changes of a request. The tracker shares the copies of names and versions that the
    /// store holds. `limit` is the limit on names without a resource ([`Limits::names_without_resource`]); it does not
    /// apply without a view. Returns the number of names beyond the limit.
    ///
    /// [`Limits::names_without_resource`]: crate::stream::Limits::names_without_resource
    pub(in crate::stream) fn on_subscription(
        &mut self,
        request: &DeltaDiscoveryRequest,
        view: Option<&View<'_>>,
        limit: usize,
    ) -> usize {
        let is_first_request = !self.is_requested;
        self.is_requested = true;
        if is_first_request {
            for (name, version) in &request.initial_resource_versions {
                self.client_versions
                    .insert(self.versioned_name(name, version, view));
            }
            if self.is_legacy_wildcard(request) {
                self.subscribe_wildcard(is_first_request);
            }
        }
        for name in &request.resource_names_unsubscribe {
            self.unsubscribe(name);
        }
        let (wildcards, names): (Vec<_>, Vec<_>) = request
            .resource_names_subscribe
            .iter()
            .partition(|name| *name == WILDCARD);
        if !wildcards.is_empty() {
            self.subscribe_wildcard(is_first_request);
        }
        let mut ignored_count = 0;
        for name in names {
            if self.exceeds_limit(name, view, limit) {
                ignored_count += 1;
                // The number of pending names is limited, because the client may never ACK a response.
                if self.pending.len() < limit {
                    self.report_as_removed(name);
                }
            } else {
                self.subscribe(name, is_first_request, view);
            }
        }
        if is_first_request && !self.has_wildcard {
            self.drop_wildcard_versions();
        }
        if is_first_request {
            self.compare_all(UNKNOWN_SINCE);
        }
        ignored_count
    }

    /// Schedules resources to be sent again. Ignores names to which the client has no explicit subscription.
    pub(in crate::stream) fn resend_subscribed(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        let is_forced = true;
        for name in names {
            if self.explicit_names.contains(&name) {
                self.enqueue_unchanged(name, is_forced);
            }
        }
    }

    /// Records clusters that are sent before the client's first request for endpoints. This request then gets the
    /// endpoints of these clusters again (see *Warming* in [`crate::stream`]).
    pub(in crate::stream) fn record_sent_before_endpoints(
        &mut self,
        clusters: impl Iterator<Item = Arc<str>>,
    ) {
        self.sent_before_endpoints.extend(clusters);
    }

    /// Removes and returns the clusters that were sent before the client's first request for endpoints.
    pub(in crate::stream) fn take_sent_before_endpoints(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.sent_before_endpoints)
    }

    /// Returns whether a first request is a wildcard subscription in the older form: for clusters or listeners, without
    /// names.
    fn is_legacy_wildcard(&self, request: &DeltaDiscoveryRequest) -> bool {
        request.resource_names_subscribe.is_empty()
            && matches!(self.kind, ResourceKind::Cluster | ResourceKind::Listener)
    }

    fn subscribe_wildcard(&mut self, is_first_request: bool) {
        self.has_wildcard = true;
        if !is_first_request {
            // The client may have unsubscribed and subscribed again in one request, and dropped all resources.
            self.drop_wildcard_versions();
        }
        self.is_response_due = true;
        self.compare_all(UNKNOWN_SINCE);
    }

    fn subscribe(&mut self, name: &str, is_first_request: bool, view: Option<&View<'_>>) {
        let known = self.client_versions.get(name);
        let stored = || {
            view.and_then(|view| view.get(self.kind, name))
                .map(|entry| &entry.versioned_name)
        };
        // The name shares its memory with the store, if possible.
        let name: Arc<str> = known
            .or_else(stored)
            .map_or_else(|| name.into(), |resource| resource.name.clone());
        let is_reported = is_first_request && self.client_versions.contains(&name);
        self.explicit_names.insert(name.clone());
        // A client that subscribes again may have dropped the resource, so the resource is sent even if it is
        // unchanged. A client that reports a version in its first request has the resource.
        let is_forced = !is_reported;
        self.enqueue_unchanged(name, is_forced);
    }

    /// Counts a name that has neither a resource nor a tombstone, if the client has a wildcard subscription. Returns
    /// whether the name exceeds the limit on such names, and is not counted for this reason.
    fn exceeds_limit(&mut self, name: &str, view: Option<&View<'_>>, limit: usize) -> bool {
        let Some(view) = view.filter(|_| self.has_wildcard && !self.explicit_names.contains(name)) else {
            return false;
        };
        let name = Arc::from(name);
        if view.get(self.kind, &name).is_some() || view.tombstone(self.kind, &name).is_some() {
            return false;
        }
        if self.names_without_resource.len() >= limit {
            return true;
        }
        self.names_without_resource.insert(name);
        false
    }

    /// Schedules a response that reports a name without a subscription as removed.
    fn report_as_removed(&mut self, name: &str) {
        // Has this effect because the client has a wildcard subscription, and the name has no resource.
        let is_forced = true;
        self.enqueue_unchanged(name.into(), is_forced);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.has_wildcard = false;
            self.is_response_due = false;
            self.drop_wildcard_versions();
            self.pending.retain(|name, _| self.explicit_names.contains(name));
            self.rejected.retain(|name, _| self.explicit_names.contains(name));
            return;
        }
        let Some(name) = self.explicit_names.remove(name) else {
            return;
        };
        self.names_without_resource.remove(&name);
        if self.has_wildcard {
            // The protocol requires a response: the resource, or its removal if the wildcard does not include it.
            let is_forced = true;
            self.enqueue_unchanged(name, is_forced);
        } else {
            self.client_versions.remove(&name);
            self.pending.remove(&name);
            self.rejected.remove(&name);
        }
    }

    /// Drops the versions of resources that the client had only by wildcard.
    fn drop_wildcard_versions(&mut self) {
        self.client_versions
            .retain(|name| self.explicit_names.contains(name));
    }

    /// Returns a name and version that the client reported. Shares the store's copy, if the store has this version.
    fn versioned_name(&self, name: &str, version: &str, view: Option<&View<'_>>) -> Arc<VersionedName> {
        let current = view
            .and_then(|view| view.get(self.kind, name))
            .map(|entry| &entry.versioned_name);
        match current.filter(|resource| &*resource.version == version) {
            Some(resource) => resource.clone(),
            None => Arc::new(VersionedName {
                name: name.into(),
                version: version.into(),
            }),
        }
    }
}
