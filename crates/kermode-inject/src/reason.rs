//! Reasons for injecting or skipping a Pod, as stable identifiers.

use std::fmt;

/// Label or annotation that decided on injection.
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

/// Reason for which a Pod was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// A label of the Pod is in the setting `exceptions.labels`.
    ExceptionLabel,
    /// The Pod has a sidecar.
    AlreadyInjected,
    /// A label or annotation disables injection.
    Disabled(InjectionSource),
    /// No label or annotation requests injection.
    NotRequested,
}

// === impl InjectionSource ===

impl InjectionSource {
    /// All sources, by precedence: the first one that has a key decides its value
    /// (docs/design.md#injection-precedence).
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
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
