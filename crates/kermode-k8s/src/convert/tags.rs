//! Tags of an inbound (manual page, "Tag generation"; BEHAVIOUR section 3.3).

use std::sync::{Arc, LazyLock};

use kermode_model::{Protocol, ServiceName, Tags, tag};

use super::ConvertSettings;
use super::facts::{PodFacts, ServiceFacts, ServicePortFacts, Workload};

/// What no tag may contain unless it is generated.
const RESERVED: &str = "kuma.io/";

/// Keys and values that every dataplane has: one allocation for all.
struct Shared {
    service: Arc<str>,
    zone: Arc<str>,
    protocol: Arc<str>,
    instance: Arc<str>,
    namespace: Arc<str>,
    service_name: Arc<str>,
    service_port: Arc<str>,
    protocols: [(Protocol, Arc<str>); 5],
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| Shared {
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

/// Tags of the inbound that a Service's port makes of a Pod. A gateway's carries no protocol but TCP: what goes in
/// there is the gateway's own business.
pub(super) fn of_service_port(
    pod: &PodFacts,
    service: &ServiceFacts,
    port: &ServicePortFacts,
    settings: &ConvertSettings,
    gateway: bool,
) -> Tags {
    let protocol = port.protocol.unwrap_or_default();
    let mut tags = of_every_inbound(pod, settings);
    set(&mut tags, &SHARED.service_name, &service.key.name);
    set(&mut tags, &SHARED.service_port, &port.number_text);
    set_service(&mut tags, &port.service_name);
    if !gateway || protocol == Protocol::Tcp {
        set_protocol(&mut tags, protocol);
    }
    if service.headless {
        set(&mut tags, &SHARED.instance, &pod.key.name);
    }
    tags
}

/// Tags of the inbound of a Pod that no Service selects.
pub(super) fn without_service(
    pod: &PodFacts,
    workload: Option<&Workload>,
    settings: &ConvertSettings,
) -> Tags {
    let name = workload.map_or(&pod.key.name, |workload| &workload.name);
    let mut tags = of_every_inbound(pod, settings);
    set_service(&mut tags, &ServiceName::of_workload(name, &pod.key.namespace));
    set_protocol(&mut tags, Protocol::Tcp);
    set(&mut tags, &SHARED.instance, &pod.key.name);
    tags
}

/// The labels first, so that nothing generated can be overridden by them.
fn of_every_inbound(pod: &PodFacts, settings: &ConvertSettings) -> Tags {
    let labels = pod.labels.iter();
    let mut tags: Tags = labels
        .filter(|(key, value)| !key.contains(RESERVED) && !value.is_empty())
        .cloned()
        .collect();
    set(&mut tags, &SHARED.namespace, &pod.key.namespace);
    if let Some(zone) = settings.zone.as_ref().filter(|zone| !zone.is_empty()) {
        set(&mut tags, &SHARED.zone, zone);
    }
    tags
}

fn set(tags: &mut Tags, key: &Arc<str>, value: &Arc<str>) {
    tags.insert(key.clone(), value.clone());
}

fn set_service(tags: &mut Tags, name: &ServiceName) {
    tags.insert(SHARED.service.clone(), name.as_str().into());
}

fn set_protocol(tags: &mut Tags, protocol: Protocol) {
    let known = SHARED
        .protocols
        .iter()
        .find(|(candidate, _)| *candidate == protocol);
    if let Some((_, text)) = known {
        set(tags, &SHARED.protocol, text);
    }
}
