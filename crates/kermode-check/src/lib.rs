//! Checks for `kumactl check`: of a cluster before an installation, and of a running mesh.
//!
//! ```text
//! facts that kumactl collects ──Facts──▶ check_* ──Report──▶ text, JSON
//! ```
//!
//! The crate does no IO and reads no clock. Each finding has a kind in the [catalogue](FindingKind), and the
//! [reference](../../../docs/reference/check.md) has a section for each kind.

mod api_server;
mod catalogue;
mod census;
mod certificates;
mod control_plane;
mod facts;
mod nodes;
mod report;
mod version;
mod workloads;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

pub use api_server::required_permissions;
pub use catalogue::{FindingKind, Severity};
pub use census::Census;
pub use certificates::certificate_secrets;
pub use control_plane::{CNI, LEASE};
pub use facts::{Clocks, DryRun, Facts, Permission};
pub use report::{Check, CheckOutcome, Finding, Paint, Report};

/// Checks whether a control plane can be installed in a cluster.
pub fn check_before_installation(facts: &Facts) -> Report {
    Report::new(vec![
        api_server::version(facts),
        api_server::permissions(facts),
        api_server::admission(facts),
        nodes::nodes(&facts.cluster),
        nodes::clocks(facts),
    ])
}

/// Checks a running mesh. `local_time` is used if the time of the API server is not known.
pub fn check_mesh(facts: &Facts, local_time: SystemTime) -> Report {
    let now = facts.clocks.map_or(local_time, |clocks| clocks.api_server);
    Report::new(vec![
        api_server::version(facts),
        nodes::nodes(&facts.cluster),
        nodes::clocks(facts),
        api_server::definitions(facts),
        control_plane::control_plane(facts, now),
        control_plane::webhooks(&facts.cluster),
        api_server::injector(facts),
        certificates::certificates(&facts.cluster, now),
        control_plane::cni(&facts.cluster),
        workloads::container_patches(&facts.cluster),
        workloads::pods(facts),
        workloads::sidecars(facts),
    ])
}
