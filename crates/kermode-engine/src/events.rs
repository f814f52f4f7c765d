//! Watch events, which are the input of the engine, and the progress of the initial lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kermode_crds::ContainerPatchSpec;
use kermode_k8s::controller::watch::Update;
use kermode_k8s::convert::facts::{
    EndpointSliceFacts, IntermediateFacts, IntermediateKind, NamespaceFacts, NodeFacts, PodFacts,
    ServiceFacts,
};
use kermode_model::{Mesh, MeshName, TrafficPermission, VirtualIps};

macro_rules! watch_kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// The watches of the engine, one for each kind of object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum WatchKind {
            $(#[doc = concat!("Watch of ", $name, ".")] $kind,)*
        }

        impl WatchKind {
            /// Every kind, in the order in which the watches are started.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Plural name of the resource, for logs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

watch_kinds! {
    Namespaces = "namespaces",
    Nodes = "nodes",
    Meshes = "meshes",
    Permissions = "meshtrafficpermissions",
    ContainerPatches = "containerpatches",
    ReplicaSets = "replicasets",
    Jobs = "jobs",
    Services = "services",
    EndpointSlices = "endpointslices",
    Pods = "pods",
    ConfigMaps = "configmaps",
}

/// One event of a watch, with the time at which the watch delivered it.
#[derive(Debug)]
pub struct WatchEvent {
    pub(crate) received_at: Instant,
    pub(crate) update: ObjectUpdate,
}

/// Update of an object, or the end of the initial list of a watch. The variant tells the kind of the objects.
#[derive(Debug)]
pub enum ObjectUpdate {
    /// A Pod.
    Pod(Update<PodFacts>),
    /// A Service.
    Service(Update<ServiceFacts>),
    /// An EndpointSlice that Kubernetes does not derive from the selector of a Service.
    EndpointSlice(Update<EndpointSliceFacts>),
    /// A Namespace.
    Namespace(Update<NamespaceFacts>),
    /// A Node.
    Node(Update<NodeFacts>),
    /// A ReplicaSet or Job, which may stand between a Pod and the workload that owns it.
    Intermediate(IntermediateKind, Update<IntermediateFacts>),
    /// A Mesh.
    Mesh(Update<Mesh>),
    /// A MeshTrafficPermission, with its mesh.
    Permission(Update<(MeshName, TrafficPermission)>),
    /// A ContainerPatch.
    ContainerPatch(Update<ContainerPatchSpec>),
    /// The ConfigMap with the virtual IPs of all meshes.
    VirtualIps(Update<BTreeMap<MeshName, VirtualIps>>),
}

/// Progress of the initial lists.
#[derive(Debug)]
pub(crate) struct InitialSync {
    /// Watches that have not delivered their initial list yet.
    pending: BTreeSet<WatchKind>,
}

// === impl WatchEvent ===

impl From<ObjectUpdate> for WatchEvent {
    fn from(update: ObjectUpdate) -> Self {
        Self {
            received_at: Instant::now(),
            update,
        }
    }
}

// === impl ObjectUpdate ===

impl ObjectUpdate {
    /// Returns the watch whose initial list ends with this update; `None` for updates of objects.
    pub(crate) fn synced_watch(&self) -> Option<WatchKind> {
        match self {
            Self::Pod(Update::Synced) => Some(WatchKind::Pods),
            Self::Service(Update::Synced) => Some(WatchKind::Services),
            Self::EndpointSlice(Update::Synced) => Some(WatchKind::EndpointSlices),
            Self::Namespace(Update::Synced) => Some(WatchKind::Namespaces),
            Self::Node(Update::Synced) => Some(WatchKind::Nodes),
            Self::Intermediate(IntermediateKind::ReplicaSet, Update::Synced) => Some(WatchKind::ReplicaSets),
            Self::Intermediate(IntermediateKind::Job, Update::Synced) => Some(WatchKind::Jobs),
            Self::Mesh(Update::Synced) => Some(WatchKind::Meshes),
            Self::Permission(Update::Synced) => Some(WatchKind::Permissions),
            Self::ContainerPatch(Update::Synced) => Some(WatchKind::ContainerPatches),
            Self::VirtualIps(Update::Synced) => Some(WatchKind::ConfigMaps),
            _ => None,
        }
    }
}

// === impl InitialSync ===

impl Default for InitialSync {
    fn default() -> Self {
        Self {
            pending: WatchKind::ALL.iter().copied().collect(),
        }
    }
}

impl InitialSync {
    /// Records that a watch has delivered its initial list. Idempotent.
    pub(crate) fn mark_synced(&mut self, watch: WatchKind) {
        self.pending.remove(&watch);
    }

    /// Whether all watches have delivered their initial list.
    pub(crate) fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the update at the end of a watch's initial list.
    fn mk_synced(watch: WatchKind) -> ObjectUpdate {
        match watch {
            WatchKind::Namespaces => ObjectUpdate::Namespace(Update::Synced),
            WatchKind::Nodes => ObjectUpdate::Node(Update::Synced),
            WatchKind::Meshes => ObjectUpdate::Mesh(Update::Synced),
            WatchKind::Permissions => ObjectUpdate::Permission(Update::Synced),
            WatchKind::ContainerPatches => ObjectUpdate::ContainerPatch(Update::Synced),
            WatchKind::ReplicaSets => {
                ObjectUpdate::Intermediate(IntermediateKind::ReplicaSet, Update::Synced)
            }
            WatchKind::Jobs => ObjectUpdate::Intermediate(IntermediateKind::Job, Update::Synced),
            WatchKind::Services => ObjectUpdate::Service(Update::Synced),
            WatchKind::EndpointSlices => ObjectUpdate::EndpointSlice(Update::Synced),
            WatchKind::Pods => ObjectUpdate::Pod(Update::Synced),
            WatchKind::ConfigMaps => ObjectUpdate::VirtualIps(Update::Synced),
        }
    }

    #[test]
    fn synced_update_of_every_kind_identifies_its_watch() {
        for watch in WatchKind::ALL {
            assert_eq!(mk_synced(*watch).synced_watch(), Some(*watch));
        }
    }

    #[test]
    fn initial_sync_is_complete_once_every_watch_has_synced() {
        let mut sync = InitialSync::default();
        let (last, others) = WatchKind::ALL.split_last().expect("a watch");
        // Each of the other watches syncs twice, because `mark_synced` is idempotent.
        for watch in others.iter().chain(others) {
            sync.mark_synced(*watch);
            assert!(!sync.is_complete(), "{watch:?}");
        }
        sync.mark_synced(*last);
        assert!(sync.is_complete());
    }
}
