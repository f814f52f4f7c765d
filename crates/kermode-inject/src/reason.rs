//! Why a Pod is injected or skipped, as stable identifiers for Events and metrics.

use std::fmt;

/// Origin of a value that injection reads: the labels or the annotations of the Pod or of its Namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InjectionSource {
    /// A label of the Pod.
    PodLabel,
    /// An annotation of the Pod.
    PodAnnotation,
    /// A label of the Namespace.
    NamespaceLabel,
    /// An annotation of the Namespace.
    NamespaceAnnotation,
}

/// Property of a Pod that makes a sidecar impossible or harmful (docs/design.md#pods-that-cannot-carry-a-sidecar).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// `spec.hostNetwork` is true.
    HostNetwork,
    /// The Pod mirrors a static Pod of a kubelet.
    MirrorPod,
    /// The Pod can run on Windows nodes only.
    Windows,
}

/// Reason for skipping a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// A label of the Pod is in the setting `exceptions.labels`.
    ExceptionLabel,
    /// The Pod already has a sidecar.
    AlreadyInjected,
    /// A label or annotation disables injection.
    Disabled(InjectionSource),
    /// No label or annotation requests injection.
    NotRequested,
    /// The Namespace requests injection, but the Pod cannot carry a sidecar.
    CannotCarrySidecar(Obstacle),
}

// === impl InjectionSource ===

impl InjectionSource {
    /// All sources, the one with the highest precedence first (docs/design.md#injection-precedence).
    pub(crate) const IN_ORDER: [Self; 4] = [
        Self::PodLabel,
        Self::PodAnnotation,
        Self::NamespaceLabel,
        Self::NamespaceAnnotation,
    ];

    /// Returns a stable identifier for Events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodLabel => "PodLabel",
            Self::PodAnnotation => "PodAnnotation",
            Self::NamespaceLabel => "NamespaceLabel",
            Self::NamespaceAnnotation => "NamespaceAnnotation",
        }
    }
}

impl fmt::Display for InjectionSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

// === impl Obstacle ===

impl Obstacle {
    /// Returns a stable identifier for Events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::MirrorPod => "MirrorPod",
            Self::Windows => "Windows",
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::HostNetwork => {
                "spec.hostNetwork is true, so the traffic of the whole node would be redirected"
            }
            Self::MirrorPod => "it mirrors a static Pod, which the kubelet runs without injected containers",
            Self::Windows => "it runs on Windows, where traffic cannot be redirected",
        })
    }
}

// === impl SkipReason ===

impl SkipReason {
    /// Returns a stable identifier for Events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExceptionLabel => "ExceptionLabel",
            Self::AlreadyInjected => "AlreadyInjected",
            Self::Disabled(InjectionSource::PodLabel) => "DisabledByPodLabel",
            Self::Disabled(InjectionSource::PodAnnotation) => "DisabledByPodAnnotation",
            Self::Disabled(InjectionSource::NamespaceLabel) => "DisabledByNamespaceLabel",
            Self::Disabled(InjectionSource::NamespaceAnnotation) => "DisabledByNamespaceAnnotation",
            Self::NotRequested => "NotRequested",
            Self::CannotCarrySidecar(obstacle) => obstacle.as_str(),
        }
    }

    /// Returns the warning for the creator of the Pod, if injection was requested and cannot be done.
    pub fn warning(self) -> Option<String> {
        match self {
            Self::CannotCarrySidecar(obstacle) => Some(format!("the Pod gets no sidecar: {obstacle}")),
            _ => None,
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
