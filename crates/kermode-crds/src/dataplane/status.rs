//! What became of a Dataplane, as `kubectl get dataplanes` shows it.
//!
//! Two write it, each its own part under its own field manager: the leader `inbounds` and the condition `Ready`, the
//! replica that serves the proxy `sidecar` and the other conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kermode_model as model;
use serde::{Deserialize, Serialize};

/// Types of the conditions.
pub mod condition {
    /// All inbounds may receive traffic.
    pub const READY: &str = "Ready";
    /// The sidecar has a stream to the control plane.
    pub const CONNECTED: &str = "Connected";
    /// The sidecar refused nothing of its newest configuration.
    pub const CONFIGURATION_ACCEPTED: &str = "ConfigurationAccepted";
}

/// Status of a Dataplane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// Its inbounds, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbounds: Option<InboundsStatus>,
    /// Its sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarStatus>,
    /// See [`condition`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Inbounds of a Dataplane, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundsStatus {
    /// How many may receive traffic.
    #[serde(default)]
    pub ready: usize,
    /// How many there are.
    #[serde(default)]
    pub total: usize,
    /// Both as text; a gateway has none.
    #[serde(default)]
    pub summary: String,
    /// The values of `kuma.io/service`, separated by commas. A printer column shows no list.
    #[serde(default)]
    pub services: String,
}

/// The sidecar of a Dataplane, as the control plane that serves it sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarStatus {
    /// Version of `kuma-dp`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Version of Envoy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub envoy_version: String,
    /// The replica of the control plane that serves it; absent while none does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control_plane: String,
    /// Its configuration.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
}

/// Configuration of a sidecar. Versions count the changes that the serving replica has seen; another replica's
/// cannot be compared with them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Newest version sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sent: String,
    /// Newest version that was applied as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub acknowledged: String,
    /// What was refused last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejection: Option<RejectionStatus>,
}

/// Configuration that a sidecar refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectionStatus {
    /// When.
    pub time: Time,
    /// Kind of the resources.
    pub kind: String,
    /// Their names.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Envoy's explanation.
    pub message: String,
}

impl From<&model::Dataplane> for InboundsStatus {
    fn from(dataplane: &model::Dataplane) -> Self {
        let total = dataplane.inbounds.len();
        let ready = dataplane
            .inbounds
            .iter()
            .filter(|inbound| inbound.is_ready())
            .count();
        let summary = if dataplane.gateway.is_some() {
            "gateway".to_owned()
        } else {
            format!("{ready}/{total}")
        };
        let services = dataplane.services();
        let services: Vec<_> = services.iter().map(model::ServiceName::as_str).collect();
        Self {
            ready,
            total,
            summary,
            services: services.join(","),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn mk_dataplane(ready: &[Option<bool>]) -> model::Dataplane {
        let inbound = |(index, ready): (usize, &Option<bool>)| model::Inbound {
            port: 80,
            tags: [(
                model::tag::SERVICE.into(),
                format!("s{index}_ns_svc_80").as_str().into(),
            )]
            .into(),
            ready: *ready,
        };
        model::Dataplane {
            key: model::ObjectKey::new("ns", "pod"),
            mesh: "default".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            inbounds: ready.iter().enumerate().map(inbound).collect(),
            gateway: None,
            transparent_proxying: None,
            admin_port: None,
            probes: None,
            metrics: None,
        }
    }

    #[test]
    fn an_inbound_of_unknown_health_counts_as_ready() {
        let status = InboundsStatus::from(&mk_dataplane(&[Some(true), Some(false), None]));
        assert_eq!(status.summary, "2/3");
        assert_eq!(status.services, "s0_ns_svc_80,s1_ns_svc_80,s2_ns_svc_80");
    }

    #[test]
    fn a_gateway_says_so_instead_of_counting_nothing() {
        let mut gateway = mk_dataplane(&[]);
        gateway.gateway = Some(model::Gateway {
            kind: model::GatewayKind::Delegated,
            tags: [(model::tag::SERVICE.into(), "edge_ns_svc_80".into())].into(),
        });
        let status = InboundsStatus::from(&gateway);
        assert_eq!(
            (status.summary.as_str(), status.services.as_str()),
            ("gateway", "edge_ns_svc_80")
        );
    }
}
