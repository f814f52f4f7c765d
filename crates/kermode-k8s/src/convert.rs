//! First arrow of the flow: Pods and Services → Dataplanes. Pure: no IO, no clock, total.
//!
//! [`facts`] is what is kept of an object, [`convert`] makes a Dataplane of it. The rules are those of the manual
//! page ("Tag generation", "Lifecycle") and of BEHAVIOUR section 3, with the decisions 2, 3, 5, 9 and 10.

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
pub use self::explain::{DataplaneExplanation, InboundExplained, ServiceSelection, explain};
use self::facts::{NamespaceFacts, PodFacts, PodPhase, ServiceFacts, Workload};
pub use self::object::{LABELS, dataplane_object, owner_of};
pub use self::select::{selecting, selects};
pub use self::tags::{LabelDropped, TagSource};
pub use self::warning::ConvertWarning;
pub use self::workload::top_workload;

/// What conversion needs to know beyond the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertSettings {
    /// The zone of a multi-zone deployment; becomes the tag `kuma.io/zone`.
    pub zone: Option<Arc<str>>,
}

/// A Dataplane, and what its owner should be told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The Dataplane.
    pub dataplane: Dataplane,
    /// What works, but maybe not as meant.
    pub warnings: Vec<ConvertWarning>,
}

/// Makes the Dataplane of an injected Pod; `None` when it should have none: it has finished or has no IP.
///
/// `services` are those that select the Pod, in the order their inbounds shall have; see [`selecting`].
/// `workload` is the top controller of the Pod; see [`top_workload`].
///
/// # Errors
/// When the Pod's annotations or its Services make no sense; see [`ConvertError`].
pub fn convert(
    pod: &PodFacts,
    services: &[&ServiceFacts],
    namespace: Option<&NamespaceFacts>,
    workload: Option<&Workload>,
    settings: &ConvertSettings,
) -> Result<Option<Converted>, ConvertError> {
    let (Some(address), PodPhase::Active | PodPhase::Failed) = (pod.ip, pod.phase) else {
        return Ok(None);
    };
    let gateway = gateway::asked_for(pod)?;
    let mut warnings = Vec::new();
    let mut inbounds = if services.is_empty() {
        vec![inbounds::without_service(pod, workload, settings)]
    } else {
        let source = inbounds::InboundSource {
            pod,
            settings,
            gateway: gateway.is_some(),
        };
        source.of_services(services, &mut warnings)?
    };
    let gateway = gateway.map(|kind| gateway::gateway(kind, &mut inbounds, pod, workload));
    let dataplane = Dataplane {
        key: pod.key.clone(),
        mesh: mesh_of(pod, namespace),
        address,
        inbounds,
        gateway,
        transparent_proxying: proxy::transparent_proxying(pod)?,
        admin_port: annotations::port(pod, annotation::ENVOY_ADMIN_PORT)?,
        probes: probes::probes(pod)?,
        metrics: proxy::metrics(pod)?,
    };
    Ok(Some(Converted { dataplane, warnings }))
}

/// The mesh a Pod joins: its own annotation's, else its namespace's, else `default`.
pub fn mesh_of(pod: &PodFacts, namespace: Option<&NamespaceFacts>) -> MeshName {
    let of_namespace = namespace.and_then(|namespace| namespace.annotations.get(annotation::MESH));
    pod.annotations
        .get(annotation::MESH)
        .filter(|name| !name.is_empty())
        .or(of_namespace.filter(|name| !name.is_empty()))
        .map_or_else(|| MeshName::new(DEFAULT_MESH), |name| MeshName::new(name.clone()))
}

/// An earlier Dataplane of a Pod that cannot be converted now, with what must not be stale: address and health.
pub fn refreshed(pod: &PodFacts, dataplane: &Dataplane) -> Dataplane {
    let mut dataplane = dataplane.clone();
    dataplane.address = pod.ip.unwrap_or(dataplane.address);
    for inbound in &mut dataplane.inbounds {
        inbound.ready = if inbound.is_serviceless() {
            health::of_pod(pod)
        } else {
            health::of_port(pod, inbound.port)
        };
    }
    dataplane
}

#[cfg(test)]
mod tests;
