//! Tags of an inbound (manual page, "Tag generation"; BEHAVIOUR section 3.3), and where each comes from.

use std::sync::{Arc, LazyLock};

use kermode_crds::annotation::RESERVED;
use kermode_model::{Protocol, ServiceName, Tags, tag};

use super::ConvertSettings;
use super::facts::{PodFacts, ServiceFacts, ServicePortFacts, Workload};

/// Where a tag comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagSource {
    /// A label of the Pod.
    Label,
    /// The Pod's namespace.
    Namespace,
    /// The zone that the control plane is configured for.
    Zone,
    /// The name of the Service.
    ServiceName,
    /// The port of the Service.
    ServicePort,
    /// Service, namespace and port together.
    Service,
    /// The workload's name and namespace, for want of a Service.
    Workload,
    /// What the Service declares for its port.
    DeclaredProtocol,
    /// Nothing is declared.
    DefaultProtocol,
    /// The Pod's name, since clients address the Pods of a headless Service one by one.
    Headless,
    /// The Pod's name, since no Service stands before it.
    WithoutService,
}

/// Why a label becomes no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelDropped {
    /// Its key is in our domain.
    Reserved,
    /// It has no value.
    Empty,
}

/// Keys and values that every dataplane has: one allocation for all.
struct SharedTexts {
    service: Arc<str>,
    zone: Arc<str>,
    protocol: Arc<str>,
    instance: Arc<str>,
    namespace: Arc<str>,
    service_name: Arc<str>,
    service_port: Arc<str>,
    protocols: [(Protocol, Arc<str>); 5],
}

static SHARED: LazyLock<SharedTexts> = LazyLock::new(|| SharedTexts {
    service: tag::SERVICE.into(),
    zone: tag::ZONE.into(),
    protocol: tag::PROTOCOL.into(),
    instance: tag::INSTANCE.into(),
    namespace: tag::K8S_NAMESPACE.into(),
    service_name: tag::K8S_SERVICE_NAME.into(),
    service_port: tag::K8S_SERVICE_PORT.into(),
    protocols: [
        Protocol::Tcp,
        Protocol::Kafka,
        Protocol::Http,
        Protocol::Http2,
        Protocol::Grpc,
    ]
    .map(|protocol| (protocol, protocol.as_str().into())),
});

/// Is told each tag; a later one of the same key takes its place.
pub(super) type TagVisitor<'v> = &'v mut dyn FnMut(&Arc<str>, &Arc<str>, TagSource);

/// Tags as the visits leave them.
pub(super) fn collect(generate: impl FnOnce(TagVisitor<'_>)) -> Tags {
    let mut tags = Tags::new();
    generate(&mut |key, value, _| {
        tags.insert(key.clone(), value.clone());
    });
    tags
}

/// Tags of the inbound that a Service's port makes of a Pod. A gateway's carries no protocol but TCP: what goes in
/// there is the gateway's own business.
pub(super) fn of_service_port(
    pod: &PodFacts,
    service: &ServiceFacts,
    port: &ServicePortFacts,
    settings: &ConvertSettings,
    gateway: bool,
    visit: TagVisitor<'_>,
) {
    let protocol = port.protocol.unwrap_or_default();
    of_every_inbound(pod, settings, visit);
    visit(&SHARED.service_name, &service.key.name, TagSource::ServiceName);
    visit(&SHARED.service_port, &port.number_text, TagSource::ServicePort);
    visit_service(&port.service_name, TagSource::Service, visit);
    if !gateway || protocol == Protocol::Tcp {
        let source = match port.protocol {
            Some(_) => TagSource::DeclaredProtocol,
            None => TagSource::DefaultProtocol,
        };
        visit_protocol(protocol, source, visit);
    }
    if service.headless {
        visit(&SHARED.instance, &pod.key.name, TagSource::Headless);
    }
}

/// Tags of the inbound of a Pod that no Service selects.
pub(super) fn without_service(
    pod: &PodFacts,
    workload: Option<&Workload>,
    settings: &ConvertSettings,
    visit: TagVisitor<'_>,
) {
    let name = workload.map_or(&pod.key.name, |workload| &workload.name);
    of_every_inbound(pod, settings, visit);
    visit_service(
        &ServiceName::of_workload(name, &pod.key.namespace),
        TagSource::Workload,
        visit,
    );
    visit_protocol(Protocol::Tcp, TagSource::DefaultProtocol, visit);
    visit(&SHARED.instance, &pod.key.name, TagSource::WithoutService);
}

/// Why a label of a Pod becomes no tag; `None` when it does.
pub(super) fn dropped(key: &str, value: &str) -> Option<LabelDropped> {
    if key.contains(RESERVED) {
        Some(LabelDropped::Reserved)
    } else if value.is_empty() {
        Some(LabelDropped::Empty)
    } else {
        None
    }
}

/// The labels first, so that nothing generated can be overridden by them.
fn of_every_inbound(pod: &PodFacts, settings: &ConvertSettings, visit: TagVisitor<'_>) {
    for (key, value) in pod.labels.iter() {
        if dropped(key, value).is_none() {
            visit(key, value, TagSource::Label);
        }
    }
    visit(&SHARED.namespace, &pod.key.namespace, TagSource::Namespace);
    if let Some(zone) = settings.zone.as_ref().filter(|zone| !zone.is_empty()) {
        visit(&SHARED.zone, zone, TagSource::Zone);
    }
}

fn visit_service(name: &ServiceName, source: TagSource, visit: TagVisitor<'_>) {
    visit(&SHARED.service, &name.as_str().into(), source);
}

fn visit_protocol(protocol: Protocol, source: TagSource, visit: TagVisitor<'_>) {
    let known = SHARED
        .protocols
        .iter()
        .find(|(candidate, _)| *candidate == protocol);
    if let Some((_, text)) = known {
        visit(&SHARED.protocol, text, source);
    }
}
