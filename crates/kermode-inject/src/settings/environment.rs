//! Environment variables of the injection settings (docs/reference/configuration.md#file-and-environment).

/// Environment variables of the control plane, each with the path of the setting that the variable overrides. The value
/// for a list is comma-separated; the value for a map has the form `k:v,k2:v2`.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_CNI_ENABLED",
        "runtime.kubernetes.injector.cniEnabled",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_CNI_CHAINED",
        "runtime.kubernetes.injector.cniChained",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_CONTAINER_PATCHES",
        "runtime.kubernetes.injector.containerPatches",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_IMAGE_PULL_SECRETS",
        "runtime.kubernetes.injector.imagePullSecrets",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_CA_CERT_FILE",
        "runtime.kubernetes.injector.caCertFile",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_VIRTUAL_PROBES_ENABLED",
        "runtime.kubernetes.injector.virtualProbesEnabled",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_VIRTUAL_PROBES_PORT",
        "runtime.kubernetes.injector.virtualProbesPort",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_EXCEPTIONS_LABELS",
        "runtime.kubernetes.injector.exceptions.labels",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_SIDECAR_TRAFFIC_EXCLUDE_INBOUND_PORTS",
        "runtime.kubernetes.injector.sidecarTraffic.excludeInboundPorts",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_SIDECAR_TRAFFIC_EXCLUDE_OUTBOUND_PORTS",
        "runtime.kubernetes.injector.sidecarTraffic.excludeOutboundPorts",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_IMAGE",
        "runtime.kubernetes.injector.sidecarContainer.image",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_UID",
        "runtime.kubernetes.injector.sidecarContainer.uid",
    ),
    // Kuma's misspelling of GID; the correct spelling is accepted too.
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_GUI",
        "runtime.kubernetes.injector.sidecarContainer.gid",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_GID",
        "runtime.kubernetes.injector.sidecarContainer.gid",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_REDIRECT_PORT_INBOUND",
        "runtime.kubernetes.injector.sidecarContainer.redirectPortInbound",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_REDIRECT_PORT_INBOUND_V6",
        "runtime.kubernetes.injector.sidecarContainer.redirectPortInboundV6",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_REDIRECT_PORT_OUTBOUND",
        "runtime.kubernetes.injector.sidecarContainer.redirectPortOutbound",
    ),
    (
        "KUMA_BOOTSTRAP_SERVER_PARAMS_ADMIN_PORT",
        "runtime.kubernetes.injector.sidecarContainer.adminPort",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_TOKEN_AUDIENCE",
        "runtime.kubernetes.injector.sidecarContainer.tokenAudience",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_DRAIN_TIME",
        "runtime.kubernetes.injector.sidecarContainer.drainTime",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_READINESS_PROBE_INITIAL_DELAY_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.readinessProbe.initialDelaySeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_READINESS_PROBE_TIMEOUT_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.readinessProbe.timeoutSeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_READINESS_PROBE_PERIOD_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.readinessProbe.periodSeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_READINESS_PROBE_SUCCESS_THRESHOLD",
        "runtime.kubernetes.injector.sidecarContainer.readinessProbe.successThreshold",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_READINESS_PROBE_FAILURE_THRESHOLD",
        "runtime.kubernetes.injector.sidecarContainer.readinessProbe.failureThreshold",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_LIVENESS_PROBE_INITIAL_DELAY_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.livenessProbe.initialDelaySeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_LIVENESS_PROBE_TIMEOUT_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.livenessProbe.timeoutSeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_LIVENESS_PROBE_PERIOD_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.livenessProbe.periodSeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_LIVENESS_PROBE_FAILURE_THRESHOLD",
        "runtime.kubernetes.injector.sidecarContainer.livenessProbe.failureThreshold",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_STARTUP_PROBE_INITIAL_DELAY_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.startupProbe.initialDelaySeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_STARTUP_PROBE_TIMEOUT_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.startupProbe.timeoutSeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_STARTUP_PROBE_PERIOD_SECONDS",
        "runtime.kubernetes.injector.sidecarContainer.startupProbe.periodSeconds",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_STARTUP_PROBE_FAILURE_THRESHOLD",
        "runtime.kubernetes.injector.sidecarContainer.startupProbe.failureThreshold",
    ),
    (
        "KUMA_INJECTOR_SIDECAR_CONTAINER_RESOURCES_REQUESTS_CPU",
        "runtime.kubernetes.injector.sidecarContainer.resources.requests.cpu",
    ),
    (
        "KUMA_INJECTOR_SIDECAR_CONTAINER_RESOURCES_REQUESTS_MEMORY",
        "runtime.kubernetes.injector.sidecarContainer.resources.requests.memory",
    ),
    (
        "KUMA_INJECTOR_SIDECAR_CONTAINER_RESOURCES_LIMITS_CPU",
        "runtime.kubernetes.injector.sidecarContainer.resources.limits.cpu",
    ),
    (
        "KUMA_INJECTOR_SIDECAR_CONTAINER_RESOURCES_LIMITS_MEMORY",
        "runtime.kubernetes.injector.sidecarContainer.resources.limits.memory",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_ENV_VARS",
        "runtime.kubernetes.injector.sidecarContainer.envVars",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_WAIT_FOR_DATAPLANE_READY",
        "runtime.kubernetes.injector.sidecarContainer.waitForDataplaneReady",
    ),
    (
        "KUMA_INJECTOR_INIT_CONTAINER_IMAGE",
        "runtime.kubernetes.injector.initContainer.image",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_BUILTIN_DNS_ENABLED",
        "runtime.kubernetes.injector.builtinDNS.enabled",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_BUILTIN_DNS_PORT",
        "runtime.kubernetes.injector.builtinDNS.port",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_TRANSPARENT_PROXY_V2",
        "runtime.kubernetes.injector.transparentProxyV2",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_EBPF_ENABLED",
        "runtime.kubernetes.injector.ebpf.enabled",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_MODE",
        "runtime.kubernetes.injector.sidecarMode",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_SECURITY_PROFILE",
        "runtime.kubernetes.injector.securityProfile",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_DRAIN_MODE",
        "runtime.kubernetes.injector.drainMode",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_INJECTOR_APPLICATION_STOP_DELAY",
        "runtime.kubernetes.injector.applicationStopDelay",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn variables_set_settings_and_settings_have_variables() {
        let settings = serde_json::json!({
            "runtime": {"kubernetes": {"injector": serde_json::to_value(Settings::default()).unwrap()}}
        });
        for (variable, path) in ENVIRONMENT {
            let pointer = format!("/{}", path.replace('.', "/"));
            assert!(
                settings.pointer(&pointer).is_some(),
                "{variable} sets {path}, which is not a setting"
            );
        }
        let mut leaves = Vec::new();
        collect_leaves("", &settings, &mut leaves);
        for leaf in leaves {
            let has_variable = ENVIRONMENT.iter().any(|(_, path)| leaf.starts_with(path));
            let is_set_by_file_only = leaf.contains("initContainer.resources")
                || leaf.ends_with("livenessProbe.successThreshold")
                || leaf.ends_with("startupProbe.successThreshold");
            assert!(has_variable || is_set_by_file_only, "no variable sets {leaf}");
        }
    }

    fn collect_leaves(path: &str, value: &serde_json::Value, leaves: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(members) if !members.is_empty() => {
                for (key, member) in members {
                    let path = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    collect_leaves(&path, member, leaves);
                }
            }
            _ => leaves.push(path.to_owned()),
        }
    }
}
