//! Status of a Dataplane.
//!
//! Two field managers write the status: the leader writes `inbounds` and the condition `Ready`; the replica that serves
//! the proxy writes `sidecar` and the other conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kermode_model as model;
use serde::{Deserialize, Serialize};

/// Types of the conditions.
pub mod condition {
    /// Whether all inbounds may receive traffic.
    pub const READY: &str = "Ready";
    /// Whether the sidecar has a stream to the control plane.
    pub const CONNECTED: &str = "Connected";
    /// False if the sidecar has rejected any part of its newest configuration.
    pub const CONFIGURATION_ACCEPTED: &str = "ConfigurationAccepted";
}

/// Status of a Dataplane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataplaneStatus {
    /// Numbers of inbounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbounds: Option<InboundsStatus>,
    /// State of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<SidecarStatus>,
    /// Conditions, with the types in [`condition`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Inbounds of a Dataplane, counted by the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundsStatus {
    /// Number of inbounds that may receive traffic.
    #[serde(default)]
    pub ready: usize,
    /// Number of all inbounds.
    #[serde(default)]
    pub total: usize,
    /// Ready and total inbounds, such as `2/3`; `gateway` for a gateway.
    #[serde(default)]
    pub summary: String,
    /// Services of the Dataplane, separated by commas, because a printer column cannot show a list.
    #[serde(default)]
    pub services: String,
}

/// State of a sidecar, as observed by the replica that serves it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarStatus {
    /// Version of `kuma-dp`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Version of Envoy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub envoy_version: String,
    /// Replica that serves the sidecar; absent while the sidecar is not connected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control_plane: String,
    /// State of the sidecar's configuration.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
}

/// State of a sidecar's configuration. Versions count the changes that the serving replica has applied; versions of
/// different replicas cannot be compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Newest version sent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sent: String,
    /// Newest version of which the proxy has acknowledged all resources.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub acknowledged: String,
    /// Last rejection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rejection: Option<RejectionStatus>,
}

/// A configuration that Envoy rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectionStatus {
    /// Time of the rejection.
    pub time: Time,
    /// Kind of the rejected resources.
    pub kind: String,
    /// Names of the rejected resources; only the first names if there are many.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Error message of Envoy.
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

    fn mk_dataplane(inbounds_ready: &[Option<bool>]) -> model::Dataplane {
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
            additional_addresses: Vec::new(),
            inbounds: inbounds_ready.iter().enumerate().map(inbound).collect(),
            gateway: None,
            transparent_proxying: None,
            admin_port: None,
            probes: None,
            metrics: None,
        }
    }

    #[test]
    fn inbound_with_unknown_health_counts_as_ready() {
        let status = InboundsStatus::from(&mk_dataplane(&[Some(true), Some(false), None]));
        assert_eq!(status.summary, "2/3");
        assert_eq!(status.services, "s0_ns_svc_80,s1_ns_svc_80,s2_ns_svc_80");
    }

    #[test]
    fn summary_of_a_gateway_is_the_word_gateway() {
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
