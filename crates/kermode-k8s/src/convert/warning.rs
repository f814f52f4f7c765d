//! What works, but maybe not as meant.

use std::fmt;
use std::sync::Arc;

use kermode_crds::annotation::WrongValue;
use kermode_model::{ObjectKey, Protocol, ServiceName};

/// Something to tell the owner of a Pod, in an Event, about a Dataplane that was made nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertWarning {
    /// Services disagree about what is spoken on one container port (decision 10).
    #[error(
        "Services declare different protocols for container port {port} ({}); {used} is used. \
         Give their ports the same appProtocol.",
        Declarations(declared)
    )]
    ProtocolConflict {
        /// The container port.
        port: u16,
        /// The protocol the proxy will speak.
        used: Protocol,
        /// What each Service declares.
        declared: Vec<(ServiceName, Protocol)>,
    },
    /// A Service's port leads to a named container port that the Pod does not have.
    #[error(
        "Port {port} of Service {service} leads to the container port named \"{target}\", which no container declares \
         for TCP; it is left out. Name the port in spec.containers[*].ports or use its number as targetPort."
    )]
    TargetPortNotFound {
        /// The Service.
        service: ObjectKey,
        /// Its port.
        port: u16,
        /// The name.
        target: Arc<str>,
    },
    /// An annotation of a Service means nothing and is not followed.
    #[error("Service {service}: {wrong}; it may be enabled or disabled, and counts as disabled.")]
    ServiceAnnotation {
        /// The Service.
        service: ObjectKey,
        /// Key and value.
        wrong: WrongValue,
    },
}

struct Declarations<'a>(&'a [(ServiceName, Protocol)]);

impl fmt::Display for Declarations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (service, protocol)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{service}: {protocol}")?;
        }
        Ok(())
    }
}

impl ConvertWarning {
    /// The reason of the Event that tells of it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ProtocolConflict { .. } => "ConflictingProtocols",
            Self::TargetPortNotFound { .. } => "TargetPortNotFound",
            Self::ServiceAnnotation { .. } => "WrongAnnotation",
        }
    }
}
