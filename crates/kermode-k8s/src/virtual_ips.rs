//! Allocation of virtual IPs to the services of a mesh (docs/design.md#mesh-dns-names). Pure: no IO and no clock.
//!
//! The leader allocates and stores the result in the ConfigMap [`kermode_model::VIRTUAL_IPS_CONFIG_MAP`], which has an
//! entry for each mesh ([`texts_of`]). Every replica, including the leader, reads the virtual IPs from there.

mod allocation;
mod table;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kermode_model::MeshName;

pub use self::allocation::{Allocation, Allocator, MAX_TEXT_LENGTH};
pub use self::table::{Entry, LineProblem, Table};

/// Virtual IPs of each mesh, in the text form of a [`Table`].
pub type Texts = BTreeMap<MeshName, String>;

/// Returns the entries of the ConfigMap with virtual IPs. Ignores entries whose key is not the name of a mesh.
pub fn texts_of(config_map: &ConfigMap) -> Texts {
    let entries = config_map.data.iter().flatten();
    entries
        .filter(|(mesh, _)| kermode_model::is_dns_label(mesh))
        .map(|(mesh, text)| (MeshName::from(mesh.as_str()), text.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
