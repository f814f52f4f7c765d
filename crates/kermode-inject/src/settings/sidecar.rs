//! Settings of the container `kuma-sidecar`.

use std::collections::BTreeMap;
use std::time::Duration;

use kermode_model::DEFAULT_TOKEN_AUDIENCE;
use serde::{Deserialize, Serialize};

use super::overlay;
use crate::quantity::Quantity;

/// Container `kuma-sidecar`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SidecarContainer {
    /// Image.
    pub image: String,
    /// UID of the sidecar. Traffic of this user is not redirected.
    pub uid: u32,
    /// GID of the sidecar.
    pub gid: u32,
    /// Port that incoming IPv4 connections are redirected to.
    pub redirect_port_inbound: u16,
    /// Port that incoming IPv6 connections are redirected to.
    pub redirect_port_inbound_v6: u16,
    /// Port that outgoing connections are redirected to.
    pub redirect_port_outbound: u16,
    /// Envoy's admin port; `bootstrapServer.params.adminPort` in Kuma.
    pub admin_port: u16,
    /// Audience of the sidecar's service account token.
    pub token_audience: String,
    /// Maximum duration of the drain, during which the sidecar still serves after SIGTERM.
    #[serde(with = "kermode_model::duration::go_notation")]
    pub drain_time: Duration,
    /// Readiness probe of the sidecar.
    #[serde(deserialize_with = "overlay::readiness")]
    pub readiness_probe: ProbeSettings,
    /// Liveness probe of the sidecar. The success threshold is always 1.
    #[serde(deserialize_with = "overlay::liveness")]
    pub liveness_probe: ProbeSettings,
    /// Startup probe of a native sidecar. The kubelet starts the next container once the probe has succeeded. The
    /// success threshold is always 1.
    #[serde(deserialize_with = "overlay::startup")]
    pub startup_probe: ProbeSettings,
    /// Resource requests and limits.
    #[serde(deserialize_with = "overlay::sidecar_resources")]
    pub resources: Resources,
    /// Environment variables; they override the variables that injection sets.
    pub env_vars: BTreeMap<String, String>,
    /// Whether the application waits until a classic sidecar is ready. The application always waits for a native one.
    pub wait_for_dataplane_ready: bool,
}

/// Timing and thresholds of a probe, with the field names of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeSettings {
    /// Seconds before the first probe.
    pub initial_delay_seconds: u32,
    /// Seconds without a response after which a probe counts as failed.
    pub timeout_seconds: u32,
    /// Seconds between probes.
    pub period_seconds: u32,
    /// Consecutive successes after which a failed container counts as healthy.
    pub success_threshold: u32,
    /// Consecutive failures after which the container counts as unhealthy.
    pub failure_threshold: u32,
}

/// Requests and limits of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Resources {
    /// Resource requests.
    pub requests: ResourceAmounts,
    /// Resource limits.
    pub limits: ResourceAmounts,
}

/// Amounts of CPU and memory; an empty string means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourceAmounts {
    /// CPU, in cores.
    pub cpu: Quantity,
    /// Memory, in bytes.
    pub memory: Quantity,
}

impl Default for SidecarContainer {
    fn default() -> Self {
        Self {
            image: "kuma/kuma-dp:latest".to_owned(),
            uid: 5678,
            gid: 5678,
            redirect_port_inbound: 15006,
            redirect_port_inbound_v6: 15010,
            redirect_port_outbound: 15001,
            admin_port: 9901,
            token_audience: DEFAULT_TOKEN_AUDIENCE.to_owned(),
            drain_time: Duration::from_secs(30),
            readiness_probe: ProbeSettings::new(1, 5),
            liveness_probe: ProbeSettings::new(60, 5),
            // A native sidecar delays all later containers, so the period is short. The probe is a command that waits
            // for readiness for most of its timeout. So the kubelet reports only slow starts.
            startup_probe: ProbeSettings {
                timeout_seconds: 30,
                failure_threshold: 6,
                ..ProbeSettings::new(0, 1)
            },
            resources: Resources {
                requests: ResourceAmounts::new_unchecked("50m", "64Mi"),
                limits: ResourceAmounts::new_unchecked("1000m", "512Mi"),
            },
            env_vars: BTreeMap::new(),
            wait_for_dataplane_ready: false,
        }
    }
}

impl ProbeSettings {
    const fn new(initial_delay_seconds: u32, period_seconds: u32) -> Self {
        Self {
            initial_delay_seconds,
            timeout_seconds: 3,
            period_seconds,
            success_threshold: 1,
            failure_threshold: 12,
        }
    }
}
