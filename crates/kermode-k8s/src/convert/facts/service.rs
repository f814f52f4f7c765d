//! Facts of Services: the fields that the control plane reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kermode_crds::annotation;
use kermode_model::view::Balancing;
use kermode_model::{ObjectKey, Protocol, ServiceName};

use super::super::protocol;
use super::{Pairs, is_tcp, port_number};

/// Facts of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID, for Events about the Service.
    pub uid: Arc<str>,
    /// Selector of Pods; empty if the Service has no selector.
    pub selector: Pairs,
    /// TCP ports, in the order of the Service.
    pub ports: Box<[ServicePortFacts]>,
    /// Whether the Service has ports of other protocols than TCP.
    pub has_non_tcp_ports: bool,
    /// ClusterIPs, one for each IP family; empty for a headless Service or an ExternalName Service.
    pub cluster_ips: Box<[IpAddr]>,
    /// Whether the ClusterIP is `None`: clients address individual Pods.
    pub is_headless: bool,
    /// Choice of the endpoint for a connection to a ClusterIP.
    pub balancing: Balancing,
    /// Whether the type is `ExternalName`.
    pub is_external_name: bool,
    /// Annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortFacts {
    /// Name of the port; empty if the Service has a single port without a name.
    pub name: Arc<str>,
    /// Port number for clients.
    pub number: u16,
    /// Target port in Pods.
    pub target: TargetPort,
    /// Application protocol that the Service declares; `None` if it declares no protocol or an unknown protocol.
    pub declared_protocol: Option<Protocol>,
    /// `number` as a string. All Pods of the Service share this allocation in their tags.
    pub(crate) number_text: Arc<str>,
    /// Value of the tag `kuma.io/service` in the inbounds of this port.
    pub(crate) service_name: ServiceName,
}

/// Target port of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// Port number. A container may listen on the port without declaring the port.
    Number(u16),
    /// Name of a container port. The number of the port may differ between Pods.
    Name(Arc<str>),
}

impl ServiceFacts {
    /// Whether the Service yields inbounds: it has a selector, its type is not ExternalName, and it does not have the
    /// annotation `kuma.io/ignore`.
    pub fn yields_inbounds(&self) -> bool {
        !self.selector.is_empty() && self.takes_part_in_the_mesh()
    }

    /// Whether the endpoints of the Service come from EndpointSlices that a user or operator writes: the Service has no
    /// selector, its type is not ExternalName, and it does not have the annotation `kuma.io/ignore`.
    pub fn takes_endpoints_from_slices(&self) -> bool {
        self.selector.is_empty() && self.takes_part_in_the_mesh()
    }

    fn takes_part_in_the_mesh(&self) -> bool {
        let is_ignored = self
            .annotations
            .get(annotation::IGNORE)
            .is_some_and(|value| annotation::parse_bool(annotation::IGNORE, value) == Ok(true));
        !self.is_external_name && !is_ignored
    }
}

impl From<&Service> for ServiceFacts {
    fn from(service: &Service) -> Self {
        let key = super::pod::key_of(&service.metadata);
        let annotations = Pairs::kuma_only(service.metadata.annotations.as_ref());
        let spec = service.spec.clone().unwrap_or_default();
        let cluster_ips = match (&spec.cluster_ips, &spec.cluster_ip) {
            (Some(ips), _) if !ips.is_empty() => ips.clone(),
            (_, ip) => ip.iter().cloned().collect(),
        };
        let ports = spec.ports.iter().flatten();
        Self {
            uid: service.metadata.uid.as_deref().unwrap_or_default().into(),
            has_non_tcp_ports: ports.clone().any(|port| !is_tcp(port.protocol.as_ref())),
            selector: Pairs::all(spec.selector.as_ref()),
            ports: ports
                .filter_map(|port| ServicePortFacts::new(&key, &annotations, port))
                .collect(),
            is_headless: cluster_ips.iter().any(|ip| ip == "None"),
            cluster_ips: cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            balancing: balancing(&spec, service.metadata.annotations.as_ref()),
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            annotations,
            key,
        }
    }
}

/// Annotations in place of the field `trafficDistribution` in older versions of Kubernetes.
/// As in kube-proxy, the first one takes precedence.
/// <https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/>
const TOPOLOGY_ANNOTATIONS: [&str; 2] = [
    "service.kubernetes.io/topology-aware-hints",
    "service.kubernetes.io/topology-mode",
];

/// Returns the balancing of a Service (docs/reference/envoy.md#balancing). If the choice depends on the client's node,
/// this node chooses the endpoint: it knows its own endpoints and the hints in EndpointSlices, and applies the session
/// affinity of its clients.
fn balancing(spec: &ServiceSpec, annotations: Option<&BTreeMap<String, String>>) -> Balancing {
    if spec.internal_traffic_policy.as_deref() == Some("Local") || prefers_near_endpoints(spec, annotations) {
        Balancing::LeftToNode
    } else if spec.session_affinity.as_deref() == Some("ClientIP") {
        Balancing::ByClient
    } else {
        Balancing::RoundRobin
    }
}

