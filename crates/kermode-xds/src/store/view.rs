//! What one proxy sees: its own resources, and those of its mesh that are meant for it.

use std::sync::Arc;

use kermode_envoy::ResourceKind;

use super::scope::Scope;
use super::{Entry, Key, Profile, Visibility};

/// A proxy's view at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) own: &'a Scope,
    pub(super) shared: &'a Scope,
    pub(super) profile: &'a Profile,
    /// The newest change of the whole store.
    pub(super) sequence: u64,
}

// === impl View ===

impl<'a> View<'a> {
    /// A resource by name. What the proxy has of its own comes before what the mesh shares.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&'a Arc<Entry>> {
        self.own
            .get(kind, name)
            .or_else(|| self.shared.get(kind, name).filter(|entry| self.shows(entry)))
    }

    /// What a wildcard subscription to a kind means, in no order.
    pub fn wildcard(&self, kind: ResourceKind) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        let view = *self;
        let own = self.own.of_kind(kind);
        let shared: Box<dyn Iterator<Item = &Arc<Entry>>> = match &self.profile.visibility {
            Visibility::All => Box::new(self.shared.of_kind(kind)),
            Visibility::Only(services) => {
                let groups = std::iter::once(None).chain(services.iter().map(Some));
                let keys = groups.flat_map(move |group| view.shared.keys_of(group));
                Box::new(keys.filter_map(move |key| {
                    if key.kind == kind {
                        view.shared.get(kind, &key.name)
                    } else {
                        None
                    }
                }))
            }
        };
        let shared =
            shared.filter(move |entry| view.shows(entry) && view.own.get(kind, &entry.stamp.name).is_none());
        Box::new(own.chain(shared))
    }

    /// The newest change that may be in it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn shows(&self, entry: &Entry) -> bool {
        let visible = match (&self.profile.visibility, &entry.service) {
            (Visibility::All, _) | (Visibility::Only(_), None) => true,
            (Visibility::Only(services), Some(service)) => services.contains(service),
        };
        visible && (self.profile.hidden.is_empty() || !self.profile.hidden.contains::<Key>(&entry.key()))
    }
}
