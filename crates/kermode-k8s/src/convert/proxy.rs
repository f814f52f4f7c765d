//! Settings of the proxy from annotations of the Pod (docs/reference/dataplane.md#proxy-settings).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use kermode_crds::annotation;
use kermode_model::{Dataplane, Metrics, TransparentProxying};

use super::annotations;
use super::error::ConvertError;
use super::facts::PodFacts;

/// Use of a port by the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarPort {
    /// Envoy's admin interface, and the listener for its readiness.
    Admin,
    /// The virtual probes.
    Probes,
    /// The listener for redirected inbound connections.
    RedirectedInbound,
    /// The listener for redirected outbound connections.
    RedirectedOutbound,
}

/// Returns the ports on which Envoy listens and which no application of the Pod can use. An annotation with an invalid
/// port is left out, because it fails the conversion.
pub(super) fn sidecar_ports(pod: &PodFacts) -> BTreeMap<u16, SidecarPort> {
    let port_in = |key| annotations::port(pod, key).ok().flatten();
    let admin_port = port_in(annotation::ENVOY_ADMIN_PORT).unwrap_or(Dataplane::DEFAULT_ADMIN_PORT);
    let mut ports = BTreeMap::from([(admin_port, SidecarPort::Admin)]);
    let has_virtual_probes = annotations::boolean(pod, annotation::VIRTUAL_PROBES) == Ok(Some(true));
    // Without probes at the port, Envoy does not listen on it.
    let probes_port = port_in(annotation::VIRTUAL_PROBES_PORT)
        .filter(|port| has_virtual_probes && pod.probes.iter().any(|probe| probe.port == *port));
    ports.extend(probes_port.map(|port| (port, SidecarPort::Probes)));
    if annotations::boolean(pod, annotation::TRANSPARENT_PROXYING) == Ok(Some(true)) {
        let redirected = [
            (
                annotation::TRANSPARENT_PROXYING_INBOUND_PORT,
                SidecarPort::RedirectedInbound,
            ),
            (
                annotation::TRANSPARENT_PROXYING_INBOUND_V6_PORT,
                SidecarPort::RedirectedInbound,
            ),
            (
                annotation::TRANSPARENT_PROXYING_OUTBOUND_PORT,
                SidecarPort::RedirectedOutbound,
            ),
        ];
        ports.extend(
            redirected
                .into_iter()
                .filter_map(|(key, used)| Some((port_in(key)?, used))),
        );
    }
    ports
}

impl fmt::Display for SidecarPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin interface",
            Self::Probes => "virtual probes",
            Self::RedirectedInbound => "redirected inbound connections",
            Self::RedirectedOutbound => "redirected outbound connections",
        })
    }
}

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
