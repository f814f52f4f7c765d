//! What one proxy sees: its own resources, and those of its mesh that are meant for it.

use std::sync::Arc;

use kermode_envoy::ResourceKind;
use kermode_model::ServiceName;

use super::scope::Scope;
use super::{Entry, Key, Profile, Stamps, Visibility};

/// A proxy's view at one moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) own: &'a Scope,
    pub(super) shared: &'a Scope,
    pub(super) profile: &'a Profile,
    /// Up to which of its changes the shared scope was read before this view of it.
    pub(super) read_before: Option<u64>,
    /// The newest change of the whole store.
    pub(super) sequence: u64,
}

// === impl View ===

impl<'a> View<'a> {
    /// A resource by name. What the proxy has of its own comes before what the mesh shares.
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&'a Arc<Entry>> {
        self.own
            .get(kind, name)
            .first()
            .or_else(|| self.pick(self.shared.get(kind, name)))
    }

    /// What a wildcard subscription to a kind means, in no order.
    pub fn wildcard(&self, kind: ResourceKind) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        let view = *self;
        let own = self.own.of_kind(kind).filter_map(<[_]>::first);
        let shared: Box<dyn Iterator<Item = &'a Arc<Entry>>> = match &self.profile.visibility {
            Visibility::All => Box::new(
                self.shared
                    .of_kind(kind)
                    .filter_map(move |found| view.pick(found)),
            ),
            Visibility::Only(services) => {
                let groups = std::iter::once(None).chain(services.iter().map(Some));
                Box::new(groups.flat_map(move |group| view.of_group(kind, group)))
            }
        };
        Box::new(own.chain(shared.filter(move |entry| view.own.get(kind, &entry.stamp.name).is_empty())))
    }

    /// What one service, or none, contributes.
    fn of_group(
        self,
        kind: ResourceKind,
        service: Option<&'a ServiceName>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let keys = self.shared.keys_of(service).filter(move |key| key.kind == kind);
        keys.filter_map(move |key| {
            self.pick(self.shared.get(kind, &key.name))
                .filter(|entry| entry.service.as_ref() == service)
        })
    }

    /// The first resource of a name that is meant for the proxy.
    fn pick(&self, candidates: &'a [Arc<Entry>]) -> Option<&'a Arc<Entry>> {
        candidates.iter().find(|entry| self.shows(entry))
    }

    /// What all proxies of the mesh share of a kind, whether this one sees it or not; none when it does not see most of it.
    pub fn shared(&self, kind: ResourceKind) -> Option<&'a Stamps> {
        match self.profile.visibility {
            Visibility::All => self.shared.stamps(kind),
            Visibility::Only(_) => None,
        }
    }

    /// How far what is shared was read before this view, and in it: between the two are the changes that come with it.
    pub fn shared_sequences(&self) -> (Option<u64>, u64) {
        (self.read_before, self.shared.sequence())
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
