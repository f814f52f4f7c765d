//! Explains a conversion for `kumactl`: the selecting Services, the inbounds, and the source of each tag.

use std::sync::Arc;

use kermode_model::{Inbound, ObjectKey};

use super::facts::{OwnerRef, PodFacts, ServiceFacts, TargetPort};
use super::inbounds::{self, PortResolver, Unresolved};
use super::tags::{self, TagSource, TagVisitor};
use super::{ConvertSettings, gateway, health, selects};

/// Explanation of a Pod's Dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneExplanation {
    /// Name of each Service of the namespace, and whether the Service selects the Pod. Sorted by name.
    pub services: Vec<(Arc<str>, ServiceMatch)>,
    /// The inbounds in the order of the Dataplane. The Dataplane of a gateway has no inbounds; for a gateway, this
    /// field contains the inbounds that its Services would yield.
    pub inbounds: Vec<InboundExplanation>,
    /// Keys of the labels that did not become tags, because these keys contain `kuma.io/`.
    pub reserved_labels: Vec<Arc<str>>,
}

/// Whether a Service selects a Pod, and the reason if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceMatch {
    /// The Service selects the Pod.
    Selects,
    /// The Pod lacks a label of the selector, or the label has another value.
    LabelDiffers {
        /// Key of the label.
        key: Arc<str>,
        /// Value in the selector.
        wanted: Arc<str>,
        /// Value of the Pod's label.
        found: Option<Arc<str>>,
    },
    /// The Service has no selector.
    NoSelector,
    /// The type of the Service is ExternalName.
    ExternalName,
    /// The Service has the annotation `kuma.io/ignore`.
    Ignored,
}

/// One inbound, or a Service's port that yields no inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundExplanation {
    /// The Service, its port and target port; `None` for the placeholder inbound of a service-less Pod.
    pub service: Option<(ObjectKey, u16, TargetPort)>,
    /// Port of the inbound, or the reason why the Service's port yields no inbound.
    pub port: Result<u16, Unresolved>,
    /// Name of the container that declares the port.
    pub container: Option<Arc<str>>,
    /// Health, as in [`Inbound::ready`].
    pub ready: Option<bool>,
    /// Key, value and source of each tag, sorted by key.
    pub tags: Vec<(Arc<str>, Arc<str>, TagSource)>,
}

/// Explains the Dataplane that [`super::convert`] yields for a Pod. `services` are all Services of the Pod's namespace.
pub fn explain(
    pod: &PodFacts,
    services: &[&ServiceFacts],
    workload: Option<&OwnerRef>,
    settings: &ConvertSettings,
) -> DataplaneExplanation {
    let mut services = services.to_vec();
    services.sort_unstable_by(|a, b| a.key.name.cmp(&b.key.name));
    let is_gateway = matches!(gateway::name_source(pod), Ok(Some(_)));
    let selecting = services.iter().copied().filter(|service| selects(service, pod));
    let selecting: Vec<_> = selecting.collect();
    // The Dataplane and the explanation leave out Services whose inbounds do not fit into the Dataplane.
    let resolver = PortResolver::new(pod, is_gateway);
    let fitting = inbounds::fitting_services(&resolver, &selecting, is_gateway);
    let ports = fitting
        .iter()
        .flat_map(|service| service.ports.iter().map(move |port| (*service, port)));
    let mut inbounds: Vec<_> = ports
        .map(|(service, port)| {
            let target = resolver.resolve(&port.target);
            let container_port = target.as_ref().ok().copied();
            InboundExplanation {
                service: Some((service.key.clone(), port.number, port.target.clone())),
                container: container_port.and_then(|target| target.container).cloned(),
                ready: container_port.and_then(|target| health::of_port(pod, target.number)),
                port: target.map(|target| target.number),
                tags: sorted_tags(|visit| {
                    tags::of_service_port(pod, service, port, settings, is_gateway, visit);
                }),
            }
        })
        .collect();
    if inbounds.iter().all(|inbound| inbound.port.is_err()) {
        inbounds.push(placeholder_inbound(pod, workload, settings));
    }
    DataplaneExplanation {
        services: services
            .iter()
            .map(|service| (service.key.name.clone(), service_match(service, pod)))
            .collect(),
        inbounds,
        reserved_labels: pod
            .labels
            .iter()
            .filter(|(key, _)| tags::is_reserved(key))
            .map(|(key, _)| key.clone())
            .collect(),
    }
}

fn placeholder_inbound(
    pod: &PodFacts,
    workload: Option<&OwnerRef>,
    settings: &ConvertSettings,
) -> InboundExplanation {
    InboundExplanation {
        service: None,
        port: Ok(Inbound::SERVICELESS_PORT),
        container: None,
        ready: health::of_pod(pod),
        tags: sorted_tags(|visit| tags::of_service_less_pod(pod, workload, settings, visit)),
    }
}

fn sorted_tags(generate: impl FnOnce(TagVisitor<'_>)) -> Vec<(Arc<str>, Arc<str>, TagSource)> {
    let mut tags = std::collections::BTreeMap::new();
    generate(&mut |key, value, source| {
        tags.insert(key.clone(), (value.clone(), source));
    });
    tags.into_iter()
        .map(|(key, (value, source))| (key, value, source))
        .collect()
}

fn service_match(service: &ServiceFacts, pod: &PodFacts) -> ServiceMatch {
    if selects(service, pod) {
        return ServiceMatch::Selects;
    }
    if service.is_external_name {
        return ServiceMatch::ExternalName;
    }
    if service.selector.is_empty() {
        return ServiceMatch::NoSelector;
    }
    let differing = service
        .selector
        .iter()
        .find(|(key, wanted)| pod.labels.get(key) != Some(wanted));
    // If all labels match, the only remaining reason is the annotation `kuma.io/ignore`.
    differing.map_or(ServiceMatch::Ignored, |(key, wanted)| {
        ServiceMatch::LabelDiffers {
            key: key.clone(),
            wanted: wanted.clone(),
            found: pod.labels.get(key).cloned(),
        }
    })
}
