//! Settings of the container `kuma-sidecar`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::overlay;
use crate::quantity::Quantity;

/// Container `kuma-sidecar`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SidecarContainer {
    /// Its image.
    pub image: String,
    /// The user it runs as; its own traffic is not redirected.
    pub uid: u32,
    /// The group it runs as.
    pub gid: u32,
    /// Port that incoming IPv4 connections are redirected to.
    pub redirect_port_inbound: u16,
    /// Port that incoming IPv6 connections are redirected to.
    pub redirect_port_inbound_v6: u16,
    /// Port that outgoing connections are redirected to.
    pub redirect_port_outbound: u16,
    /// Envoy's admin port; `bootstrapServer.params.adminPort` of the control plane.
    pub admin_port: u16,
    /// How long the sidecar serves on after it was told to stop.
    #[serde(with = "go_duration")]
    pub drain_time: Duration,
    /// When the sidecar counts as ready.
    #[serde(deserialize_with = "overlay::readiness")]
    pub readiness_probe: ProbeSettings,
    /// When the sidecar counts as dead. Its success threshold is always 1.
    #[serde(deserialize_with = "overlay::liveness")]
    pub liveness_probe: ProbeSettings,
    /// How a native sidecar holds the next container back. Its success threshold is always 1.
    #[serde(deserialize_with = "overlay::startup")]
    pub startup_probe: ProbeSettings,
    /// Requests and limits.
    #[serde(deserialize_with = "overlay::sidecar_resources")]
    pub resources: Resources,
    /// Environment variables, over those that injection sets.
    pub env_vars: BTreeMap<String, String>,
    /// Hold the application back until the proxy is ready (classic mode; native sidecars always do).
    pub wait_for_dataplane_ready: bool,
}

/// Timing of a probe, in the fields of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeSettings {
    /// Seconds before the first probe.
    pub initial_delay_seconds: u32,
    /// Seconds until a probe counts as failed.
    pub timeout_seconds: u32,
    /// Seconds between probes.
    pub period_seconds: u32,
    /// Successes in a row that count.
    pub success_threshold: u32,
    /// Failures in a row that count.
    pub failure_threshold: u32,
}

/// Requests and limits of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Resources {
    /// What is set aside.
    pub requests: ResourceAmounts,
    /// What is not exceeded.
    pub limits: ResourceAmounts,
}

/// Amounts of CPU and memory; an empty text means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourceAmounts {
    /// CPUs.
    pub cpu: Quantity,
    /// Bytes.
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
            drain_time: Duration::from_secs(30),
            readiness_probe: ProbeSettings::new(1, 5),
            liveness_probe: ProbeSettings::new(60, 5),
            // A native sidecar delays every later container, so it is asked often.
            startup_probe: ProbeSettings {
                failure_threshold: 60,
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

/// Durations as texts in Go's notation.
mod go_duration {
    use std::time::Duration;

    use kermode_model::duration;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&duration::format(*value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration::parse(&text).map_err(de::Error::custom)
    }
}
