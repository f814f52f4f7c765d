//! Inbounds of a Pod: one for each port of each Service that selects the Pod (docs/reference/dataplane.md#inbounds).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kermode_crds::annotation;
use kermode_model::{Inbound, Protocol, ServiceName};

use super::facts::{OwnerRef, PodFacts, ServiceFacts, ServicePortFacts, TargetPort};
use super::proxy::{self, SidecarPort};
use super::warning::{ConvertWarning, NoInboundReason};
use super::{ConvertSettings, health, tags};

/// Builds the inbounds of a Pod from its Services.
pub(super) struct InboundBuilder<'a> {
    pub(super) pod: &'a PodFacts,
    pub(super) settings: &'a ConvertSettings,
    /// Whether the Pod is a gateway. The Dataplane of a gateway keeps only the tags of the first inbound.
    pub(super) is_gateway: bool,
}

/// Returns the placeholder inbound of a service-less Pod (docs/reference/dataplane.md#service-less-pods).
pub(super) fn placeholder(
    pod: &PodFacts,
    workload: Option<&OwnerRef>,
    settings: &ConvertSettings,
) -> Inbound {
    Inbound {
        port: Inbound::SERVICELESS_PORT,
        tags: tags::collect(|visit| tags::of_service_less_pod(pod, workload, settings, visit)),
        ready: health::of_pod(pod),
    }
}

// === impl InboundBuilder ===

impl InboundBuilder<'_> {
    /// Returns the inbounds for Services that select the Pod, in the order of the Services and their ports.
    pub(super) fn of_services(
        &self,
        services: &[&ServiceFacts],
        warnings: &mut Vec<ConvertWarning>,
    ) -> Vec<Inbound> {
        let mut inbounds = Vec::new();
        let mut declared_protocols = DeclaredProtocols::default();
        for service in services {
            warnings.extend(invalid_ignore_annotation(service));
        }
        let resolver = PortResolver::new(self.pod, self.is_gateway);
        let fitting = fitting_services(&resolver, services, self.is_gateway);
        warnings.extend(too_many_ports(&resolver, services, &fitting));
        for service in fitting {
            let count_before = inbounds.len();
            for port in &service.ports {
                let number = match resolver.resolve(&port.target) {
                    Ok(ResolvedPort { number, .. }) => number,
                    Err(unresolved) => {
                        warnings.push(unresolved.warning(service, port));
                        continue;
                    }
                };
                declared_protocols.record(number, port);
                let (pod, settings, is_gateway) = (self.pod, self.settings, self.is_gateway);
                inbounds.push(Inbound {
                    port: number,
                    tags: tags::collect(|visit| {
                        tags::of_service_port(pod, service, port, settings, is_gateway, visit);
                    }),
                    ready: health::of_port(pod, number),
                });
            }
            if inbounds.len() == count_before {
                warnings.push(service_without_inbound(
                    service,
                    no_inbound_reason(&resolver, service),
                ));
            }
        }
        if !self.is_gateway {
            warnings.extend(declared_protocols.conflicts());
        }
        inbounds
    }
}

/// Returns the Services whose inbounds fit into one Dataplane. Both `services` and the result are ordered by name. If
/// the inbounds of all Services do not fit, Services with fewer inbounds are preferred, so that one Service with very
/// many ports displaces no other. The Services of gateways are not limited, because Dataplanes of gateways have no
/// inbounds.
pub(super) fn fitting_services<'s>(
    resolver: &PortResolver<'_>,
    services: &[&'s ServiceFacts],
    is_gateway: bool,
) -> Vec<&'s ServiceFacts> {
    // A Service yields at most one inbound for each of its ports.
    let port_count: usize = services.iter().map(|service| service.ports.len()).sum();
    if is_gateway || port_count <= Inbound::MAX_PER_DATAPLANE {
        return services.to_vec();
    }
    let mut by_inbound_count: Vec<_> = services
        .iter()
        .map(|service| (inbound_count(resolver, service), *service))
        .collect();
    by_inbound_count.sort_by_key(|(count, _)| *count);
    let mut free = Inbound::MAX_PER_DATAPLANE;
    let mut fitting = Vec::new();
    for (count, service) in by_inbound_count {
        let Some(rest) = free.checked_sub(count) else {
            break;
        };
        free = rest;
        fitting.push(service);
    }
    fitting.sort_unstable_by(|a, b| a.key.name.cmp(&b.key.name));
    fitting
}

