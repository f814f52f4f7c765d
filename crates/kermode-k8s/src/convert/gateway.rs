//! Delegated gateways: an ingress proxy that the user brings, with a sidecar (docs/reference/dataplane.md#gateways).

use std::sync::Arc;

use kermode_crds::annotation;
use kermode_model::{Gateway, GatewayKind, Inbound, ServiceName, Tags, notation, tag};

use super::error::ConvertError;
use super::facts::{PodFacts, Workload};

/// Origin of a gateway's service name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedAfter {
    /// The Service that selects the Pod.
    Service,
    /// The Deployment of the Pod, else the Service.
    Deployment,
}

/// Returns whether a Pod is a gateway, and the origin of its service name.
pub(super) fn requested(pod: &PodFacts) -> Result<Option<NamedAfter>, ConvertError> {
    match pod.annotations.get(annotation::GATEWAY).map(AsRef::as_ref) {
        None => Ok(None),
        Some("provided") => Ok(Some(NamedAfter::Deployment)),
        Some(value) => match notation::boolean(value) {
            Some(enabled) => Ok(enabled.then_some(NamedAfter::Service)),
            None => Err(ConvertError::GatewayType {
                value: value.to_owned(),
            }),
        },
    }
}

/// Builds the gateway. Incoming traffic is not intercepted, so all inbounds are removed.
pub(super) fn gateway(
    named_after: NamedAfter,
    inbounds: &mut Vec<Inbound>,
    pod: &PodFacts,
    workload: Option<&Workload>,
) -> Gateway {
    let first = inbounds.drain(..).next();
    let deployment = workload.filter(|workload| &*workload.kind == "Deployment");
    let tags = match (named_after, deployment) {
        (NamedAfter::Deployment, Some(deployment)) => {
            let name = ServiceName::of_workload(&deployment.name, &pod.key.namespace);
            let value: Arc<str> = name.as_str().into();
            Tags::from([(tag::GATEWAY_SERVICE.into(), value)])
        }
        _ => first.map(|inbound| inbound.tags).unwrap_or_default(),
    };
    let kind = GatewayKind::Delegated;
    Gateway { kind, tags }
}
