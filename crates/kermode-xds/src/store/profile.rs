//! Profile of a proxy: the shared resources that it may get, and how it gets them. The proxies of a mesh share the
//! resources that are published for the mesh.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use kermode_envoy::{Resource, ResourceKind};
use kermode_model::{MeshName, ServiceName};

use super::Key;

/// Selection of shared resources by their service. Resources that belong to no service are always selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceSelection {
    /// All services of the mesh.
    #[default]
    All,
    /// These services.
    Only(HashSet<ServiceName>),
}

/// Rules that select the shared resources of a proxy's [`View`](super::View).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Mesh whose shared resources the proxy gets.
    pub mesh: MeshName,
    /// Services whose shared resources are visible to the proxy.
    pub visibility: ServiceSelection,
    /// Visible services whose shared resources a wildcard subscription includes. Resources of the other visible
    /// services are sent only to a subscription by name.
    pub wildcard: ServiceSelection,
    /// Shared resources that the proxy does not get, whatever their service: outbound listeners at the address of an
    /// inbound listener of the proxy.
    pub hidden: HashSet<Key>,
    /// Source of the tombstones that are sent for subscribed names that do not exist. For a name without a tombstone,
    /// the response lists the name in `removed_resources`.
    pub tombstones: Option<Tombstones>,
}

/// Source of tombstones: resources that stand for "does not exist", such as a cluster without endpoints.
///
/// Envoy does not request a name again after a response listed it in `removed_resources` (envoyproxy/envoy#25924): with
/// on-demand discovery, every later connection would wait until its timeout and fail. A tombstone keeps the name
/// subscribed and makes the connection fail at once.
///
/// A source calls a function of kind and name. The function must return the same resource, with the same version, on
/// every replica. Two sources are equal if one is a clone of the other.
#[derive(Clone)]
pub struct Tombstones(Arc<TombstoneFn>);

type TombstoneFn = dyn Fn(ResourceKind, &str) -> Option<Resource> + Send + Sync;

/// Resources that a change of a profile may affect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProfileChange {
    /// Any resource.
    AnyResource,
    /// Only the shared resources of these services, and the resources with these keys.
    Resources {
        services: Vec<ServiceName>,
        keys: Vec<Key>,
    },
}

// === impl ServiceSelection ===

impl ServiceSelection {
    /// Returns whether the resources of a service are selected. `None` stands for resources that belong to no service.
    pub(super) fn selects(&self, service: Option<&ServiceName>) -> bool {
        match (self, service) {
            (ServiceSelection::All, _) | (ServiceSelection::Only(_), None) => true,
            (ServiceSelection::Only(services), Some(service)) => services.contains(service),
        }
    }

    /// Returns the services that only one of the two selections includes. Returns `None` if only one of the selections
    /// is [`ServiceSelection::All`]: a selection does not know the names of all services.
    fn difference(&self, other: &Self) -> Option<Vec<ServiceName>> {
        match (self, other) {
            (ServiceSelection::All, ServiceSelection::All) => Some(Vec::new()),
            (ServiceSelection::Only(one), ServiceSelection::Only(other)) => {
                Some(one.symmetric_difference(other).cloned().collect())
            }
            (ServiceSelection::All, ServiceSelection::Only(_))
            | (ServiceSelection::Only(_), ServiceSelection::All) => None,
        }
    }
}

// === impl Profile ===

impl Profile {
    /// Creates the profile of a proxy that gets all shared resources of its mesh by wildcard.
    pub fn new(mesh: MeshName) -> Self {
        Self {
            mesh,
            visibility: ServiceSelection::All,
            wildcard: ServiceSelection::All,
            hidden: HashSet::new(),
            tombstones: None,
        }
    }

    /// Returns the resources that may differ between a view with this profile and a view with the other profile.
    pub(super) fn difference(&self, other: &Self) -> ProfileChange {
        let visibility_changes = self.visibility.difference(&other.visibility);
        let wildcard_changes = self.wildcard.difference(&other.wildcard);
        let (Some(mut services), Some(wildcard_changes)) = (visibility_changes, wildcard_changes) else {
            return ProfileChange::AnyResource;
        };
        if self.mesh != other.mesh || self.tombstones != other.tombstones {
            return ProfileChange::AnyResource;
        }
        services.extend(wildcard_changes);
        let keys = self.hidden.symmetric_difference(&other.hidden).cloned();
        ProfileChange::Resources {
            services,
            keys: keys.collect(),
        }
    }
}

// === impl Tombstones ===

impl Tombstones {
    /// Creates a source from a function, which returns `None` for a name without a tombstone.
    pub fn new(tombstone: impl Fn(ResourceKind, &str) -> Option<Resource> + Send + Sync + 'static) -> Self {
        Self(Arc::new(tombstone))
    }

    pub(super) fn get(&self, kind: ResourceKind, name: &str) -> Option<Resource> {
        (self.0)(kind, name)
    }
}

impl PartialEq for Tombstones {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tombstones {}

impl fmt::Debug for Tombstones {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tombstones")
    }
}
