//! Table of all settings: path, environment variables, meaning. `docs/reference/configuration.md` is generated from the
//! table.
//!
//! Environment variables of the injector are declared in `kermode-inject`, beside the injector's settings.

use crate::load::Variable;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Path in the file: the keys of all levels, separated by dots.
    pub path: String,
    /// Environment variables that override the setting.
    pub variables: Vec<&'static str>,
    /// Meaning of the value.
    pub meaning: &'static str,
}

/// Path of the section with the injector's settings.
const INJECTOR_SECTION: &str = "runtime.kubernetes.injector";

/// Settings outside of the injector: path, variable (empty if there is none), meaning.
const CONTROL_PLANE_SETTINGS: &[(&str, &str, &str)] = &[
    (
        "instance",
        "POD_NAME",
        "Name of this replica. The Deployment sets it to the name of the Pod.",
    ),
    (
        "general.clockTolerance",
        "KUMA_GENERAL_CLOCK_TOLERANCE",
        "Largest clock difference at which a new certificate is still accepted. The validity of a certificate starts this \
         long before its issuance, or a tenth of its lifetime before, whichever is shorter.",
    ),
    (
        "log.level",
        "KUMA_LOG_LEVEL",
        "Log level, or a filter such as `info,kermode_xds=debug`.",
    ),
    (
        "log.format",
        "KUMA_LOG_FORMAT",
        "Format of log lines: `text` or `json`.",
    ),
    (
        "store.kubernetes.systemNamespace",
        "KUMA_STORE_KUBERNETES_SYSTEM_NAMESPACE",
        "Namespace of the control plane.",
    ),
    (
        "runtime.kubernetes.controlPlaneServiceName",
        "KUMA_RUNTIME_KUBERNETES_CONTROL_PLANE_SERVICE_NAME",
        "Name of the control plane's Service.",
    ),
    (
        "runtime.kubernetes.admissionServer.address",
        "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS",
        "Address that the webhook server listens on.",
    ),
    (
        "runtime.kubernetes.admissionServer.port",
        "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT",
        "Port that the webhook server listens on.",
    ),
    (
        "runtime.kubernetes.admissionServer.hostnames",
        "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_HOSTNAMES",
        "Additional host names and IP addresses in the certificate of the webhook server and of the server for proxies; \
         for a control plane outside of the cluster.",
    ),
    (
        "dpServer.address",
        "KUMA_DP_SERVER_ADDRESS",
        "Address that the server for proxies listens on.",
    ),
    (
        "dpServer.port",
        "KUMA_DP_SERVER_PORT",
        "Port that the server for proxies listens on.",
    ),
    (
        "dpServer.url",
        "KUMA_DP_SERVER_URL",
        "URL that proxies connect to. Empty: `https://<controlPlaneServiceName>.<systemNamespace>:<dpServer.port>`.",
    ),
    (
        "dpServer.auth.acceptApiServerTokens",
        "KUMA_DP_SERVER_AUTH_ACCEPT_API_SERVER_TOKENS",
        "Whether the control plane also accepts tokens for the API server. Sidecars that were injected by a version \
         without `sidecarContainer.tokenAudience` have these tokens. Set it to `true` only until all these sidecars are \
         replaced.",
    ),
    (
        "dnsServer.CIDR",
        "KUMA_DNS_SERVER_CIDR",
        "IPv4 range of the virtual IPs to which the names of services resolve. The range must not contain addresses of \
         Pods, Services, nodes or anything outside that applications call. Services whose virtual IP is outside of a new \
         range get another one.",
    ),
    (
        "dnsServer.serviceVipEnabled",
        "KUMA_DNS_SERVER_SERVICE_VIP_ENABLED",
        "Whether services have virtual IPs. Without them, only the names of the Pods of headless services resolve.",
    ),
    (
        "dnsServer.domain",
        "KUMA_DNS_SERVER_DOMAIN",
        "Domain of the names of services. Only the default is supported.",
    ),
    (
        "dnsServer.serviceVipPort",
        "KUMA_DNS_SERVER_SERVICE_VIP_PORT",
        "Port of the virtual IPs, which leads to the port of the service. Only the default is supported.",
    ),
    (
        "diagnostics.address",
        "KUMA_DIAGNOSTICS_ADDRESS",
        "Address that the server for health and metrics listens on.",
    ),
    (
        "diagnostics.serverPort",
        "KUMA_DIAGNOSTICS_SERVER_PORT",
        "Port that the server for health and metrics listens on.",
    ),
    (
        "diagnostics.debugPort",
        "KUMA_DIAGNOSTICS_DEBUG_PORT",
        "Port of the `/debug` endpoints and the page, always on loopback; 0 disables both.",
    ),
    (
        "bootstrapServer.params.adminPort",
        "",
        "Port of Envoy's admin interface. Overrides `sidecarContainer.adminPort` of the injector.",
    ),
    (
        "multizone.zone.name",
        "KUMA_MULTIZONE_ZONE_NAME",
        "Name of the zone, the value of the tag `kuma.io/zone`. Empty: no tag.",
    ),
    (
        "defaults.skipMeshCreation",
        "KUMA_DEFAULTS_SKIP_MESH_CREATION",
        "Whether to skip the creation of the Mesh `default`.",
    ),
    (
        "tracing.openTelemetry.enabled",
        "KUMA_TRACING_OPENTELEMETRY_ENABLED",
        "Whether the control plane exports its traces.",
    ),
    (
        "tracing.openTelemetry.endpoint",
        "KUMA_TRACING_OPENTELEMETRY_ENDPOINT",
        "URL of the collector. It must accept OTLP over gRPC.",
    ),
    (
        "tracing.openTelemetry.samplingRatio",
        "KUMA_TRACING_OPENTELEMETRY_SAMPLING_RATIO",
        "Fraction of traces that are exported, from 0 to 1.",
    ),
];

