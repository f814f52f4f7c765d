//! Which Services a Pod stands behind (BEHAVIOUR section 3.2).

use super::facts::{PodFacts, ServiceFacts};

/// Whether a Service gives a Pod inbounds.
pub fn selects(service: &ServiceFacts, pod: &PodFacts) -> bool {
    service.takes_part()
        && service.key.namespace == pod.key.namespace
        && service.selector.is_within(&pod.labels)
}

/// Those of the Services that give a Pod inbounds, in the order of the inbounds: by name.
pub fn selecting<'s>(
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
