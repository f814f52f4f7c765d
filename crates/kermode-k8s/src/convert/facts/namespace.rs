//! Facts of Namespaces.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use super::Pairs;

/// Facts of a Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Pairs,
    /// Annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
    /// Whether the Namespace is being deleted. The API server creates no objects in a terminating Namespace.
    pub is_terminating: bool,
}

impl From<&Namespace> for NamespaceFacts {
    fn from(namespace: &Namespace) -> Self {
        let metadata = &namespace.metadata;
        Self {
            name: metadata.name.as_deref().unwrap_or_default().into(),
            labels: Pairs::all(metadata.labels.as_ref()),
            annotations: Pairs::kuma_only(metadata.annotations.as_ref()),
            is_terminating: metadata.deletion_timestamp.is_some(),
        }
    }
}