/// Settings of the injector: path below [`INJECTOR_SECTION`], meaning.
const INJECTOR_SETTINGS: &[(&str, &str)] = &[
    (
        "cniEnabled",
        "Whether the CNI plugin, instead of `kuma-init`, sets up the redirection of traffic.",
    ),
    (
        "cniChained",
        "Whether the container runtime calls the CNI plugin after other plugins. Otherwise, injected Pods name the network \
         `kuma-cni`, for which Multus calls the plugin, and the control plane writes its NetworkAttachmentDefinition.",
    ),
    (
        "containerPatches",
        "Names of the ContainerPatches that apply to Pods without the annotation `kuma.io/container-patches`.",
    ),
    (
        "imagePullSecrets",
        "Secrets with credentials for the registry of the images, appended to `spec.imagePullSecrets` of each injected Pod. They must \
         exist in the Pod's namespace.",
    ),
    (
        "caCertFile",
        "File of the CA certificate that sidecars verify the control plane against. Empty: the CA of the control plane.",
    ),
    ("virtualProbesEnabled", "Default of `kuma.io/virtual-probes`."),
    ("virtualProbesPort", "Default of `kuma.io/virtual-probes-port`."),
    (
        "exceptions.labels",
        "Labels of Pods that are never injected; the value `*` matches any value. The map replaces the default.",
    ),
    (
        "sidecarTraffic.excludeInboundPorts",
        "Default of `traffic.kuma.io/exclude-inbound-ports`.",
    ),
    (
        "sidecarTraffic.excludeOutboundPorts",
        "Default of `traffic.kuma.io/exclude-outbound-ports`.",
    ),
    ("sidecarContainer.image", "Image of the sidecar."),
    (
        "sidecarContainer.uid",
        "User ID of the sidecar. Outbound traffic of this user is not redirected.",
    ),
    (
        "sidecarContainer.gid",
        "Group ID of the sidecar. The ending `GUI` of a variable is Kuma's spelling.",
    ),
    (
        "sidecarContainer.redirectPortInbound",
        "Port that inbound IPv4 traffic is redirected to.",
    ),
    (
        "sidecarContainer.redirectPortInboundV6",
        "Port that inbound IPv6 traffic is redirected to.",
    ),
    (
        "sidecarContainer.redirectPortOutbound",
        "Port that outbound traffic is redirected to.",
    ),
    (
        "sidecarContainer.adminPort",
        "Default of `kuma.io/envoy-admin-port`.",
    ),
    (
        "sidecarContainer.tokenAudience",
        "Audience of the tokens by which sidecars authenticate to the control plane. After a change, restart all Pods with \
         a sidecar.",
    ),
    (
        "sidecarContainer.drainTime",
        "Default of `kuma.io/sidecar-drain-time`.",
    ),
    (
        "sidecarContainer.readinessProbe.initialDelaySeconds",
        "Seconds before the first readiness probe.",
    ),
    (
        "sidecarContainer.readinessProbe.timeoutSeconds",
        "Seconds after which a readiness probe fails.",
    ),
    (
        "sidecarContainer.readinessProbe.periodSeconds",
        "Seconds between readiness probes.",
    ),
    (
        "sidecarContainer.readinessProbe.successThreshold",
        "Number of consecutive successes after which the readiness probe counts as successful.",
    ),
    (
        "sidecarContainer.readinessProbe.failureThreshold",
        "Number of consecutive failures after which the readiness probe counts as failed.",
    ),
    (
        "sidecarContainer.livenessProbe.initialDelaySeconds",
        "Seconds before the first liveness probe.",
    ),
    (
        "sidecarContainer.livenessProbe.timeoutSeconds",
        "Seconds after which a liveness probe fails.",
    ),
    (
        "sidecarContainer.livenessProbe.periodSeconds",
        "Seconds between liveness probes.",
    ),
    (
        "sidecarContainer.livenessProbe.successThreshold",
        "Number of consecutive successes after which the liveness probe counts as successful. Kubernetes allows only 1.",
    ),
    (
        "sidecarContainer.livenessProbe.failureThreshold",
        "Number of consecutive failures after which the liveness probe counts as failed.",
    ),
    (
        "sidecarContainer.startupProbe.initialDelaySeconds",
        "Seconds before the first startup probe.",
    ),
    (
        "sidecarContainer.startupProbe.timeoutSeconds",
        "Seconds after which a startup probe fails.",
    ),
    (
        "sidecarContainer.startupProbe.periodSeconds",
        "Seconds between startup probes.",
    ),
    (
        "sidecarContainer.startupProbe.successThreshold",
        "Number of consecutive successes after which the startup probe counts as successful. Kubernetes allows only 1.",
    ),
    (
        "sidecarContainer.startupProbe.failureThreshold",
        "Number of consecutive failures after which the startup probe counts as failed.",
    ),
    (
        "sidecarContainer.resources.requests.cpu",
        "CPU request of the sidecar. Empty: none.",
    ),
    (
        "sidecarContainer.resources.requests.memory",
        "Memory request of the sidecar. Empty: none.",
    ),
    (
        "sidecarContainer.resources.limits.cpu",
        "CPU limit of the sidecar. Empty: none.",
    ),
    (
        "sidecarContainer.resources.limits.memory",
        "Memory limit of the sidecar. Empty: none.",
    ),
    (
        "sidecarContainer.envVars",
        "Additional environment variables of the sidecar. They override variables of the same name that the injector sets.",
    ),
    (
        "sidecarContainer.waitForDataplaneReady",
        "Default of `kuma.io/wait-for-dataplane-ready`. Native sidecars always delay the application until they are ready.",
    ),
    ("initContainer.image", "Image of the init container."),
    (
        "initContainer.resources.requests.cpu",
        "CPU request of the init container. Empty: none.",
    ),
    (
        "initContainer.resources.requests.memory",
        "Memory request of the init container. Empty: none.",
    ),
    (
        "initContainer.resources.limits.cpu",
        "CPU limit of the init container. Empty: none.",
    ),
    (
        "initContainer.resources.limits.memory",
        "Memory limit of the init container. Empty: none.",
    ),
    ("builtinDNS.enabled", "Default of `kuma.io/builtin-dns`."),
    (
        "builtinDNS.port",
        "Default of `kuma.io/builtin-dns-port`. At most 65533, because the sidecar's environment variables, as in Kuma, \
         also name the two ports after this one.",
    ),
    (
        "transparentProxyV2",
        "Default of `kuma.io/transparent-proxying-experimental-engine`. Accepted without effect.",
    ),
    (
        "ebpf.enabled",
        "Must be `false`, because Kermode has no eBPF mode.",
    ),
    (
        "sidecarMode",
        "Default of `kuma.io/sidecar-mode`: `auto`, `native` or `classic`.",
    ),
    (
        "securityProfile",
        "Security contexts of the sidecar and of `kuma-init`. With `default`, the sidecar meets Pod Security *restricted* \
         only in namespaces that enforce it. With `restricted`, the sidecar meets it in every namespace.",
    ),
    (
        "drainMode",
        "Default of `kuma.io/drain-mode`: `wait` or `acknowledged`.",
    ),
    (
        "applicationStopDelay",
        "Default of `kuma.io/application-stop-delay`. `0s` delays no stop.",
    ),
];

/// Returns all settings in the order of the reference.
pub fn settings() -> Vec<Setting> {
    let of_control_plane = CONTROL_PLANE_SETTINGS
        .iter()
        .map(|(path, _, meaning)| ((*path).to_owned(), *meaning));
    let of_injector = INJECTOR_SETTINGS
        .iter()
        .map(|(path, meaning)| (format!("{INJECTOR_SECTION}.{path}"), *meaning));
    of_control_plane
        .chain(of_injector)
        .map(|(path, meaning)| {
            let variables = variables()
                .filter(|(_, overridden_path)| *overridden_path == path)
                .map(|(variable, _)| variable)
                .collect();
            Setting {
                path,
                variables,
                meaning,
            }
        })
        .collect()
}

/// Returns the environment variables, each with the path of the setting that it overrides.
pub(crate) fn variables() -> impl Iterator<Item = Variable> {
    let of_control_plane = CONTROL_PLANE_SETTINGS
        .iter()
        .map(|(path, variable, _)| (*variable, *path))
        .filter(|(variable, _)| !variable.is_empty());
    of_control_plane.chain(kermode_inject::ENVIRONMENT.iter().copied())
}
