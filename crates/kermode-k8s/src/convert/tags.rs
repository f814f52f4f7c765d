//! Tags of an inbound and their sources (docs/reference/dataplane.md#tags; Kuma's manual page "Data plane on
//! Kubernetes", section "Tag generation").

use std::sync::{Arc, LazyLock};

use kermode_crds::annotation::RESERVED_KEY_PART;
use kermode_model::{Protocol, ServiceName, Tags, tag};

use super::ConvertSettings;
use super::facts::{OwnerRef, PodFacts, ServiceFacts, ServicePortFacts};

/// Source of a tag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagSource {
    /// Label of the Pod.
    Label,
    /// Namespace of the Pod.
    Namespace,
    /// Zone in the configuration of the control plane.
    Zone,
    /// Name of the Service.
    ServiceName,
    /// Port of the Service.
    ServicePort,
    /// Name, namespace and port of the Service.
    Service,
    /// Name and namespace of a service-less Pod's workload, or of the Pod itself if it has no workload.
    Workload,
    /// Protocol that the Service declares for its port.
    DeclaredProtocol,
    /// Default protocol, because no known protocol is declared.
    DefaultProtocol,
    /// Name of the Pod. The tag exists because the Service is headless: clients address individual Pods.
    HeadlessPodName,
    /// Name of the Pod. The tag exists because no Service gives the Pod an inbound.
    ServicelessPodName,
}

/// Keys of tags, and the values of the protocol tag, allocated once for all Dataplanes.
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

/// Callback for the key, value and source of each tag. A tag replaces an earlier tag with the same key.
pub(super) type TagVisitor<'v> = &'v mut dyn FnMut(&Arc<str>, &Arc<str>, TagSource);

/// Collects the visited tags.
pub(super) fn collect(generate: impl FnOnce(TagVisitor<'_>)) -> Tags {
    let mut tags = Tags::new();
    generate(&mut |key, value, _| {
        tags.insert(key.clone(), value.clone());
    });
    tags
}

/// Visits the tags of the inbound of a Service's port. For a gateway, the tag of a protocol other than TCP is
/// omitted, because the gateway's inbound traffic is not redirected to the sidecar.
pub(super) fn of_service_port(
    pod: &PodFacts,
    service: &ServiceFacts,
    port: &ServicePortFacts,
    settings: &ConvertSettings,
    is_gateway: bool,
    visit: TagVisitor<'_>,
) {
    let protocol = port.declared_protocol.unwrap_or_default();
    of_every_inbound(pod, settings, visit);
    visit(&SHARED.service_name, &service.key.name, TagSource::ServiceName);
    visit(&SHARED.service_port, &port.number_text, TagSource::ServicePort);
    visit_service(&port.service_name, TagSource::Service, visit);
    if !is_gateway || protocol == Protocol::Tcp {
        let source = match port.declared_protocol {
            Some(_) => TagSource::DeclaredProtocol,
            None => TagSource::DefaultProtocol,
        };
        visit_protocol(protocol, source, visit);
    }
    if service.is_headless {
        visit(&SHARED.instance, &pod.key.name, TagSource::HeadlessPodName);
    }
}

/// Visits the tags of the placeholder inbound of a service-less Pod (docs/design.md#service-less-names).
pub(super) fn of_service_less_pod(
    pod: &PodFacts,
    workload: Option<&OwnerRef>,
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
    visit(&SHARED.instance, &pod.key.name, TagSource::ServicelessPodName);
}

/// Whether the key of a label is reserved, so that the label does not become a tag (docs/design.md#reserved-labels).
pub(super) fn is_reserved(key: &str) -> bool {
    key.contains(RESERVED_KEY_PART)
}

/// Visits the tags that every inbound has. Labels come first, so that generated tags override them. A label without a
/// value becomes a tag without a value (docs/design.md#labels-without-a-value).
fn of_every_inbound(pod: &PodFacts, settings: &ConvertSettings, visit: TagVisitor<'_>) {
    for (key, value) in pod.labels.iter() {
        if !is_reserved(key) {
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
    let shared = SHARED
        .protocols
        .iter()
        .find(|(candidate, _)| *candidate == protocol);
    if let Some((_, text)) = shared {
        visit(&SHARED.protocol, text, source);
    }
}
