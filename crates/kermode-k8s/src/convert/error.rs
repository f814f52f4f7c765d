//! Why a Pod cannot be turned into a Dataplane.

use std::num::ParseIntError;

use kermode_crds::annotation::{self, WrongValue};
use kermode_model::Inbound;

use super::facts::ProbeKind;

/// Why a Pod cannot be turned into a Dataplane. Shown in an Event on the Pod, so the Pod is named by where it stands;
/// the texts that Kuma has are Kuma's (BEHAVIOUR sections 1 and 3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Services select the Pod, but none of their ports leads anywhere in it.
    #[error("A service that selects pod {pod} was found, but it doesn't match any container ports.")]
    NoMatchingPort {
        /// The Pod's name.
        pod: String,
    },
    /// More ports of Services lead to the Pod than a Dataplane holds.
    #[error(
        "{services} Services select the Pod by {found} ports, and a Dataplane has at most {} inbounds: narrow their \
         selectors, or annotate those that need no mesh with {}: enabled",
        Inbound::MOST,
        annotation::IGNORE
    )]
    TooManyInbounds {
        /// How many Services.
        services: usize,
        /// How many of their ports lead to it.
        found: usize,
    },
    /// An annotation that should say yes or no says something else.
    #[error(transparent)]
    WrongValue(#[from] WrongValue),
    /// An annotation that should hold a number does not.
    #[error("failed to parse annotation \"{key}\": \"{value}\" is no port number from 0 to 65535: {source}")]
    Number {
        /// The annotation.
        key: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with it.
        source: ParseIntError,
    },
    /// Traffic is redirected, but it is not said to which port.
    #[error("transparent proxying {direction} port has to be set in transparent mode")]
    RedirectPort {
        /// `inbound` or `outbound`.
        direction: &'static str,
        /// The annotation that should say it.
        key: &'static str,
    },
    /// Probes go through the proxy, but it is not said on which port.
    #[error(
        "virtual probes are enabled, but annotation \"{}\" does not say on which port",
        annotation::VIRTUAL_PROBES_PORT
    )]
    ProbesPort,
    /// A probe on the virtual port does not say which port of the application it means.
    #[error(
        "path \"{path}\" of a probe on port {port} does not start with /<application port>/; that port is reserved \
         for the sidecar, which answers application probes there"
    )]
    ProbePath {
        /// Index of the container.
        container: usize,
        /// Which probe.
        kind: ProbeKind,
        /// The virtual port.
        port: u16,
        /// The path.
        path: String,
    },
    /// The Pod asks to be a kind of gateway that there is not.
    #[error(
        "invalid delegated gateway type '{value}'; \"{}\" may be enabled, provided or disabled",
        annotation::GATEWAY
    )]
    GatewayType {
        /// What the annotation says.
        value: String,
    },
}

impl ConvertError {
    /// The field at fault, as a path into the Pod.
    pub fn field(&self) -> String {
        let annotated = |key: &str| format!("metadata.annotations[\"{key}\"]");
        match self {
            Self::NoMatchingPort { .. } => "spec.containers[*].ports".to_owned(),
            Self::TooManyInbounds { .. } => "metadata.labels".to_owned(),
            Self::WrongValue(wrong) => annotated(&wrong.key),
            Self::Number { key, .. } | Self::RedirectPort { key, .. } => annotated(key),
            Self::ProbesPort => annotated(annotation::VIRTUAL_PROBES_PORT),
            Self::ProbePath { container, kind, .. } => {
                format!("spec.containers[{container}].{}.httpGet.path", kind.field())
            }
            Self::GatewayType { .. } => annotated(annotation::GATEWAY),
        }
    }
}
