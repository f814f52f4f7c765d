//! Delegated gateways: Pods of an ingress proxy, such as Kong, that have a sidecar
//! (docs/reference/dataplane.md#gateways).

use std::sync::Arc;

use kermode_crds::annotation::{self, GatewayNameSource};
use kermode_model::{Gateway, GatewayKind, Inbound, ServiceName, Tags, tag};

use super::error::ConvertError;
use super::facts::{OwnerRef, PodFacts};

/// Returns whether the gateway is named after its workload or its Service; `None` if the Pod is not a gateway.
pub(super) fn name_source(pod: &PodFacts) -> Result<Option<GatewayNameSource>, ConvertError> {
    let Some(value) = pod.annotations.get(annotation::GATEWAY) else {
        return Ok(None);
    };
    annotation::parse_gateway(value).map_err(|_| ConvertError::UnknownGatewayType {
        value: value.to_string(),
    })
}

/// Returns the gateway if it is named after the Pod's workload. Returns `None` if the gateway is named after its
/// Service, or if the Pod has no workload.
pub(super) fn of_workload(
    name_source: Option<GatewayNameSource>,
    pod: &PodFacts,
    workload: Option<&OwnerRef>,
) -> Option<Gateway> {
    let workload = workload.filter(|_| name_source == Some(GatewayNameSource::Workload))?;
    let name = ServiceName::of_workload(&workload.name, &pod.key.namespace);
    let value: Arc<str> = name.as_str().into();
    Some(delegated(Tags::from([(tag::GATEWAY_SERVICE.into(), value)])))
}

/// Builds a gateway with the tags of the first inbound. Removes all inbounds, because inbound traffic of a gateway is
/// not redirected.
pub(super) fn of_first_inbound(inbounds: &mut Vec<Inbound>) -> Gateway {
    let first = inbounds.drain(..).next();
    delegated(first.map(|inbound| inbound.tags).unwrap_or_default())
}

fn delegated(tags: Tags) -> Gateway {
    Gateway {
        kind: GatewayKind::Delegated,
        tags,
    }
}
