//! The custom resource Dataplane, which describes one proxy.

mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kermode_model as model;
use kube::core::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};

use crate::object::custom_resource;
pub use status::{
    ConfigurationStatus, DataplaneStatus, InboundsStatus, RejectionStatus, SidecarStatus, condition,
};

/// A proxy of the mesh, with the name and namespace of its Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dataplane {
    /// API version and kind.
    #[serde(flatten)]
    pub types: Option<TypeMeta>,
    /// Name, namespace and owner.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Mesh of the proxy.
    #[serde(default)]
    pub mesh: String,
    /// Networking, metrics and virtual probes.
    #[serde(default)]
    pub spec: DataplaneSpec,
    /// State, written through the status subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DataplaneStatus>,
}

custom_resource!(Dataplane, "dataplanes", NamespaceResourceScope);

/// Contents of a [`Dataplane`], see `docs/reference/resources.md#dataplane`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneSpec {
    /// Addresses, inbounds and redirection.
    #[serde(default)]
    pub networking: Networking,
    /// Metrics endpoint of the proxy, from annotations of the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
    /// Virtual probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<ProbesSpec>,
}

/// Addresses, inbounds and redirection of a [`DataplaneSpec`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Networking {
    /// IP of the Pod: the first one if the Pod has several.
    #[serde(default)]
    pub address: String,
    /// Further IPs of the Pod. Kuma does not have this field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_addresses: Vec<String>,
    /// Set for gateways, which have no inbounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,
    /// One entry for each port of each Service that selects the Pod. A service-less Pod has one entry, its placeholder
    /// inbound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<InboundSpec>,
    /// Redirection of traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transparent_proxying: Option<TransparentProxyingSpec>,
    /// Envoy's admin interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminSpec>,
}

/// One inbound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundSpec {
    /// Port of the inbound; a container port in the Dataplane of an injected Pod.
    pub port: u16,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
    /// Health. Absent means ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// Health of an inbound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the inbound may receive traffic. Kuma omits `false` when it writes the object, so absent means `false`.
    #[serde(default)]
    pub ready: bool,
}

/// A delegated gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewaySpec {
    /// Type of the gateway; always `DELEGATED`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<Arc<str>, Arc<str>>,
}

/// Redirection of traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransparentProxyingSpec {
    /// Port that inbound IPv4 connections are redirected to.
    pub redirect_port_inbound: u16,
    /// Port that inbound IPv6 connections are redirected to.
    #[serde(
        rename = "redirectPortInboundV6",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub redirect_port_inbound_v6: Option<u16>,
    /// Port that outbound connections are redirected to.
    pub redirect_port_outbound: u16,
    /// Services whose Pods the proxy reaches by IP address; `*` selects all services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub direct_access_services: Vec<String>,
    /// Services that the proxy is configured for; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reachable_services: Vec<String>,
}

/// Envoy's admin interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminSpec {
    /// Port.
    pub port: u16,
}

/// Virtual probes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbesSpec {
    /// Port of the listener for probes.
    pub port: u16,
    /// One entry for each virtual probe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ProbeEndpoint>,
}

/// One virtual probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeEndpoint {
    /// Port of the application.
    pub inbound_port: u16,
    /// Path that the proxy requests from the application.
    pub inbound_path: String,
    /// Path that the kubelet requests from the proxy.
    pub path: String,
    /// Protocol of the probe; absent for HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// Metrics endpoint of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsSpec {
    /// Collector of the metrics; always `prometheus`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Port and path of the endpoint.
    #[serde(default)]
    pub conf: serde_json::Value,
}

// === conversion from the model ===

impl From<&model::Dataplane> for DataplaneSpec {
    fn from(dataplane: &model::Dataplane) -> Self {
        Self {
            networking: Networking {
                address: dataplane.address.to_string(),
                additional_addresses: dataplane
                    .additional_addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                gateway: dataplane.gateway.as_ref().map(|gateway| GatewaySpec {
                    kind: Some(match gateway.kind {
                        model::GatewayKind::Delegated => "DELEGATED".to_owned(),
                    }),
                    tags: gateway.tags.clone(),
                }),
                inbound: dataplane.inbounds.iter().map(InboundSpec::from).collect(),
                transparent_proxying: dataplane.transparent_proxying.as_ref().map(Into::into),
                admin: dataplane.admin_port.map(|port| AdminSpec { port }),
            },
            metrics: dataplane.metrics.as_ref().map(MetricsSpec::from),
            probes: dataplane.probes.as_ref().map(ProbesSpec::from),
        }
    }
}

impl From<&model::Inbound> for InboundSpec {
    fn from(inbound: &model::Inbound) -> Self {
        Self {
            port: inbound.port,
            tags: inbound.tags.clone(),
            health: inbound.ready.map(|ready| Health { ready }),
        }
    }
}

impl From<&model::TransparentProxying> for TransparentProxyingSpec {
    fn from(settings: &model::TransparentProxying) -> Self {
        Self {
            redirect_port_inbound: settings.redirect_port_inbound,
            redirect_port_inbound_v6: settings.redirect_port_inbound_v6,
            redirect_port_outbound: settings.redirect_port_outbound,
            direct_access_services: settings.direct_access_services.clone(),
            reachable_services: settings.reachable_services.clone(),
        }
    }
}

impl From<&model::Metrics> for MetricsSpec {
    fn from(metrics: &model::Metrics) -> Self {
        let mut conf = serde_json::Map::new();
        if let Some(port) = metrics.port {
            conf.insert("port".to_owned(), port.into());
        }
        if let Some(path) = &metrics.path {
            conf.insert("path".to_owned(), path.as_str().into());
        }
        Self {
            kind: "prometheus".to_owned(),
            conf: conf.into(),
        }
    }
}

impl From<&model::Probes> for ProbesSpec {
    fn from(probes: &model::Probes) -> Self {
        let endpoints = probes.endpoints.iter().map(|probe| ProbeEndpoint {
            inbound_port: probe.inbound_port,
            inbound_path: probe.inbound_path.clone(),
            path: probe.path.clone(),
            protocol: (probe.protocol != model::ProbeProtocol::Http)
                .then(|| probe.protocol.as_str().to_owned()),
        });
        Self {
            port: probes.port,
            endpoints: endpoints.collect(),
        }
    }
}
