//! Inbounds of a Pod: one for each port of each Service that selects the Pod (docs/reference/dataplane.md#inbounds).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kermode_crds::annotation;
use kermode_model::{Inbound, Protocol, ServiceName};

use super::facts::{OwnerRef, PodFacts, ServiceFacts, ServicePortFacts, TargetPort};
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
        let fitting = fitting_services(self.pod, services, self.is_gateway);
        warnings.extend(too_many_ports(self.pod, services, &fitting));
        for service in fitting {
            let count_before = inbounds.len();
            for port in &service.ports {
                let Some(ResolvedPort { number, .. }) = resolve_target(self.pod, &port.target) else {
                    warnings.extend(target_port_not_found(service, port));
                    continue;
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
                warnings.push(service_without_inbound(service, no_inbound_reason(service)));
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
    pod: &PodFacts,
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
        .map(|service| (inbound_count(pod, service), *service))
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
    pod: &PodFacts,
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
            let ports = inbound_count(pod, service);
            service_without_inbound(service, NoInboundReason::TooManyPorts { ports })
        })
        .collect()
}

/// Returns the number of inbounds that a Service yields: the number of its ports that resolve to a container port.
fn inbound_count(pod: &PodFacts, service: &ServiceFacts) -> usize {
    let ports = service.ports.iter();
    ports
        .filter(|port| resolve_target(pod, &port.target).is_some())
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
fn no_inbound_reason(service: &ServiceFacts) -> NoInboundReason {
    if service.ports.is_empty() {
        return if service.has_non_tcp_ports {
            NoInboundReason::NoTcpPorts
        } else {
            NoInboundReason::NoPorts
        };
    }
    let names = service.ports.iter().filter_map(|port| match &port.target {
        TargetPort::Name(name) => Some(name.clone()),
        TargetPort::Number(_) => None,
    });
    NoInboundReason::TargetPortsNotFound {
        targets: names.collect(),
    }
}

/// Container port that is the target of a Service's port.
#[derive(Clone, Copy)]
pub(super) struct ResolvedPort<'p> {
    pub(super) number: u16,
    /// Name of the container that declares the port; `None` if no container declares the port.
    pub(super) container: Option<&'p Arc<str>>,
}

/// Resolves a target port in a Pod. Returns `None` if the target port is a name that no container declares.
pub(super) fn resolve_target<'p>(pod: &'p PodFacts, target: &TargetPort) -> Option<ResolvedPort<'p>> {
    match target {
        TargetPort::Number(wanted) => {
            let undeclared = ResolvedPort {
                number: *wanted,
                container: None,
            };
            Some(declared_port(pod, |_, number| number == *wanted).unwrap_or(undeclared))
        }
        TargetPort::Name(wanted) => declared_port(pod, |name, _| name == Some(&**wanted)),
    }
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

/// Returns a warning for a named target port that no container declares. A numeric target port is always found.
fn target_port_not_found(service: &ServiceFacts, port: &ServicePortFacts) -> Option<ConvertWarning> {
    let TargetPort::Name(target) = &port.target else {
        return None;
    };
    Some(ConvertWarning::TargetPortNotFound {
        service: service.key.clone(),
        port: port.number,
        target: target.clone(),
    })
}

/// Returns a warning if the annotation `kuma.io/ignore` of a Service is not a boolean.
fn invalid_ignore_annotation(service: &ServiceFacts) -> Option<ConvertWarning> {
    let value = service.annotations.get(annotation::IGNORE)?;
    let wrong = annotation::parse_bool(annotation::IGNORE, value).err()?;
    let service = service.key.clone();
    Some(ConvertWarning::ServiceAnnotation { service, wrong })
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