/// Whether Kubernetes writes hints into the EndpointSlices of the Service, so that clients prefer endpoints in their zone
/// or on their node. Kubernetes writes no hints for a Service without selector.
fn prefers_near_endpoints(spec: &ServiceSpec, annotations: Option<&BTreeMap<String, String>>) -> bool {
    let has_selector = spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.is_empty());
    let has_distribution = spec
        .traffic_distribution
        .as_ref()
        .is_some_and(|distribution| !distribution.is_empty());
    let mut values = TOPOLOGY_ANNOTATIONS
        .into_iter()
        .filter_map(|key| annotations?.get(key));
    let has_annotation = values
        .next()
        .is_some_and(|value| matches!(value.as_str(), "Auto" | "auto"));
    has_selector && (has_distribution || has_annotation)
}

impl ServicePortFacts {
    fn new(service: &ObjectKey, annotations: &Pairs, port: &ServicePort) -> Option<Self> {
        if !is_tcp(port.protocol.as_ref()) {
            return None;
        }
        let number = port_number(port.port)?;
        let target = match &port.target_port {
            // An omitted target port defaults to the port. Older clients send 0 instead of omitting the target port.
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(port_number(*target)?),
            Some(IntOrString::String(name)) => TargetPort::Name(name.as_str().into()),
        };
        let number_text: Arc<str> = number.to_string().into();
        let annotated_protocol =
            annotations.get(&format!("{number_text}{}", annotation::PORT_PROTOCOL_SUFFIX));
        Some(Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            number,
            target,
            declared_protocol: protocol::declared(
                port.app_protocol.as_deref(),
                annotated_protocol.map(AsRef::as_ref),
            ),
            number_text,
            service_name: ServiceName::of_port(&service.name, &service.namespace, number),
        })
    }

    /// Returns the value of the tag `kuma.io/service` in the inbounds of this port.
    pub fn service_name(&self) -> &ServiceName {
        &self.service_name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn local_traffic_policy_takes_precedence_over_session_affinity() {
        let balancing = |spec: Value| {
            let service = json!({"metadata": {"name": "web", "namespace": "demo"}, "spec": spec});
            let service: Service = serde_json::from_value(service).expect("a Service");
            ServiceFacts::from(&service).balancing
        };
        let (policy, affinity) = ("internalTrafficPolicy", "sessionAffinity");
        assert_eq!(balancing(json!({})), Balancing::RoundRobin);
        assert_eq!(
            balancing(json!({policy: "Cluster", affinity: "None"})),
            Balancing::RoundRobin
        );
        assert_eq!(balancing(json!({affinity: "ClientIP"})), Balancing::ByClient);
        assert_eq!(balancing(json!({policy: "Local"})), Balancing::LeftToNode);
        assert_eq!(
            balancing(json!({policy: "Local", affinity: "ClientIP"})),
            Balancing::LeftToNode
        );
    }

    #[test]
    fn node_chooses_the_endpoint_if_kubernetes_writes_hints_for_the_service() {
        let balancing = |annotations: Value, spec: Value| {
            let service = json!({"metadata": {"annotations": annotations}, "spec": spec});
            let service: Service = serde_json::from_value(service).expect("a Service");
            ServiceFacts::from(&service).balancing
        };
        let selector = json!({"app": "web"});
        for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
            let spec = json!({"selector": selector, "trafficDistribution": distribution, "sessionAffinity": "ClientIP"});
            assert_eq!(
                balancing(json!({}), spec),
                Balancing::LeftToNode,
                "{distribution}"
            );
        }
        let selects = json!({"selector": selector});
        for (key, value, expected) in [
            ("topology-mode", "Auto", Balancing::LeftToNode),
            ("topology-aware-hints", "auto", Balancing::LeftToNode),
            ("topology-mode", "Disabled", Balancing::RoundRobin),
        ] {
            let annotations = json!({format!("service.kubernetes.io/{key}"): value});
            assert_eq!(
                balancing(annotations, selects.clone()),
                expected,
                "{key}: {value}"
            );
        }
        let contradicting = json!({
            "service.kubernetes.io/topology-aware-hints": "Disabled",
            "service.kubernetes.io/topology-mode": "Auto",
        });
        assert_eq!(
            balancing(contradicting, selects),
            Balancing::RoundRobin,
            "the older annotation takes precedence"
        );
        assert_eq!(
            balancing(json!({}), json!({"trafficDistribution": "PreferClose"})),
            Balancing::RoundRobin,
            "without selector"
        );
    }
}
