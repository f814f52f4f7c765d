//! Environment variables of the sidecar.

use std::collections::BTreeMap;

use kermode_model::{Dataplane, duration};
use serde_json::{Value, json};

use crate::names::{DEFAULT_DNS_METRICS_PORT, DNS_METRICS_PORT_VARIABLE, TOKEN_DIRECTORY};
use crate::plan::{Placement, Plan};
use crate::settings::DrainMode;

/// Variables from fields of the Pod. They come first, because a value can refer only to variables before it.
const POD_FIELDS: [(&str, &str); 3] = [
    ("POD_NAME", "metadata.name"),
    ("POD_NAMESPACE", "metadata.namespace"),
    ("INSTANCE_IP", "status.podIP"),
];

/// Returns the variables in order: fields of the Pod, then the others by name. A configured variable replaces the
/// rendered variable of the same name. `ca_file` is the path of the file with the roots of the control plane, if it is
/// not the default.
pub(super) fn env(plan: &Plan<'_>, ca_file: Option<&str>) -> Vec<Value> {
    let mut configured = plan.env_vars.clone();
    let fields = POD_FIELDS.map(|(name, path)| match configured.remove(name) {
        Some(value) => variable(name, &value),
        None => json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}),
    });
    let mut rest = rendered_variables(plan, ca_file);
    rest.extend(configured);
    fields
        .into_iter()
        .chain(rest.iter().map(|(name, value)| variable(name, value)))
        .collect()
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn rendered_variables(plan: &Plan<'_>, ca_file: Option<&str>) -> BTreeMap<String, String> {
    let dns = &plan.settings.builtin_dns;
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);

    set("KUMA_CONTROL_PLANE_CA_CERT", plan.control_plane_ca_pem.to_owned());
    if let Some(ca_file) = ca_file {
        set("KUMA_CONTROL_PLANE_CA_CERT_FILE", ca_file.to_owned());
    }
    set("KUMA_CONTROL_PLANE_URL", plan.control_plane_url.to_owned());
    set("KUMA_DATAPLANE_DRAIN_TIME", duration::format(plan.drain_time));
    set("KUMA_DATAPLANE_MESH", plan.mesh.clone());
    set("KUMA_DATAPLANE_NAME", "$(POD_NAME).$(POD_NAMESPACE)".to_owned());
    set(
        "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH",
        format!("{TOKEN_DIRECTORY}/token"),
    );
    if let Some(level) = &plan.log_level {
        set("KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL", level.clone());
    }
    // `kuma-dp` writes the admin port into Envoy's bootstrap, and has the same default.
    if plan.admin_port != Dataplane::DEFAULT_ADMIN_PORT {
        set("KUMA_DATAPLANE_ADMIN_PORT", plan.admin_port.to_string());
    }
    if plan.placement == Placement::Native {
        set("KUMA_DATAPLANE_NATIVE_SIDECAR", true.to_string());
    }
    if plan.drain_mode == DrainMode::Acknowledged {
        set("KUMA_DATAPLANE_DRAIN_MODE", "acknowledged".to_owned());
    }
    set("KUMA_DNS_ENABLED", dns.enabled.to_string());
    if dns.enabled {
        if plan.dns_metrics_port != DEFAULT_DNS_METRICS_PORT {
            set(DNS_METRICS_PORT_VARIABLE, plan.dns_metrics_port.to_string());
        }
        // Kuma's variables; `kuma-dp` reads only `KUMA_DNS_CORE_DNS_PORT`.
        set("KUMA_DNS_CORE_DNS_BINARY_PATH", "coredns".to_owned());
        let port = plan.served_dns_port;
        set("KUMA_DNS_CORE_DNS_PORT", port.to_string());
        set("KUMA_DNS_CORE_DNS_EMPTY_PORT", port.saturating_add(1).to_string());
        set("KUMA_DNS_ENVOY_DNS_PORT", port.saturating_add(2).to_string());
    }
    variables
}
