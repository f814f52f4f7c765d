//! Why a Pod is refused, for people (`Display`) and for machines ([`Denial::reason`]).

use kermode_crds::annotation::WrongValue;

use crate::container_patch::PatchFailure;

/// Why a Pod is refused. The message names the object, the field and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// What was sent is not a Pod.
    #[error("cannot read the Pod: {path}: expected {expected}")]
    InvalidPod {
        /// JSON pointer to the offending field.
        path: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A label or annotation that is neither on nor off.
    #[error("{error}: it is {carrier}; use enabled, true, disabled or false")]
    WrongValue {
        /// Key and value.
        error: WrongValue,
        /// `a label of Pod default/app`, for example.
        carrier: String,
    },
    /// An annotation whose text does not read.
    #[error("failed to parse annotation \"{key}\": {problem} (on {object})")]
    Unparsable {
        /// The key.
        key: &'static str,
        /// What is wrong.
        problem: String,
        /// The object that carries it.
        object: String,
    },
    /// A map annotation that does not read.
    #[error(
        "invalid format. Map in \"{key}\" has to be provided in the following format: key1=value1;key2=value2"
    )]
    InvalidMap {
        /// The key.
        key: &'static str,
    },
    /// Annotations that `kuma-init` or the CNI plugin would stop at.
    #[error("{problem} (on {object})")]
    TrafficSettings {
        /// The annotation, its value, what is wrong and what to write.
        problem: String,
        /// The Pod.
        object: String,
    },
    /// There is no such Mesh.
    #[error("Mesh \"{mesh}\" not found: create it, or correct kuma.io/mesh of {object}")]
    MeshNotFound {
        /// Name of the Mesh.
        mesh: String,
        /// The Pod.
        object: String,
    },
    /// ContainerPatches that do not exist.
    #[error("it appears some expected container patches are missing: [{}]", quoted(names))]
    ContainerPatchesMissing {
        /// All names that are missing, in the order of the list.
        names: Vec<String>,
    },
    /// A ContainerPatch that cannot be applied, or whose result Kubernetes would not take.
    #[error(transparent)]
    ContainerPatch(#[from] PatchFailure),
    /// Containers that run as the sidecar's user, whose traffic would not be redirected.
    #[error(
        "containers using same UID as sidecar is unsupported: [{}]; give them another securityContext.runAsUser",
        quoted(names)
    )]
    SameUid {
        /// Their names.
        names: Vec<String>,
    },
    /// The volume named for the sidecar's token does not exist.
    #[error(
        "volume ({volume}) specified for kuma.io/service-account-token-volume but volume does not exist in pod spec"
    )]
    TokenVolumeMissing {
        /// Name of the volume.
        volume: String,
    },
    /// Virtual probes asked for on a gateway.
    #[error("virtual probes can't be enabled in gateway mode")]
    VirtualProbesOnGateway,
    /// A probe of the Pod on the port of the virtual probes.
    #[error(
        "cannot override Pod's probes. Port for probe cannot be set to {port}. It is reserved for the dataplane that will serve pods without mTLS."
    )]
    ProbePortReserved {
        /// The port.
        port: u16,
    },
    /// A probe whose port is no port of its container.
    #[error("container \"{container}\": {probe}.httpGet.port: {problem}")]
    ProbePort {
        /// Name of the container.
        container: String,
        /// The probe's field.
        probe: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A native sidecar asked for where the API server has none.
    #[error(
        "kuma.io/sidecar-mode: native needs Kubernetes 1.29 or later, this API server is older: use auto or classic on {object}"
    )]
    NativeUnsupported {
        /// The Pod.
        object: String,
    },
}

// === impl Denial ===

impl Denial {
    /// A stable word for events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidPod { .. } => "InvalidPod",
            Self::WrongValue { .. } => "WrongValue",
            Self::Unparsable { .. } | Self::InvalidMap { .. } => "UnparsableAnnotation",
            Self::TrafficSettings { .. } => "InvalidTrafficSettings",
            Self::MeshNotFound { .. } => "MeshNotFound",
            Self::ContainerPatchesMissing { .. } => "ContainerPatchesMissing",
            Self::ContainerPatch(_) => "ContainerPatchFailed",
            Self::SameUid { .. } => "SameUid",
            Self::TokenVolumeMissing { .. } => "TokenVolumeMissing",
            Self::VirtualProbesOnGateway => "VirtualProbesOnGateway",
            Self::ProbePortReserved { .. } => "ProbePortReserved",
            Self::ProbePort { .. } => "InvalidProbePort",
            Self::NativeUnsupported { .. } => "NativeUnsupported",
        }
    }
}

/// Names quoted and separated by a blank, as Go prints a list with `%q`.
pub(crate) fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(" ")
}
