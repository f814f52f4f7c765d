//! Inbounds: one for each port of each Service that selects the Pod (BEHAVIOUR section 3.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use kermode_crds::annotation;
use kermode_model::{Inbound, Protocol, ServiceName};

use super::error::ConvertError;
use super::facts::{PodFacts, ServiceFacts, ServicePortFacts, TargetPort, Workload};
use super::warning::ConvertWarning;
use super::{ConvertSettings, health, tags};

/// What inbounds are made from, Services aside.
pub(super) struct InboundSource<'a> {
    pub(super) pod: &'a PodFacts,
    pub(super) settings: &'a ConvertSettings,
    pub(super) gateway: bool,
}

/// The inbound that stands for a Pod that no Service selects.
pub(super) fn without_service(
    pod: &PodFacts,
    workload: Option<&Workload>,
    settings: &ConvertSettings,
) -> Inbound {
    Inbound {
        port: Inbound::SERVICELESS_PORT,
        tags: tags::collect(|visit| tags::without_service(pod, workload, settings, visit)),
        ready: health::of_pod(pod),
    }
}

// === impl InboundSource ===

impl InboundSource<'_> {
    /// The inbounds of a Pod that Services select, in the order of the Services and of their ports.
    pub(super) fn of_services(
        &self,
        services: &[&ServiceFacts],
        warnings: &mut Vec<ConvertWarning>,
    ) -> Result<Vec<Inbound>, ConvertError> {
        if !self.gateway {
            self.check_number(services)?;
        }
        let mut inbounds = Vec::new();
        let mut declared = DeclaredProtocols::default();
        for service in services {
            warnings.extend(wrong_annotation(service));
            for port in &service.ports {
                let Some(PortTarget { number, .. }) = resolve_target(self.pod, &port.target) else {
                    warnings.extend(not_found(service, port));
                    continue;
                };
                declared.note(number, port);
                let (pod, settings, gateway) = (self.pod, self.settings, self.gateway);
                inbounds.push(Inbound {
                    port: number,
                    tags: tags::collect(|visit| {
                        tags::of_service_port(pod, service, port, settings, gateway, visit);
                    }),
                    ready: health::of_port(pod, number),
                });
            }
        }
        if inbounds.is_empty() {
            let pod = self.pod.key.name.to_string();
            return Err(ConvertError::NoMatchingPort { pod });
        }
        if !self.gateway {
            warnings.extend(declared.conflicts());
        }
        Ok(inbounds)
    }

    /// Refused before they are made: what is too much to write is too much to make at every change.
    fn check_number(&self, services: &[&ServiceFacts]) -> Result<(), ConvertError> {
        let ports = services.iter().flat_map(|service| &service.ports);
        let found = ports
            .filter(|port| resolve_target(self.pod, &port.target).is_some())
            .count();
        if found > Inbound::MOST {
            let services = services.len();
            return Err(ConvertError::TooManyInbounds { services, found });
        }
        Ok(())
    }
}

/// Where a Service's port leads in a Pod.
#[derive(Clone, Copy)]
pub(super) struct PortTarget<'p> {
    pub(super) number: u16,
    /// The container that declares the port; a number may be declared by none.
    pub(super) container: Option<&'p Arc<str>>,
}

/// The container port that a Service's port leads to.
pub(super) fn resolve_target<'p>(pod: &'p PodFacts, target: &TargetPort) -> Option<PortTarget<'p>> {
    let declared = |wanted: &dyn Fn(Option<&str>, u16) -> bool| {
        pod.containers.iter().find_map(|container| {
            let mut ports = container.ports.iter();
            let (_, number) = ports.find(|(name, number)| wanted(name.as_deref(), *number))?;
            Some(PortTarget {
                number: *number,
                container: Some(&container.name),
            })
        })
    };
    match target {
        TargetPort::Number(number) => declared(&|_, candidate| candidate == *number).or(Some(PortTarget {
            number: *number,
            container: None,
        })),
        TargetPort::Name(name) => declared(&|candidate, _| candidate == Some(name)),
    }
}

fn not_found(service: &ServiceFacts, port: &ServicePortFacts) -> Option<ConvertWarning> {
    let TargetPort::Name(target) = &port.target else {
        return None;
    };
    Some(ConvertWarning::TargetPortNotFound {
        service: service.key.clone(),
        port: port.number,
        target: target.clone(),
    })
}

fn wrong_annotation(service: &ServiceFacts) -> Option<ConvertWarning> {
    let value = service.annotations.get(annotation::IGNORE)?;
    let wrong = annotation::parse_bool(annotation::IGNORE, value).err()?;
    let service = service.key.clone();
    Some(ConvertWarning::ServiceAnnotation { service, wrong })
}

/// The protocols that Services declare, by container port.
#[derive(Default)]
struct DeclaredProtocols(BTreeMap<u16, Vec<(ServiceName, Protocol)>>);

impl DeclaredProtocols {
    /// A Service that declares nothing contradicts nobody.
    fn note(&mut self, number: u16, port: &ServicePortFacts) {
        if let Some(protocol) = port.protocol {
            let of_port = self.0.entry(number).or_default();
            of_port.push((port.service_name().clone(), protocol));
        }
    }

    /// Ports that Services disagree on. The greatest protocol is the most specific one.
    fn conflicts(self) -> impl Iterator<Item = ConvertWarning> {
        self.0.into_iter().filter_map(|(port, declared)| {
            let used = declared.iter().map(|(_, protocol)| *protocol).max()?;
            let conflict = declared.iter().any(|(_, protocol)| *protocol != used);
            conflict.then_some(ConvertWarning::ProtocolConflict { port, used, declared })
        })
    }
}
