//! Why a Pod was injected or left alone, as words that stay the same.

use std::fmt;

/// Where the word that decided was found.
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

/// Why a Pod was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// One of its labels is in the setting `exceptions.labels`.
    ExceptionLabel,
    /// It has the sidecar already.
    AlreadyInjected,
    /// Injection is switched off for it.
    Disabled(InjectionSource),
    /// Nothing asks for injection.
    NotRequested,
}

// === impl InjectionSource ===

impl InjectionSource {
    /// The four in the order in which they are asked; the first that has the key decides.
    pub(crate) const IN_ORDER: [Self; 4] = [
        Self::PodLabel,
        Self::PodAnnotation,
        Self::NamespaceLabel,
        Self::NamespaceAnnotation,
    ];

    /// A stable word for events and metrics.
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
    /// A stable word for events and metrics.
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
