//! Converts Pods and Services to Dataplanes. No IO and no clock.
//!
//! [`facts`] defines the fields of objects that conversion reads. The rules follow Kuma's manual page "Data plane on
//! Kubernetes" (sections "Tag generation" and "Lifecycle") and docs/reference/dataplane.md#lifecycle.

mod annotations;
pub mod completion;
mod error;
mod explain;
pub mod facts;
mod gateway;
mod health;
mod inbounds;
mod object;
mod probes;
mod protocol;
mod proxy;
mod select;
mod tags;
mod warning;
mod workload;

use std::sync::Arc;

use kermode_crds::annotation;
use kermode_model::{DEFAULT_MESH, Dataplane, MeshName};

pub use self::error::ConvertError;
pub use self::explain::{DataplaneExplanation, InboundExplanation, ServiceMatch, explain};
use self::facts::{NamespaceFacts, OwnerRef, PodFacts, PodPhase, ServiceFacts};
pub use self::inbounds::Unresolved;
pub use self::object::{MANAGED_LABELS, dataplane_object, owner_reference};
pub use self::proxy::SidecarPort;
pub use self::select::{selecting_services, selects};
pub use self::tags::TagSource;
pub use self::warning::{ConvertWarning, NoInboundReason, WarningSubject};
pub use self::workload::top_workload;

/// Settings of the conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertSettings {
    /// Zone of a multi-zone deployment; the value of the tag `kuma.io/zone`.
    pub zone: Option<Arc<str>>,
}

/// A Dataplane, and the warnings about its Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The Dataplane.
    pub dataplane: Dataplane,
    /// Warnings about configuration that is probably unintended.
    pub warnings: Vec<ConvertWarning>,
}

/// Converts an injected Pod to a Dataplane. Returns `None` if the Pod has no IP or has finished. The containers of a
/// finished Pod never run again, and its IP may belong to another Pod.
///
/// `services` are the Services that select the Pod; the inbounds have the same order. See [`selecting_services`].
/// `workload` is the top-level controller of the Pod; see [`top_workload`].
///
/// # Errors
/// Fails if an annotation of the Pod is invalid. Services cause no errors: a Service that yields no inbound causes a
/// warning (docs/design.md#services-never-stop-a-pod).
pub fn convert(
    pod: &PodFacts,
    services: &[&ServiceFacts],
    namespace: Option<&NamespaceFacts>,
    workload: Option<&OwnerRef>,
    settings: &ConvertSettings,
) -> Result<Option<Converted>, ConvertError> {
    let (Some(address), PodPhase::Active) = (pod.ip, pod.phase) else {
        return Ok(None);
    };
    // `None` if the Pod is not a gateway. Otherwise, whether the gateway is named after its workload or its Service.
    let gateway_name_source = gateway::name_source(pod)?;
    let mut warnings = Vec::new();
    let workload_gateway = gateway::of_workload(gateway_name_source, pod, workload);
    let mut inbounds = Vec::new();
    if workload_gateway.is_none() {
        let builder = inbounds::InboundBuilder {
            pod,
            settings,
            is_gateway: gateway_name_source.is_some(),
        };
        inbounds = builder.of_services(services, &mut warnings);
        if inbounds.is_empty() {
            inbounds.push(inbounds::placeholder(pod, workload, settings));
        }
    }
    let gateway =
        workload_gateway.or_else(|| gateway_name_source.map(|_| gateway::of_first_inbound(&mut inbounds)));
    let dataplane = Dataplane {
        key: pod.key.clone(),
        mesh: mesh_of(pod, namespace),
        address,
        additional_addresses: proxy::additional_addresses(pod)?,
        inbounds,
        gateway,
        transparent_proxying: proxy::transparent_proxying(pod)?,
        admin_port: annotations::port(pod, annotation::ENVOY_ADMIN_PORT)?,
        probes: probes::probes(pod, &mut warnings)?,
        metrics: proxy::metrics(pod)?,
    };
    if let (Some(port), Some(used)) = (dataplane.metrics_port(), dataplane.metrics_port_conflict()) {
        warnings.push(ConvertWarning::MetricsPort { port, used });
    }
    Ok(Some(Converted { dataplane, warnings }))
}

/// Returns the mesh of a Pod: from its annotation, else from the annotation of its Namespace, else `default`.
pub fn mesh_of(pod: &PodFacts, namespace: Option<&NamespaceFacts>) -> MeshName {
    let of_namespace = namespace.and_then(|namespace| namespace.annotations.get(annotation::MESH));
    pod.annotations
        .get(annotation::MESH)
        .filter(|name| !name.is_empty())
        .or(of_namespace.filter(|name| !name.is_empty()))
        .map_or_else(|| MeshName::new(DEFAULT_MESH), |name| MeshName::new(name.clone()))
}

/// Returns the Dataplane of a Pod that can no longer be converted: its last valid Dataplane, `dataplane`, with the
/// current addresses and health of the Pod.
pub fn with_current_address_and_health(pod: &PodFacts, dataplane: &Dataplane) -> Dataplane {
    let mut dataplane = dataplane.clone();
    if let Some(address) = pod.ip {
        dataplane.address = address;
        // If the annotations are invalid, all IPs are included, so that no address is unprotected.
        dataplane.additional_addresses =
            proxy::additional_addresses(pod).unwrap_or_else(|_| pod.other_ips.to_vec());
    }
    for inbound in &mut dataplane.inbounds {
        inbound.ready = if inbound.is_placeholder() {
            health::of_pod(pod)
        } else {
            health::of_port(pod, inbound.port)
        };
    }
    dataplane
}

#[cfg(test)]
mod tests;
