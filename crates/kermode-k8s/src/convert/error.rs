//! Errors of conversion.

use std::num::ParseIntError;

use kermode_crds::annotation::{self, WrongValue};

/// Error of the conversion of a Pod to a Dataplane. The message becomes an Event on the Pod. If Kuma has the same
/// error, the message begins with Kuma's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The value of an annotation is not a boolean.
    #[error(transparent)]
    WrongValue(#[from] WrongValue),
    /// The value of an annotation is not a port number.
    #[error(
        "failed to parse annotation \"{key}\": \"{value}\" is not a port number from 0 to 65535: {source}"
    )]
    InvalidPort {
        /// Key of the annotation.
        key: &'static str,
        /// Value of the annotation.
        value: String,
        /// Parse error.
        source: ParseIntError,
    },
    /// Transparent proxying is enabled, but the annotation with the port for one direction is missing or 0.
    #[error("transparent proxying {direction} port has to be set in transparent mode")]
    MissingRedirectPort {
        /// `inbound` or `outbound`.
        direction: &'static str,
        /// Key of the annotation.
        key: &'static str,
    },
    /// Virtual probes are enabled, but the annotation with their port is missing or 0.
    #[error(
        "virtual probes are enabled, but annotation \"{}\" does not name a port from 1 to 65535",
        annotation::VIRTUAL_PROBES_PORT
    )]
    MissingProbesPort,
    /// The gateway type is unknown.
    #[error(
        "invalid delegated gateway type '{value}'; \"{}\" may be enabled, provided or disabled",
        annotation::GATEWAY
    )]
    UnknownGatewayType {
        /// Value of the annotation.
        value: String,
    },
}

impl ConvertError {
    /// Returns the path of the invalid field in the Pod.
    pub fn field(&self) -> String {
        let annotation_path = |key: &str| format!("metadata.annotations[\"{key}\"]");
        match self {
            Self::WrongValue(wrong) => annotation_path(&wrong.key),
            Self::InvalidPort { key, .. } | Self::MissingRedirectPort { key, .. } => annotation_path(key),
            Self::MissingProbesPort => annotation_path(annotation::VIRTUAL_PROBES_PORT),
            Self::UnknownGatewayType { .. } => annotation_path(annotation::GATEWAY),
        }
    }
}
