//! View of one proxy: its own resources, and the shared resources that its profile selects.

use std::collections::HashSet;
use std::sync::Arc;

use kermode_envoy::ResourceKind;
use kermode_model::ServiceName;

use super::scope::Scope;
use super::{Entry, Key, Profile, ServiceSelection, VersionedNames};

/// A proxy's view at one moment. An own resource replaces a shared resource of the same kind and name.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) own: &'a Scope,
    pub(super) shared: &'a Scope,
    pub(super) profile: &'a Profile,
    /// Cursor of the stream into the log of the shared scope before this view was read; `None` at the first read.
    pub(super) shared_cursor_before: Option<u64>,
    /// Newest sequence number of the store when this view was read.
    pub(super) sequence: u64,
}

// === impl View ===

impl<'a> View<'a> {
    /// Returns the resource of this name for a subscription by name. If several own resources, or several shared ones,
    /// have the name, prefers the resource that a wildcard subscription includes.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&'a Arc<Entry>> {
        let own = self.own.get(kind, name);
        if own.is_empty() {
            let shared = self.shared.get(kind, name);
            self.first_shared_for_wildcard(shared)
                .or_else(|| shared.iter().find(|entry| self.is_visible(entry)))
        } else {
            first_own_for_wildcard(own).or(own.first())
        }
    }

    /// Returns the resource of this name, if a wildcard subscription includes it.
    pub fn get_by_wildcard(&self, kind: ResourceKind, name: &str) -> Option<&'a Arc<Entry>> {
        let own = self.own.get(kind, name);
        if own.is_empty() {
            self.first_shared_for_wildcard(self.shared.get(kind, name))
        } else {
            first_own_for_wildcard(own)
        }
    }

    /// Returns the resources for a wildcard subscription, in no particular order.
    pub fn wildcard(&self, kind: ResourceKind) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        let view = *self;
        let own = self.own.of_kind(kind).filter_map(first_own_for_wildcard);
        let shared: Box<dyn Iterator<Item = &'a Arc<Entry>>> = match self.wildcard_services() {
            None => Box::new(
                self.shared
                    .of_kind(kind)
                    .filter_map(move |candidates| view.first_shared_for_wildcard(candidates)),
            ),
            Some(services) => {
                let services = std::iter::once(None).chain(services.iter().map(Some));
                Box::new(services.flat_map(move |service| view.of_service(kind, service)))
            }
        };
        Box::new(own.chain(shared.filter(move |entry| view.own.get(kind, entry.name()).is_empty())))
    }

    /// Returns the tombstone of a name, if the profile has one.
    pub fn tombstone(&self, kind: ResourceKind, name: &Arc<str>) -> Option<Entry> {
        let mut tombstone = self.profile.tombstones.as_ref()?.get(kind, name)?;
        // The tombstone shares the memory of the name that the stream already holds.
        tombstone.name = name.clone();
        Some(Entry::new(tombstone))
    }

    /// Returns whether the proxy's scope or the shared scope contains any resource of this kind that a stream may hold
    /// back, visible or not.
    pub fn has_holdable(&self, kind: ResourceKind) -> bool {
        self.own.has_holdable(kind) || self.shared.has_holdable(kind)
    }

    /// Returns the names and versions of the mesh's shared resources of a kind, or `None` if a wildcard subscription of
    /// the proxy includes only some services.
    pub fn shared_versioned_names(&self, kind: ResourceKind) -> Option<&'a VersionedNames> {
        match self.wildcard_services() {
            None => self.shared.versioned_names(kind),
            Some(_) => None,
        }
    }

    /// Returns two positions in the log of the shared scope: the stream's cursor before this view was read (`None` at
    /// the first read), and the newest sequence number of this scope. [`Watcher::read`] passes the changes between the
    /// two positions together with this view.
    ///
    /// [`Watcher::read`]: super::Watcher::read
    pub fn shared_sequences(&self) -> (Option<u64>, u64) {
        (self.shared_cursor_before, self.shared.sequence())
    }

    /// Returns the newest sequence number of the store when this view was read.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the services that a wildcard subscription may include, or `None` for all.
    fn wildcard_services(&self) -> Option<&'a HashSet<ServiceName>> {
        match (&self.profile.visibility, &self.profile.wildcard) {
            (_, ServiceSelection::Only(services))
            | (ServiceSelection::Only(services), ServiceSelection::All) => Some(services),
            (ServiceSelection::All, ServiceSelection::All) => None,
        }
    }

    /// Returns the resources that belong to a service and that a wildcard subscription includes. `None` stands for the
    /// resources that belong to no service.
    fn of_service(
        self,
        kind: ResourceKind,
        service: Option<&'a ServiceName>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let keys = self.shared.keys_of(service).filter(move |key| key.kind == kind);
        keys.filter_map(move |key| {
            self.first_shared_for_wildcard(self.shared.get(kind, &key.name))
                .filter(|entry| entry.service.as_ref() == service)
        })
    }

    /// Returns the first of these shared resources of one name that a wildcard subscription includes.
    fn first_shared_for_wildcard(&self, candidates: &'a [Arc<Entry>]) -> Option<&'a Arc<Entry>> {
        candidates.iter().find(|entry| {
            !entry.is_on_demand()
                && self.profile.wildcard.selects(entry.service.as_ref())
                && self.is_visible(entry)
        })
    }

    fn is_visible(&self, entry: &Entry) -> bool {
        let Profile {
            visibility, hidden, ..
        } = self.profile;
        visibility.selects(entry.service.as_ref())
            && (hidden.is_empty() || !hidden.contains::<Key>(&entry.key()))
    }
}

/// Returns the first of these own resources of one name that a wildcard subscription includes.
fn first_own_for_wildcard(candidates: &[Arc<Entry>]) -> Option<&Arc<Entry>> {
    candidates.iter().find(|entry| !entry.is_on_demand())
}
