//! Metric of the lookups.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counter of lookups by result. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    lookups: Family<LookupLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    result: LookupResult,
}

/// Result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum LookupResult {
    /// The name is that of a service with a virtual IP.
    Service,
    /// The name is that of a Pod of a headless service.
    Pod,
    /// The name does not exist.
    Unknown,
    /// The service has no virtual IP.
    WithoutAddress,
    /// The caller was denied, or the request was invalid or above the rate of the proxy.
    Refused,
}

impl Metrics {
    /// Registers the counter.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Lookups of names of the mesh by sidecars, by result";
        registry.register("name_lookups", help, self.lookups.clone());
    }

    pub(crate) fn count(&self, result: LookupResult) {
        self.lookups.get_or_create(&LookupLabels { result }).inc();
    }

    #[cfg(test)]
    pub(crate) fn lookup_count(&self, result: LookupResult) -> u64 {
        self.lookups.get_or_create(&LookupLabels { result }).get()
    }
}
