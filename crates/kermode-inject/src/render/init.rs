//! Renders the init container: `kuma-init` redirects traffic, or `kuma-validation` checks the CNI plugin's redirection.

use std::collections::BTreeMap;

use kermode_crds::annotation as key;
use kermode_model::notation;
use serde_json::{Value, json};

use super::{resources, restricted_context};
use crate::denial::Denial;
use crate::names::{INIT, INIT_PROGRAM, VALIDATION};
use crate::plan::Plan;
use crate::values::Values;

/// UID of the conventional unprivileged user `nobody`.
const NOBODY: u32 = 65534;

/// Time in which `kuma-validation` waits for the redirection of a Pod that started without the CNI plugin. The kubelet
/// restarts a container that ran for at least 10 minutes after 10 s; otherwise, it waits longer after each failure.
const WAIT_SECONDS: u32 = 600;

/// Renders the init container. `annotations`: all annotations of the injected Pod. `pod_runs_as_non_root`: the Pod's
/// `securityContext.runAsNonRoot`.
pub(crate) fn init(
    plan: &Plan<'_>,
    annotations: &BTreeMap<String, String>,
    pod_runs_as_non_root: bool,
) -> Result<Value, Denial> {
    if plan.settings.cni_enabled {
        return validation(plan, annotations);
    }
    let mut security_context = security_context(plan);
    if pod_runs_as_non_root {
        // The kubelet does not start a root container that inherits `runAsNonRoot: true` from the Pod.
        security_context["runAsNonRoot"] = false.into();
    }
    Ok(json!({
        "name": INIT,
        "image": plan.settings.init_container.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [INIT_PROGRAM],
        "args": arguments(annotations)?,
        "securityContext": security_context,
        "resources": resources(&plan.settings.init_container.resources, plan.pod_resources),
    }))
}

/// Renders the security context of `kuma-init`: root and two capabilities. The restricted profile drops all other
/// privileges.
fn security_context(plan: &Plan<'_>) -> Value {
    let capabilities = json!(["NET_ADMIN", "NET_RAW"]);
    if plan.restricted {
        return json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": capabilities},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
    }
    json!({"runAsUser": 0, "runAsGroup": 0, "capabilities": {"add": capabilities}})
}

/// Renders `kuma-validation`, which needs no privileges. It must not run as the sidecar's user, whose connections are
/// not redirected.
fn validation(plan: &Plan<'_>, annotations: &BTreeMap<String, String>) -> Result<Value, Denial> {
    let sidecar = &plan.settings.sidecar_container;
    let user = if sidecar.uid == NOBODY { NOBODY - 1 } else { NOBODY };
    let mut context = restricted_context(user, sidecar.gid);
    context["capabilities"] = json!({"drop": ["ALL"]});
    let mut args = vec![
        "--validate-only".to_owned(),
        format!("--wait-for-redirection={WAIT_SECONDS}"),
    ];
    args.extend(arguments(annotations)?);
    Ok(json!({
        "name": VALIDATION,
        "image": plan.settings.init_container.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [INIT_PROGRAM],
        "args": args,
        "securityContext": context,
        "resources": resources(&plan.settings.init_container.resources, plan.pod_resources),
    }))
}

/// Flags of `kuma-init` that exclude ports for UIDs, with their annotations. A flag is repeated for each item of its
/// annotation.
const UID_EXCLUSIONS: [(&str, &str); 3] = [
    (
        "--exclude-outbound-ports-for-uids",
        key::EXCLUDE_OUTBOUND_PORTS_FOR_UIDS,
    ),
    (
        "--exclude-outbound-tcp-ports-for-uids",
        key::EXCLUDE_OUTBOUND_TCP_PORTS_FOR_UIDS,
    ),
    (
        "--exclude-outbound-udp-ports-for-uids",
        key::EXCLUDE_OUTBOUND_UDP_PORTS_FOR_UIDS,
    ),
];

/// Returns the arguments of `kuma-init` for the annotations of an injected Pod. `--exclude-inbound-ports` and
/// `--exclude-outbound-ports` have an empty value if no port is excluded, as in Kuma.
///
/// # Errors
/// When an annotation cannot be parsed.
pub fn arguments(annotations: &BTreeMap<String, String>) -> Result<Vec<String>, Denial> {
    let values = Values::annotations(annotations, "the Pod");
    let is_gateway = values.is_gateway()?;
    let value_or_empty = |key: &str| values.get(key).unwrap_or_default().to_owned();
    let flag_if_annotated = |name: &str, key: &str| {
        values
            .get(key)
            .map_or_else(Vec::new, |value| vec![name.to_owned(), value.to_owned()])
    };
    let flag = |name: &str, value: &str| [name.to_owned(), value.to_owned()];
    let mut arguments: Vec<String> = Vec::new();
    arguments.extend(flag_if_annotated(
        "--redirect-outbound-port",
        key::TRANSPARENT_PROXYING_OUTBOUND_PORT,
    ));
    arguments.push(format!("--redirect-inbound={}", !is_gateway));
    for (name, key) in [
        ("--redirect-inbound-port", key::TRANSPARENT_PROXYING_INBOUND_PORT),
        (
            "--redirect-inbound-port-v6",
            key::TRANSPARENT_PROXYING_INBOUND_V6_PORT,
        ),
        ("--kuma-dp-uid", key::SIDECAR_UID),
    ] {
        arguments.extend(flag_if_annotated(name, key));
    }
    arguments.extend(flag(
        "--exclude-inbound-ports",
        &value_or_empty(key::EXCLUDE_INBOUND_PORTS),
    ));
    arguments.extend(flag(
        "--exclude-outbound-ports",
        &value_or_empty(key::EXCLUDE_OUTBOUND_PORTS),
    ));
    arguments.extend(["--verbose".to_owned(), "--skip-resolv-conf".to_owned()]);
    for (name, key) in UID_EXCLUSIONS {
        for item in value_or_empty(key)
            .split(';')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            arguments.extend([name.to_owned(), item.to_owned()]);
        }
    }
    for network in notation::list(&value_or_empty(key::VIRTUAL_NETWORKS)) {
        arguments.extend(flag("--vnet", network));
    }
    if values
        .first_boolean(&[key::BUILTIN_DNS, key::BUILTIN_DNS_DEPRECATED])?
        .unwrap_or(false)
    {
        let port = values.first_port(&[key::BUILTIN_DNS_PORT, key::BUILTIN_DNS_PORT_DEPRECATED])?;
        arguments.push("--redirect-all-dns-traffic".to_owned());
        arguments.extend([
            "--redirect-dns-port".to_owned(),
            port.unwrap_or(15053).to_string(),
        ]);
    }
    arguments.extend(flag_if_annotated("--ip-family-mode", key::IP_FAMILY_MODE));
    if values.boolean(key::EXPERIMENTAL_ENGINE)?.unwrap_or(false) {
        arguments.push("--experimental-transparent-proxy-engine".to_owned());
    }
    Ok(arguments)
}