/// Returns a warning for each of `services` that is not among the Services `fitting`.
fn too_many_ports(
    resolver: &PortResolver<'_>,
    services: &[&ServiceFacts],
    fitting: &[&ServiceFacts],
) -> Vec<ConvertWarning> {
    if services.len() == fitting.len() {
        return Vec::new();
    }
    let fitting_keys: BTreeSet<_> = fitting.iter().map(|service| &service.key).collect();
    let left_out = services
        .iter()
        .filter(|service| !fitting_keys.contains(&service.key));
    left_out
        .map(|service| {
            let ports = inbound_count(resolver, service);
            service_without_inbound(service, NoInboundReason::TooManyPorts { ports })
        })
        .collect()
}

/// Returns the number of inbounds that a Service yields: the number of its ports that resolve to a container port.
fn inbound_count(resolver: &PortResolver<'_>, service: &ServiceFacts) -> usize {
    let ports = service.ports.iter();
    ports
        .filter(|port| resolver.resolve(&port.target).is_ok())
        .count()
}

/// Returns the warning that a Service yields no inbound.
fn service_without_inbound(service: &ServiceFacts, reason: NoInboundReason) -> ConvertWarning {
    ConvertWarning::ServiceWithoutInbound {
        service: service.key.clone(),
        uid: service.uid.clone(),
        reason,
    }
}

/// Returns the reason why no port of a Service yields an inbound.
fn no_inbound_reason(resolver: &PortResolver<'_>, service: &ServiceFacts) -> NoInboundReason {
    if service.ports.is_empty() {
        return if service.has_non_tcp_ports {
            NoInboundReason::NoTcpPorts
        } else {
            NoInboundReason::NoPorts
        };
    }
    let unresolved = service
        .ports
        .iter()
        .filter_map(|port| resolver.resolve(&port.target).err());
    let mut targets = Vec::new();
    for unresolved in unresolved {
        match unresolved {
            Unresolved::NotDeclared { name } => targets.push(name),
            Unresolved::OfSidecar { port, use_by_sidecar } => {
                return NoInboundReason::SidecarPort { port, use_by_sidecar };
            }
        }
    }
    NoInboundReason::TargetPortsNotFound { targets }
}

/// Container port that is the target of a Service's port.
#[derive(Clone, Copy)]
pub(super) struct ResolvedPort<'p> {
    pub(super) number: u16,
    /// Name of the container that declares the port; `None` if no container declares the port.
    pub(super) container: Option<&'p Arc<str>>,
}

/// Reason why a target port yields no inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// No container declares a TCP port of the name.
    NotDeclared {
        /// Name of the target port.
        name: Arc<str>,
    },
    /// The sidecar listens on the port. Envoy would reject a second listener at the address.
    OfSidecar {
        /// Number of the target port.
        port: u16,
        /// Use of the port by the sidecar.
        use_by_sidecar: SidecarPort,
    },
}

/// Resolves target ports in a Pod.
pub(super) struct PortResolver<'p> {
    pod: &'p PodFacts,
    sidecar_ports: BTreeMap<u16, SidecarPort>,
}

/// Returns the first container port whose declared name and number satisfy `matches`.
fn declared_port(pod: &PodFacts, matches: impl Fn(Option<&str>, u16) -> bool) -> Option<ResolvedPort<'_>> {
    pod.containers.iter().find_map(|container| {
        let mut ports = container.ports.iter();
        let (_, number) = ports.find(|(name, number)| matches(name.as_deref(), *number))?;
        Some(ResolvedPort {
            number: *number,
            container: Some(&container.name),
        })
    })
}

