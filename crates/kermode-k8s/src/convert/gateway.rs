//! Delegated gateways: ingress proxies that users install, such as Kong, with a sidecar
//! (docs/reference/dataplane.md#gateways).

use std::sync::Arc;

use kermode_crds::annotation;
use kermode_model::{Gateway, GatewayKind, Inbound, ServiceName, Tags, notation, tag};

use super::error::ConvertError;
use super::facts::{PodFacts, Workload};

/// Origin of a gateway's service name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameOrigin {
    /// The Service that selects the Pod.
    Service,
    /// The Deployment of the Pod, else the Service.
    Deployment,
}

/// Returns the origin of a gateway's service name; `None` if the Pod is not a gateway.
pub(super) fn name_origin(pod: &PodFacts) -> Result<Option<NameOrigin>, ConvertError> {
    match pod.annotations.get(annotation::GATEWAY).map(AsRef::as_ref) {
        None => Ok(None),
        Some("provided") => Ok(Some(NameOrigin::Deployment)),
        Some(value) => match notation::boolean(value) {
            Some(enabled) => Ok(enabled.then_some(NameOrigin::Service)),
            None => Err(ConvertError::GatewayType {
                value: value.to_owned(),
            }),
        },
    }
}

/// Builds the gateway. Incoming traffic is not intercepted, so all inbounds are removed. The gateway has the tags of
/// the first inbound, unless it is named after its Deployment.
pub(super) fn build(
    name_origin: NameOrigin,
    inbounds: &mut Vec<Inbound>,
    pod: &PodFacts,
    workload: Option<&Workload>,
) -> Gateway {
    let first = inbounds.drain(..).next();
    let deployment = workload.filter(|workload| &*workload.kind == "Deployment");
    let tags = match (name_origin, deployment) {
        (NameOrigin::Deployment, Some(deployment)) => {
            let name = ServiceName::of_workload(&deployment.name, &pod.key.namespace);
            let value: Arc<str> = name.as_str().into();
            Tags::from([(tag::GATEWAY_SERVICE.into(), value)])
        }
        _ => first.map(|inbound| inbound.tags).unwrap_or_default(),
    };
    let kind = GatewayKind::Delegated;
    Gateway { kind, tags }
}
