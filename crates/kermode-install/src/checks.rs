//! Checks of options that depend on each other.

use crate::template::{Condition, all, is_set, not};

/// A combination of options that is refused.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// Condition of an installation that is refused.
    pub(crate) refused_if: Condition,
    /// Problem and remedy. `{path}` stands for an option.
    pub(crate) problem: &'static str,
}

/// Returns all checks.
pub(crate) fn all_checks() -> Vec<Check> {
    let replicas = || "controlPlane.replicas".to_owned();
    let mode = |mode: &str| Condition::Equals("controlPlane.mode".to_owned(), mode.to_owned());
    let has_disruption_budget = Condition::GreaterThan(replicas(), 1);
    let max_unavailable = "controlPlane.podDisruptionBudget.maxUnavailable";
    vec![
        Check {
            refused_if: mode("global"),
            problem: "{controlPlane.mode} global: several zones under one global control plane are not supported yet; \
                      leave it out: each cluster has its own control plane and meshes",
        },
        Check {
            refused_if: all([mode("zone"), not(is_set("controlPlane.zone"))]),
            problem: "{controlPlane.mode} zone: name the zone with {controlPlane.zone}",
        },
        Check {
            refused_if: all([
                has_disruption_budget,
                not(Condition::LessThan(max_unavailable.to_owned(), replicas())),
            ]),
            problem: "{controlPlane.podDisruptionBudget.maxUnavailable}: use a number less than {controlPlane.replicas}, \
                      so that one replica always serves",
        },
        Check {
            refused_if: all([
                is_set("cni.enabled"),
                not(is_set("cni.chained")),
                Condition::EndsWith("cni.confName".to_owned(), ".conflist".to_owned()),
            ]),
            problem: "{cni.confName}: if {cni.chained} is false, the file contains no list of plugins; use a name that \
                      ends in .conf or .json",
        },
    ]
}
