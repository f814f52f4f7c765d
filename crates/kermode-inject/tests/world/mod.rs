//! A small world to inject in: a namespace, ContainerPatches, the Mesh `default`.

use std::collections::BTreeMap;

use kermode_crds::ContainerPatchSpec;
use kermode_inject::{Context, Namespace};

/// What is around a Pod.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) patches: BTreeMap<String, ContainerPatchSpec>,
}

impl World {
    /// Calls `use_it` with the context of this world.
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(&Context<'_>) -> T) -> T {
        use_it(&Context {
            namespace: Namespace {
                name: "shop",
                labels: &self.labels,
                annotations: &self.annotations,
            },
            control_plane_url: "https://kuma-control-plane.kong-mesh-system:5678",
            control_plane_ca_pem: "CA",
            mesh_exists: &|name| name == "default",
            container_patch: &|name| self.patches.get(name).cloned(),
        })
    }
}
