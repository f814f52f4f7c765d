//! Warnings of conversion: valid but likely unintended configuration.

use std::fmt;
use std::sync::Arc;

use kermode_crds::annotation::{self, WrongValue};
use kermode_model::{Inbound, MAX_PROBES, ObjectKey, Protocol, ServiceName};

use super::proxy::SidecarPort;

/// Warning about a Pod that was converted. The text becomes an Event on the Pod or on a Service; see
/// [`ConvertWarning::subject`].
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
    /// The target port of a Service's port belongs to the sidecar.
    #[error(
        "Port {port} of Service {service} has targetPort {target}, which the sidecar uses for its {use_by_sidecar}; the \
         Service's port is ignored. If the application listens on port {target}, declare it in \
         spec.containers[*].ports: the sidecar of a new Pod then uses another port."
    )]
    SidecarPort {
        /// The Service.
        service: ObjectKey,
        /// Port of the Service.
        port: u16,
        /// Number of the target port.
        target: u16,
        /// Use of the target port by the sidecar.
        use_by_sidecar: SidecarPort,
    },
    /// An annotation of a Service is invalid and ignored.
    #[error("Service {service}: {wrong}; the annotation is ignored. Set it to enabled or disabled.")]
    ServiceAnnotation {
        /// The Service.
        service: ObjectKey,
        /// Key and value of the annotation.
        wrong: WrongValue,
    },
    /// A probe or hook goes to the port of the virtual probes, but its path is not that of a virtual probe.
    #[error(
        "{field}.httpGet: port {port} belongs to the sidecar's virtual probes, and path {path:?} is not that of a \
         virtual probe; the sidecar responds with 404. Let the application use another port, or set annotation \"{}\" \
         of the Pod.",
        annotation::VIRTUAL_PROBES_PORT
    )]
    ProbePath {
        /// Path of the probe's field in the Pod.
        field: String,
        /// Port of the virtual probes.
        port: u16,
        /// Path that the probe requests.
        path: Arc<str>,
    },
    /// The Pod has more virtual probes than [`MAX_PROBES`].
    #[error(
        "The Pod has {} probes and HTTP lifecycle hooks for the sidecar, which answers at most {MAX_PROBES}; it responds \
         to the last {skipped} with 404. Use fewer probes, or set annotation \"{}\" of the Pod to disabled.",
        MAX_PROBES + skipped,
        annotation::VIRTUAL_PROBES
    )]
    TooManyProbes {
        /// Number of probes and hooks beyond the maximum, to which the sidecar responds with 404.
        skipped: usize,
    },
    /// The port of the endpoint for metrics is already another port of the proxy.
    #[error(
        "Port {port} of annotation \"{}\" is already {used}, so the sidecar serves no metrics. Set the annotation to a \
         free port.",
        annotation::METRICS_PORT
    )]
    MetricsPort {
        /// The port, which is the default port without the annotation.
        port: u16,
        /// Other use of the port.
        used: &'static str,
    },
    /// A Service selects the Pod but yields no inbound (docs/design.md#services-never-stop-a-pod).
    #[error(
        "Service {service} selects a Pod of the mesh but yields no inbound: {reason} The Pod keeps the inbounds of its \
         other Services; without any, its service is named after its workload."
    )]
    ServiceWithoutInbound {
        /// The Service.
        service: ObjectKey,
        /// UID of the Service.
        uid: Arc<str>,
        /// The reason.
        reason: NoInboundReason,
    },
}

/// Reason why a Service yields no inbound for a Pod that it selects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoInboundReason {
    /// The Service has no ports, as the governing Service of a StatefulSet may.
    #[error("it has no ports. Add a TCP port if clients shall reach the Service through the mesh.")]
    NoPorts,
    /// All ports of the Service are UDP or SCTP.
    #[error("none of its ports is a TCP port, and the mesh carries only TCP.")]
    NoTcpPorts,
    /// No container declares a port with the name of a target port.
    #[error(
        "no container declares a TCP port named {}. Correct targetPort, or name the port in spec.containers[*].ports.",
        Quoted(targets)
    )]
    TargetPortsNotFound {
        /// Names of the target ports, in the order of the Service.
        targets: Vec<Arc<str>>,
    },
    /// All target ports of the Service belong to the sidecar, or no container declares a port with their name.
    #[error("the sidecar itself uses port {port} of the Pod, for its {use_by_sidecar}.")]
    SidecarPort {
        /// The first such target port.
        port: u16,
        /// Use of the port by the sidecar.
        use_by_sidecar: SidecarPort,
    },
    /// The ports of the Service and of the Pod's Services with fewer ports are together more than
    /// [`Inbound::MAX_PER_DATAPLANE`].
    #[error(
        "with its {ports} ports, the Services of the Pod have more than the {} inbounds of a Dataplane, and Services \
         with fewer ports come first. Narrow the selectors of Services, or exclude Services from the mesh by \
         annotation \"{}: enabled\".",
        Inbound::MAX_PER_DATAPLANE,
        annotation::IGNORE
    )]
    TooManyPorts {
        /// Number of ports of the Service that resolve to a container port.
        ports: usize,
    },
}

/// Object that the Event of a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarningSubject<'w> {
    /// The Pod.
    Pod,
    /// A Service, by key and UID.
    Service(&'w ObjectKey, &'w Arc<str>),
}

struct Quoted<'a>(&'a [Arc<str>]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " or " };
            write!(f, "{separator}\"{name}\"")?;
        }
        Ok(())
    }
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
            Self::SidecarPort { .. } => "TargetPortOfSidecar",
            Self::ServiceAnnotation { .. } | Self::MetricsPort { .. } => "WrongAnnotation",
            Self::ServiceWithoutInbound { .. } => "ServiceWithoutInbound",
            Self::ProbePath { .. } | Self::TooManyProbes { .. } => "ProbeNotRewritten",
        }
    }

    /// Returns the object that the Event is about.
    pub fn subject(&self) -> WarningSubject<'_> {
        match self {
            Self::ServiceWithoutInbound { service, uid, .. } => WarningSubject::Service(service, uid),
            _ => WarningSubject::Pod,
        }
    }

    /// Whether the configuration is usual, so that the Event is a Normal one: a Service without TCP ports does nothing
    /// that its author did not intend.
    pub fn is_usual(&self) -> bool {
        let Self::ServiceWithoutInbound { reason, .. } = self else {
            return false;
        };
        matches!(reason, NoInboundReason::NoPorts | NoInboundReason::NoTcpPorts)
    }
}
