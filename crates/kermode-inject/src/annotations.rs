//! Annotations that injection writes (docs/reference/injection.md#annotations-written).

use std::collections::BTreeMap;

use kermode_crds::annotation as key;
use kermode_model::notation;

use crate::names::TMP_VOLUME;
use crate::networks;
use crate::plan::Plan;
use crate::reason::InjectionSource;
use crate::values::Values;

const ENABLED: &str = "enabled";
const DISABLED: &str = "disabled";

/// Annotation with a comma-separated list of local volumes of the Pod. These volumes do not keep Cluster Autoscaler
/// from evicting the Pod. <https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md>
const EVICTABLE_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// Returns the annotations to write, by key. `pod_annotations` are the annotations that the Pod has before injection.
/// `source` is the label or annotation that requested injection.
pub(crate) fn annotations_to_write(
    plan: &Plan<'_>,
    source: InjectionSource,
    pod_annotations: &Values<'_>,
) -> BTreeMap<String, String> {
    let settings = plan.settings;
    let sidecar = &settings.sidecar_container;
    let mut annotations = BTreeMap::new();
    let mut write = |name: &str, value: String| annotations.insert(name.to_owned(), value);

    write(key::MESH, plan.mesh.clone());
    write(key::SIDECAR_INJECTED, "true".to_owned());
    write(key::INJECTION_REASON, source.as_str().to_owned());
    write(key::SIDECAR_UID, sidecar.uid.to_string());
    write(key::TRANSPARENT_PROXYING, ENABLED.to_owned());
    write(
        key::TRANSPARENT_PROXYING_INBOUND_PORT,
        plan.redirect_ports.inbound.to_string(),
    );
    write(
        key::TRANSPARENT_PROXYING_INBOUND_V6_PORT,
        plan.redirect_ports.inbound_v6.to_string(),
    );
    write(
        key::TRANSPARENT_PROXYING_OUTBOUND_PORT,
        plan.redirect_ports.outbound.to_string(),
    );
    write(key::TRANSPARENT_PROXYING_EBPF, DISABLED.to_owned());
    if let Some(port) = plan.dns_port {
        for (enabled_key, port_key) in [
            (key::BUILTIN_DNS, key::BUILTIN_DNS_PORT),
            (key::BUILTIN_DNS_DEPRECATED, key::BUILTIN_DNS_PORT_DEPRECATED),
        ] {
            write(enabled_key, ENABLED.to_owned());
            write(port_key, port.to_string());
        }
    }
    let virtual_probes = if plan.virtual_probes { ENABLED } else { DISABLED };
    write(key::VIRTUAL_PROBES, virtual_probes.to_owned());
    write(key::VIRTUAL_PROBES_PORT, plan.virtual_probes_port.to_string());
    for (ports_key, ports) in [
        (
            key::EXCLUDE_INBOUND_PORTS,
            &settings.sidecar_traffic.exclude_inbound_ports,
        ),
        (
            key::EXCLUDE_OUTBOUND_PORTS,
            &settings.sidecar_traffic.exclude_outbound_ports,
        ),
    ] {
        // The Pod's own annotation replaces the setting.
        let value = pod_annotations
            .get(ports_key)
            .map_or_else(|| comma_separated(ports), str::to_owned);
        if !value.is_empty() {
            write(ports_key, value);
        }
    }
    write(key::ENVOY_ADMIN_PORT, plan.admin_port.to_string());
    if plan.experimental_engine {
        write(key::EXPERIMENTAL_ENGINE, ENABLED.to_owned());
    }
    if plan.has_tmp_volume() {
        write(
            EVICTABLE_VOLUMES,
            with_item(pod_annotations.get(EVICTABLE_VOLUMES), TMP_VOLUME),
        );
    }
    if settings.names_cni_network() {
        let networks = pod_annotations.get(key::CNI_NETWORKS).unwrap_or_default();
        write(key::CNI_NETWORKS, networks::with_cni_network(networks));
    }
    annotations
}

/// Returns the annotation with the Pod's networks, without the network of the CNI plugin, which an earlier injection
/// added. Returns `None` if the Pod needs the plugin's network or the annotation does not name it.
pub(crate) fn networks_without_cni(plan: &Plan<'_>, pod_annotations: &Values<'_>) -> Option<String> {
    let networks = pod_annotations
        .get(key::CNI_NETWORKS)
        .filter(|_| !plan.settings.names_cni_network())?;
    networks::without_cni_network(networks)
}

/// Appends an item to a comma-separated list, unless the list contains the item.
pub(crate) fn with_item(list: Option<&str>, item: &str) -> String {
    match list.filter(|list| !list.trim().is_empty()) {
        Some(list) if notation::list(list).any(|present| present == item) => list.to_owned(),
        Some(list) => format!("{},{item}", list.trim_end().trim_end_matches(',')),
        None => item.to_owned(),
    }
}

fn comma_separated(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}
