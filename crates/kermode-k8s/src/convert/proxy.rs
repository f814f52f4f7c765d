//! Settings of the proxy from annotations of the Pod (docs/reference/dataplane.md#proxy-settings).

use std::net::IpAddr;

use kermode_crds::annotation;
use kermode_model::{Metrics, TransparentProxying};

use super::annotations;
use super::error::ConvertError;
use super::facts::PodFacts;

/// Returns the settings of transparent proxying; `None` if the annotations do not enable it.
pub(super) fn transparent_proxying(pod: &PodFacts) -> Result<Option<TransparentProxying>, ConvertError> {
    if annotations::boolean(pod, annotation::TRANSPARENT_PROXYING)? != Some(true) {
        return Ok(None);
    }
    let required = |direction, key| {
        annotations::port(pod, key)?.ok_or(ConvertError::MissingRedirectPort { direction, key })
    };
    Ok(Some(TransparentProxying {
        redirect_port_inbound: required("inbound", annotation::TRANSPARENT_PROXYING_INBOUND_PORT)?,
        redirect_port_inbound_v6: annotations::port(pod, annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT)?,
        redirect_port_outbound: required("outbound", annotation::TRANSPARENT_PROXYING_OUTBOUND_PORT)?,
        direct_access_services: annotations::list(pod, annotation::DIRECT_ACCESS_SERVICES),
        reachable_services: annotations::list(pod, annotation::REACHABLE_SERVICES),
    }))
}

/// Returns the IPs of the Pod besides the first IP. Omits IPv6 addresses if the annotations disable the redirection of
/// IPv6, because Envoy then receives no connections to these addresses.
pub(super) fn additional_addresses(pod: &PodFacts) -> Result<Vec<IpAddr>, ConvertError> {
    let is_ipv4_only = pod
        .annotations
        .get(annotation::IP_FAMILY_MODE)
        .is_some_and(|mode| &**mode == "ipv4");
    let inbound_v6 = annotations::number(pod, annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT)?;
    let is_ipv6_redirected = !is_ipv4_only && inbound_v6 != Some(0);
    let addresses = pod.other_ips.iter().copied();
    Ok(addresses
        .filter(|address| address.is_ipv4() || is_ipv6_redirected)
        .collect())
}

/// Returns the metrics port and path that the Pod's annotations set; `None` if they set neither.
pub(super) fn metrics(pod: &PodFacts) -> Result<Option<Metrics>, ConvertError> {
    let port = annotations::port(pod, annotation::METRICS_PORT)?;
    let path = pod
        .annotations
        .get(annotation::METRICS_PATH)
        .map(ToString::to_string);
    let is_set = port.is_some() || path.is_some();
    Ok(is_set.then_some(Metrics { port, path }))
}
