//! Ports of the sidecar that the application or another server of the sidecar uses as well
//! (docs/reference/injection.md#ports-of-the-sidecar). All containers share the addresses of the Pod, so one of two
//! servers on the same port does not start. The sidecar therefore moves to a free port. Injection writes this port to an annotation of the Pod, for `kuma-init`, the CNI
//! plugin and the control plane, or to a variable of the sidecar, if only the sidecar has to know the port.

use std::collections::{BTreeMap, BTreeSet};

use kermode_crds::annotation as key;
use serde_json::Value;

use crate::names::{DNS_METRICS_PORT_VARIABLE, SIDECAR};
use crate::plan::{Plan, configured_dns_metrics_port};
use crate::pod::Pod;
use crate::probes::FoundProbe;
use crate::trace::{Trace, TraceTopic};
use crate::values::Values;

/// First port above the privileged ones.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// One port of the sidecar.
struct OwnPort<'p> {
    port: &'p mut u16,
    /// Annotation that sets the port, and that injection writes. Otherwise, variable of the sidecar.
    name: &'static str,
    /// Whether the sidecar uses the port for UDP too.
    has_udp: bool,
}

/// Ports that the application declares, or at which it is probed.
struct ApplicationPorts {
    tcp: BTreeSet<u16>,
    udp: BTreeSet<u16>,
}

/// Moves each port of the sidecar that the application declares, or at which it is probed, to the next free port, and so
/// each port that an earlier one in [`own_ports`] has already. After 65535, the search continues at
/// [`FIRST_UNPRIVILEGED`].
pub(crate) fn avoid_used_ports(
    plan: &mut Plan<'_>,
    pod: &Pod<'_>,
    found_probes: &[FoundProbe],
    annotations: &Values<'_>,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) {
    let application = ApplicationPorts::of(pod, found_probes);
    let serves_dns = plan.settings.builtin_dns.enabled;
    let old_dns_port = plan.served_dns_port;
    let configured_metrics_port = configured_dns_metrics_port(&plan.env_vars);
    // The annotations of a Pod that was injected before are those of the injector, not the user's.
    let was_injected = annotations
        .get(key::SIDECAR_INJECTED)
        .is_some_and(key::marks_injected);
    let mut own = own_ports(plan, serves_dns);
    let mut taken: BTreeSet<u16> = own.iter().map(|own| *own.port).collect();
    let mut earlier = BTreeMap::new();
    for own in &mut own {
        let old = *own.port;
        // Only settings that were not validated have port 0.
        if old == 0 {
            continue;
        }
        // The redirection ports of both IP families may be the same.
        let shares_port = own.name == key::TRANSPARENT_PROXYING_INBOUND_V6_PORT
            && earlier.get(&old) == Some(&key::TRANSPARENT_PROXYING_INBOUND_PORT);
        let user = if application.uses(old, own.has_udp) {
            "the application"
        } else if earlier.contains_key(&old) && !shares_port {
            "another server of the sidecar"
        } else {
            earlier.insert(old, own.name);
            continue;
        };
        let is_free = |port: &u16| !taken.contains(port) && !application.uses(*port, own.has_udp);
        let Some(new) = (old..=u16::MAX).chain(FIRST_UNPRIVILEGED..old).find(is_free) else {
            warnings.push(format!(
                "{user} uses port {old} of the sidecar, and no other port is free: one of the two will not start. \
                 Declare fewer ports"
            ));
            continue;
        };
        taken.insert(new);
        earlier.insert(new, own.name);
        *own.port = new;
        trace.note(TraceTopic::Ports, || {
            format!("{user} uses port {old}: the sidecar uses {new} ({})", own.name)
        });
        let names_port = |value: &str| value.trim().parse() == Ok(old);
        let location = if own.name == DNS_METRICS_PORT_VARIABLE {
            configured_metrics_port.map(|_| format!("variable {} of the sidecar", own.name))
        } else {
            let annotated = annotations.get(own.name).filter(|value| names_port(value));
            annotated.map(|_| format!("annotation {} on {}", own.name, annotations.object))
        };
        if let Some(location) = location.filter(|_| !was_injected) {
            warnings.push(format!(
                "{location}: {user} uses port {old}; the sidecar uses {new} instead"
            ));
        }
    }
    // A configured variable replaces the rendered one, so it gets the new port, too.
    if configured_metrics_port.is_some_and(|port| port != plan.dns_metrics_port) {
        let new = plan.dns_metrics_port.to_string();
        plan.env_vars.insert(DNS_METRICS_PORT_VARIABLE.to_owned(), new);
    }
    // DNS that is redirected to the sidecar's server follows the server.
    if plan.dns_port == Some(old_dns_port) {
        plan.dns_port = Some(plan.served_dns_port);
    }
}

/// Returns the ports at which the sidecar listens. The ports that are settings of the control plane precede those that an
/// annotation may name.
fn own_ports<'p>(plan: &'p mut Plan<'_>, serves_dns: bool) -> Vec<OwnPort<'p>> {
    let tcp = |port, name| OwnPort {
        port,
        name,
        has_udp: false,
    };
    let mut own = vec![
        tcp(
            &mut plan.redirect_ports.outbound,
            key::TRANSPARENT_PROXYING_OUTBOUND_PORT,
        ),
        tcp(
            &mut plan.redirect_ports.inbound,
            key::TRANSPARENT_PROXYING_INBOUND_PORT,
        ),
        tcp(
            &mut plan.redirect_ports.inbound_v6,
            key::TRANSPARENT_PROXYING_INBOUND_V6_PORT,
        ),
        tcp(&mut plan.admin_port, key::ENVOY_ADMIN_PORT),
        tcp(&mut plan.virtual_probes_port, key::VIRTUAL_PROBES_PORT),
    ];
    if serves_dns {
        own.push(OwnPort {
            port: &mut plan.served_dns_port,
            name: key::BUILTIN_DNS_PORT,
            has_udp: true,
        });
        own.push(tcp(&mut plan.dns_metrics_port, DNS_METRICS_PORT_VARIABLE));
    }
    own
}

// === impl ApplicationPorts ===

impl ApplicationPorts {
    /// Reads the declared and the probed ports of all containers except the sidecar. Init containers are included,
    /// since a native sidecar runs beside them.
    fn of(pod: &Pod<'_>, found_probes: &[FoundProbe]) -> Self {
        let probed_ports = found_probes.iter().filter_map(FoundProbe::application_port);
        let mut ports = Self {
            tcp: probed_ports.collect(),
            udp: BTreeSet::new(),
        };
        let containers = pod.containers.iter().chain(&pod.init_containers);
        for container in containers.filter(|container| container.name != SIDECAR) {
            for port in container.list("ports") {
                let number = port.get("containerPort").and_then(Value::as_u64);
                let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else {
                    continue;
                };
                match port.get("protocol").and_then(Value::as_str) {
                    None | Some("TCP") => ports.tcp.insert(number),
                    Some("UDP") => ports.udp.insert(number),
                    Some(_) => false,
                };
            }
        }
        ports
    }

    fn uses(&self, port: u16, or_udp: bool) -> bool {
        self.tcp.contains(&port) || or_udp && self.udp.contains(&port)
    }
}
