//! The findings that exist. [The reference](../../../docs/reference/check.md) has a section for each of them.

use serde::Serialize;

/// Importance of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Something works in a limited way, or will stop to work.
    Warning,
    /// Something does not work.
    Error,
}

macro_rules! findings {
    ($($(#[$doc:meta])* $name:ident: $severity:ident),* $(,)?) => {
        /// Kind of a finding. Its name is the stable identifier of the finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FindingKind {
            $($(#[$doc])* $name),*
        }

        impl FindingKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the stable identifier.
            pub fn id(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            /// Returns the severity.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity),*
                }
            }
        }
    };
}

findings! {
    /// The API server is older than the oldest supported version.
    ApiServerTooOld: Error,
    /// The API server does not run native sidecars.
    NativeSidecarsUnsupported: Warning,
    /// The API server has no registrations of webhooks.
    AdmissionUnavailable: Error,
    /// The user may not create or change an object of the installation.
    PermissionMissing: Error,
    /// No node can run sidecars.
    NoLinuxNode: Error,
    /// A node has a kernel without the functions of nftables that redirection uses.
    KernelTooOld: Error,
    /// A node has an architecture for which there are no images.
    ArchitectureUnsupported: Error,
    /// A node has a kubelet without native sidecars, so that no Pod gets one.
    KubeletTooOld: Warning,
    /// The clock of this machine differs from that of the API server.
    LocalClockDiffers: Warning,
    /// The clock of a node differs from that of the API server.
    NodeClockDiffers: Warning,
    /// The clock of a node differs by more than certificates tolerate.
    NodeClockWrong: Error,
    /// A custom resource is not served.
    DefinitionMissing: Error,
    /// There is no control plane.
    ControlPlaneMissing: Error,
    /// No replica of the control plane is ready.
    ControlPlaneNotReady: Error,
    /// Some replicas of the control plane are not ready.
    ReplicasNotReady: Warning,
    /// The replicas of the control plane have different images.
    ReplicasDiffer: Warning,
    /// No replica of the control plane holds the Lease.
    LeaderMissing: Error,
    /// `kumactl` and the control plane have different versions.
    VersionOfKumactlDiffers: Warning,
    /// Sidecars and the control plane have different versions.
    VersionOfSidecarsDiffers: Warning,
    /// A registration of webhooks is missing.
    WebhooksMissing: Error,
    /// A webhook has no CA certificate.
    WebhookWithoutCa: Error,
    /// The API server cannot call the injector.
    WebhookUnreachable: Error,
    /// The API server does not call the injector, or ignores its failure.
    WebhookNotCalled: Error,
    /// The injector denies an ordinary Pod.
    PodDenied: Error,
    /// A certificate is not valid at the time of the API server.
    CertificateInvalid: Error,
    /// A CA certificate should have been replaced already.
    CertificateExpires: Warning,
    /// The settings require the CNI plugin, and its DaemonSet does not exist.
    CniMissing: Error,
    /// The CNI plugin is not ready on a node.
    CniNotReady: Error,
    /// The CNI plugin does not run on a Linux node.
    CniNotOnNode: Warning,
    /// Pods have no sidecar, and would get one today.
    PodsNotInjected: Warning,
    /// New Pods like existing ones would be denied.
    PodsWouldBeDenied: Error,
    /// Sidecars differ from what would be injected today.
    SidecarsOutdated: Warning,
    /// Sidecars have no connection to the control plane.
    SidecarsDisconnected: Error,
    /// Sidecars reject configuration.
    ConfigurationRejected: Error,
    /// Pods with a sidecar have no Dataplane.
    DataplanesMissing: Error,
    /// A ContainerPatch does not apply.
    ContainerPatchFails: Warning,
    /// A ContainerPatch that the settings name does not exist.
    ContainerPatchMissing: Error,
}

impl FindingKind {
    /// Returns the section of the reference about the finding.
    pub fn page(self) -> String {
        format!("docs/reference/check.md#{}", self.id().to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page of the reference.
    const PAGE: &str = include_str!("../../../docs/reference/check.md");

    #[test]
    fn reference_has_a_section_with_the_severity_for_each_finding_and_no_other() {
        let sections: BTreeSet<(&str, &str)> = PAGE
            .split("\n### ")
            .skip(1)
            .map(|section| {
                let mut lines = section.lines().filter(|line| !line.is_empty());
                let title = lines.next().unwrap_or_default();
                let severity = lines.next().unwrap_or_default().split('.').next();
                (title, severity.unwrap_or_default())
            })
            .collect();
        let kinds = FindingKind::ALL.iter();
        let expected: BTreeSet<(&str, &str)> = kinds
            .map(|kind| match kind.severity() {
                Severity::Error => (kind.id(), "Error"),
                Severity::Warning => (kind.id(), "Warning"),
            })
            .collect();
        assert_eq!(sections, expected);
    }
}
