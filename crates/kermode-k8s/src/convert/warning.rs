//! Warnings of conversion: valid but likely unintended configuration.

use std::fmt;
use std::sync::Arc;

use kermode_crds::annotation::WrongValue;
use kermode_model::{ObjectKey, Protocol, ServiceName};

/// Warning about a Pod that was converted. The text becomes an Event on the Pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertWarning {
    /// Services declare different protocols for one container port (docs/design.md#shared-container-ports).
    #[error(
        "Services declare different protocols for container port {port} ({}); {used} is used. \
         Give their ports the same appProtocol.",
        Declarations(declared)
    )]
    ProtocolConflict {
        /// The container port.
        port: u16,
        /// Protocol that the proxy uses.
        used: Protocol,
        /// Declaration of each Service.
        declared: Vec<(ServiceName, Protocol)>,
    },
    /// The named target port of a Service's port does not exist in the Pod.
    #[error(
        "Port {port} of Service {service} has targetPort \"{target}\", but no container declares a TCP port of that \
         name; the Service's port is ignored. Name the port in spec.containers[*].ports, or use its number as \
         targetPort."
    )]
    TargetPortNotFound {
        /// The Service.
        service: ObjectKey,
        /// Port of the Service.
        port: u16,
        /// Name of the target port.
        target: Arc<str>,
    },
    /// An annotation of a Service is invalid and ignored.
    #[error("Service {service}: {wrong}; the annotation is ignored. Set it to enabled or disabled.")]
    ServiceAnnotation {
        /// The Service.
        service: ObjectKey,
        /// Key and value of the annotation.
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
    /// Returns the reason of the Event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ProtocolConflict { .. } => "ConflictingProtocols",
            Self::TargetPortNotFound { .. } => "TargetPortNotFound",
            Self::ServiceAnnotation { .. } => "WrongAnnotation",
        }
    }
}
