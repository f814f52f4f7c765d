//! Explanations of Pods, Deployments and Namespaces for `kumactl explain`: why a Pod has a sidecar or none, what its
//! Dataplane consists of, what its sidecar has acknowledged, and what is wrong, with remedies.
//!
//! ```text
//! objects of a cluster or of files ──ObservedCluster──▶ explain_* ──Explanation──▶ text, JSON, YAML
//! ```
//!
//! [`inspect`] contains the reports of `kumactl inspect`.
//!
//! The crate does no IO and reads no clock. The decisions are those of the control plane: `kermode-inject` decides on
//! injection, and `kermode-k8s` converts Pods to Dataplanes.

mod containers;
mod dataplane;
mod deployment;
mod difference;
mod events;
mod explanation;
mod injection;
pub mod inspect;
mod installation;
mod late_injection;
mod namespace;
mod observed;
mod pod;
mod reviewer;
mod sidecar;
mod table;
mod webhook;

use kermode_k8s::offline::InvalidObject;
use kermode_manifests::ManifestError;

pub use dataplane::dataplanes_text;
pub use deployment::explain_deployment;
pub use difference::{SidecarChange, SidecarDifference, SidecarDifferences};
pub use explanation::{Decision, Explanation, Finding, InjectionState, Line, Section, lines_text};
pub use injection::injections_text;
pub use namespace::explain_namespace;
pub use observed::{
    ObservedCluster, Reference, Unread, condition, controller, list, name_of, reason_and_message, text,
};
pub use pod::{deployment_of, explain_pod};
pub use reviewer::{PodReview, PodReviewer};
pub use table::aligned;

/// Reason why an object cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The object is not among the objects.
    #[error("{kind} {name} does not exist among the objects: check its kind, namespace and name")]
    NotFound {
        /// Kind.
        kind: &'static str,
        /// Namespace and name.
        name: String,
    },
    /// An object that injection reads cannot be decoded.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// An object that the conversion to a Dataplane reads cannot be decoded.
    #[error(transparent)]
    Object(#[from] InvalidObject),
}

impl ExplainError {
    fn not_found(kind: &'static str, namespace: &str, name: &str) -> Self {
        let name = if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        };
        Self::NotFound { kind, name }
    }
}
