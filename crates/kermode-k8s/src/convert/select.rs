//! Selection of Pods by Services (docs/reference/dataplane.md#service-selection).

use super::facts::{PodFacts, ServiceFacts};

/// Whether a Service selects a Pod and yields inbounds for it.
pub fn selects(service: &ServiceFacts, pod: &PodFacts) -> bool {
    service.yields_inbounds()
        && service.key.namespace == pod.key.namespace
        && service.selector.is_within(&pod.labels)
}

/// Returns the Services that yield inbounds for a Pod, sorted by name. The inbounds of the Pod have the same order.
pub fn selecting_services<'s>(
    services: impl IntoIterator<Item = &'s ServiceFacts>,
    pod: &PodFacts,
) -> Vec<&'s ServiceFacts> {
    let mut found: Vec<_> = services
        .into_iter()
        .filter(|service| selects(service, pod))
        .collect();
    found.sort_unstable_by(|a, b| a.key.name.cmp(&b.key.name));
    found
}
