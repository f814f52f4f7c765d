//! The same conversion, told step by step: which Services, which inbounds, and where each tag comes from.

use std::sync::Arc;

use kermode_model::{Inbound, ObjectKey};

use super::facts::{PodFacts, ServiceFacts, TargetPort, Workload};
use super::tags::{self, LabelDropped, TagSource, TagVisitor};
use super::{ConvertSettings, gateway, health, inbounds, selects};

/// Why a Pod's Dataplane is as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneExplanation {
    /// What each Service of the namespace has to do with the Pod, by name.
    pub services: Vec<(Arc<str>, ServiceSelection)>,
    /// The inbounds in their order; those that a gateway would have.
    pub inbounds: Vec<InboundExplained>,
    /// Labels that became no tag.
    pub dropped: Vec<(Arc<str>, LabelDropped)>,
}

/// What a Service has to do with a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceSelection {
    /// It selects the Pod.
    Selects,
    /// The Pod lacks this label, or has another value of it.
    Differs {
        /// The label.
        key: Arc<str>,
        /// What the selector wants.
        wanted: Arc<str>,
        /// What the Pod has.
        found: Option<Arc<str>>,
    },
    /// It has no selector.
    NoSelector,
    /// Its type is ExternalName.
    ExternalName,
    /// It says itself that it is to be ignored.
    Ignored,
}

/// One inbound, or a port of a Service that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundExplained {
    /// The Service and its port; none for a Pod that no Service selects.
    pub service: Option<(ObjectKey, u16, TargetPort)>,
    /// The container port; none when the Service's port leads nowhere.
    pub port: Option<u16>,
    /// The container that declares it.
    pub container: Option<Arc<str>>,
    /// Its health, as in [`Inbound::ready`].
    pub ready: Option<bool>,
    /// Its tags by key, and where they come from.
    pub tags: Vec<(Arc<str>, Arc<str>, TagSource)>,
}

/// Explains the Dataplane that [`super::convert`] makes of a Pod. `services` are all of its namespace.
pub fn explain(
    pod: &PodFacts,
    services: &[&ServiceFacts],
    workload: Option<&Workload>,
    settings: &ConvertSettings,
) -> DataplaneExplanation {
    let mut services = services.to_vec();
    services.sort_unstable_by(|a, b| a.key.name.cmp(&b.key.name));
    let gateway = matches!(gateway::asked_for(pod), Ok(Some(_)));
    let selecting: Vec<_> = services.iter().filter(|service| selects(service, pod)).collect();
    let inbounds = if selecting.is_empty() {
        vec![without_service(pod, workload, settings)]
    } else {
        let ports = selecting
            .iter()
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        ports
            .map(|(service, port)| {
                let lead = inbounds::resolve_target(pod, &port.target);
                InboundExplained {
                    service: Some((service.key.clone(), port.number, port.target.clone())),
                    port: lead.map(|lead| lead.number),
                    container: lead.and_then(|lead| lead.container).cloned(),
                    ready: lead.and_then(|lead| health::of_port(pod, lead.number)),
                    tags: sorted(|visit| tags::of_service_port(pod, service, port, settings, gateway, visit)),
                }
            })
            .collect()
    };
    DataplaneExplanation {
        services: services
            .iter()
            .map(|service| (service.key.name.clone(), selection(service, pod)))
            .collect(),
        inbounds,
        dropped: pod
            .labels
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), tags::dropped(key, value)?)))
            .collect(),
    }
}

fn without_service(
    pod: &PodFacts,
    workload: Option<&Workload>,
    settings: &ConvertSettings,
) -> InboundExplained {
    InboundExplained {
        service: None,
        port: Some(Inbound::SERVICELESS_PORT),
        container: None,
        ready: health::of_pod(pod),
        tags: sorted(|visit| tags::without_service(pod, workload, settings, visit)),
    }
}

fn sorted(generate: impl FnOnce(TagVisitor<'_>)) -> Vec<(Arc<str>, Arc<str>, TagSource)> {
    let mut tags = std::collections::BTreeMap::new();
    generate(&mut |key, value, source| {
        tags.insert(key.clone(), (value.clone(), source));
    });
    tags.into_iter()
        .map(|(key, (value, source))| (key, value, source))
        .collect()
}

fn selection(service: &ServiceFacts, pod: &PodFacts) -> ServiceSelection {
    if selects(service, pod) {
        return ServiceSelection::Selects;
    }
    if service.external_name {
        return ServiceSelection::ExternalName;
    }
    if service.selector.is_empty() {
        return ServiceSelection::NoSelector;
    }
    let differing = service
        .selector
        .iter()
        .find(|(key, wanted)| pod.labels.get(key) != Some(wanted));
    differing.map_or(ServiceSelection::Ignored, |(key, wanted)| {
        ServiceSelection::Differs {
            key: key.clone(),
            wanted: wanted.clone(),
            found: pod.labels.get(key).cloned(),
        }
    })
}
