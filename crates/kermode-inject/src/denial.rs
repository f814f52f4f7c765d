//! Reasons for denying admission of a Pod, as text (`Display`) and as stable identifiers ([`Denial::reason`]).

use crate::container_patch::PatchFailure;
use crate::reason::Obstacle;

/// Reason for denying admission of a Pod. The message names the object, the field and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A field of the Pod is missing or has the wrong type.
    #[error("cannot read the Pod: {path}: expected {expected}")]
    InvalidPod {
        /// JSON pointer to the offending field.
        path: String,
        /// Expected type.
        expected: &'static str,
    },
    /// A label or annotation is not a boolean.
    #[error(
        "{noun} \"{key}\" has wrong value \"{value}\" (on {object}): use enabled, true, disabled or false"
    )]
    WrongValue {
        /// `label` or `annotation`.
        noun: &'static str,
        /// Key of the label or annotation.
        key: &'static str,
        /// Value of the label or annotation.
        value: String,
        /// Kind and name of the object that has the label or annotation.
        object: String,
    },
    /// An annotation cannot be parsed.
    #[error("failed to parse annotation \"{key}\": {problem} (on {object})")]
    Unparsable {
        /// Key of the annotation.
        key: &'static str,
        /// Description of the problem.
        problem: String,
        /// Kind and name of the object that has the annotation.
        object: String,
    },
    /// An annotation whose value is a map cannot be parsed.
    #[error(
        "invalid format. Map in \"{key}\" has to be provided in the following format: key1=value1;key2=value2 \
         (item {item:?} on {object} has no key or no equals sign)"
    )]
    InvalidMap {
        /// Key of the annotation.
        key: &'static str,
        /// The first invalid item.
        item: String,
        /// Kind and name of the object that has the annotation.
        object: String,
    },
    /// Annotations that `kuma-init` and the CNI plugin would reject.
    #[error("{problem} (on {object})")]
    InvalidTrafficSettings {
        /// Annotation, value, problem and remedy.
        problem: String,
        /// Kind, namespace and name of the Pod.
        object: String,
    },
    /// The Mesh that the Pod would join does not exist.
    #[error("Mesh \"{mesh}\" not found: create it, or correct {origin}")]
    MeshNotFound {
        /// Name of the Mesh.
        mesh: String,
        /// Label or annotation that names the Mesh, and its object.
        origin: String,
    },
    /// ContainerPatches do not exist.
    #[error("it appears some expected container patches are missing: [{}]", quoted(names))]
    ContainerPatchesMissing {
        /// Names of the missing ContainerPatches, in the order in which the annotation or setting names them.
        names: Vec<String>,
    },
    /// A ContainerPatch cannot be applied, or Kubernetes would reject its result.
    #[error(transparent)]
    ContainerPatch(#[from] PatchFailure),
    /// Containers run as the sidecar's user, whose traffic is not redirected.
    #[error(
        "containers using same UID as sidecar is unsupported: [{}]; give them another securityContext.runAsUser",
        quoted(names)
    )]
    SameUid {
        /// Names of the containers.
        names: Vec<String>,
    },
    /// The Pod requests a sidecar, but cannot carry one.
    #[error("{location} requests a sidecar, which the Pod cannot have: {obstacle}; remove this request")]
    CannotCarrySidecar {
        /// Property of the Pod that makes a sidecar impossible.
        obstacle: Obstacle,
        /// Label or annotation that requests injection, with its key and object.
        location: String,
    },
    /// The volume for the sidecar's token does not exist.
    #[error(
        "volume ({volume}) specified for kuma.io/service-account-token-volume but volume does not exist in pod spec"
    )]
    TokenVolumeMissing {
        /// Name of the volume.
        volume: String,
    },
    /// The Pod has a volume of its own with the name of a volume that the sidecar needs.
    #[error("volume \"{volume}\" of {object} has a name that is reserved for the sidecar: rename the volume")]
    VolumeNameTaken {
        /// Name of the volume.
        volume: String,
        /// Kind, namespace and name of the Pod.
        object: String,
    },
    /// Virtual probes are enabled for a gateway.
    #[error("virtual probes can't be enabled in gateway mode")]
    VirtualProbesOnGateway,
    /// The Pod or the setting `sidecarMode` requests a native sidecar, but the API server does not support native
    /// sidecars.
    #[error(
        "kuma.io/sidecar-mode: native needs Kubernetes 1.29 or later, this API server is older: use auto or classic on {object} or in the setting sidecarMode"
    )]
    NativeUnsupported {
        /// Kind, namespace and name of the Pod.
        object: String,
    },
}

// === impl Denial ===

impl Denial {
    /// Returns a stable identifier for Events and metrics (docs/reference/admission-messages.md#reasons).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidPod { .. } => "InvalidPod",
            Self::WrongValue { .. } => "WrongValue",
            Self::Unparsable { .. } | Self::InvalidMap { .. } => "UnparsableAnnotation",
            Self::InvalidTrafficSettings { .. } => "InvalidTrafficSettings",
            Self::MeshNotFound { .. } => "MeshNotFound",
            Self::ContainerPatchesMissing { .. } => "ContainerPatchesMissing",
            Self::ContainerPatch(_) => "ContainerPatchFailed",
            Self::SameUid { .. } => "SameUid",
            Self::CannotCarrySidecar { obstacle, .. } => obstacle.as_str(),
            Self::TokenVolumeMissing { .. } => "TokenVolumeMissing",
            Self::VolumeNameTaken { .. } => "VolumeNameTaken",
            Self::VirtualProbesOnGateway => "VirtualProbesOnGateway",
            Self::NativeUnsupported { .. } => "NativeUnsupported",
        }
    }
}

/// Quotes names and separates them by spaces, as Go's `%q` prints a list.
pub(crate) fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(" ")
}