/// Returns a warning if the annotation `kuma.io/ignore` of a Service is not a boolean.
fn invalid_ignore_annotation(service: &ServiceFacts) -> Option<ConvertWarning> {
    let value = service.annotations.get(annotation::IGNORE)?;
    let wrong = annotation::parse_bool(annotation::IGNORE, value).err()?;
    let service = service.key.clone();
    Some(ConvertWarning::ServiceAnnotation { service, wrong })
}

// === impl PortResolver ===

impl<'p> PortResolver<'p> {
    /// A gateway has no inbound listeners, so its Services may have any target ports.
    pub(super) fn new(pod: &'p PodFacts, is_gateway: bool) -> Self {
        let sidecar_ports = if is_gateway {
            BTreeMap::new()
        } else {
            proxy::sidecar_ports(pod)
        };
        Self { pod, sidecar_ports }
    }

    /// Returns the container port of a target port.
    ///
    /// # Errors
    /// Fails if no container declares a port of that name, or if the sidecar listens on the port.
    pub(super) fn resolve(&self, target: &TargetPort) -> Result<ResolvedPort<'p>, Unresolved> {
        let resolved = match target {
            TargetPort::Number(wanted) => {
                let undeclared = ResolvedPort {
                    number: *wanted,
                    container: None,
                };
                declared_port(self.pod, |_, number| number == *wanted).unwrap_or(undeclared)
            }
            TargetPort::Name(wanted) => declared_port(self.pod, |name, _| name == Some(&**wanted))
                .ok_or_else(|| Unresolved::NotDeclared { name: wanted.clone() })?,
        };
        match self.sidecar_ports.get(&resolved.number) {
            Some(use_by_sidecar) => Err(Unresolved::OfSidecar {
                port: resolved.number,
                use_by_sidecar: *use_by_sidecar,
            }),
            None => Ok(resolved),
        }
    }
}

// === impl Unresolved ===

impl Unresolved {
    /// Returns the warning about a Service's port whose target port yields no inbound.
    fn warning(self, service: &ServiceFacts, port: &ServicePortFacts) -> ConvertWarning {
        let (service, port) = (service.key.clone(), port.number);
        match self {
            Self::NotDeclared { name: target } => ConvertWarning::TargetPortNotFound {
                service,
                port,
                target,
            },
            Self::OfSidecar {
                port: target,
                use_by_sidecar,
            } => ConvertWarning::SidecarPort {
                service,
                port,
                target,
                use_by_sidecar,
            },
        }
    }
}

/// Protocols that Services declare, by container port.
#[derive(Default)]
struct DeclaredProtocols(BTreeMap<u16, Vec<(ServiceName, Protocol)>>);

impl DeclaredProtocols {
    /// Records the protocol that a Service's port declares for a container port. Does nothing if the Service's port
    /// declares no protocol.
    fn record(&mut self, container_port: u16, port: &ServicePortFacts) {
        if let Some(protocol) = port.declared_protocol {
            let declarations = self.0.entry(container_port).or_default();
            declarations.push((port.service_name().clone(), protocol));
        }
    }

    /// Returns a warning for each container port with conflicting declarations. The proxy uses the most specific
    /// protocol, which is the greatest (docs/design.md#shared-container-ports).
    fn conflicts(self) -> impl Iterator<Item = ConvertWarning> {
        self.0.into_iter().filter_map(|(port, declared)| {
            let used = declared.iter().map(|(_, protocol)| *protocol).max()?;
            let has_conflict = declared.iter().any(|(_, protocol)| *protocol != used);
            has_conflict.then_some(ConvertWarning::ProtocolConflict { port, used, declared })
        })
    }
}
