//! What is kept of a Service.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kermode_crds::annotation;
use kermode_model::{ObjectKey, Protocol, ServiceName};

use super::super::protocol;
use super::{Pairs, is_tcp, port_number};

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Labels of the pods behind it; empty when it selects none by itself.
    pub selector: Pairs,
    /// Its TCP ports, in its order.
    pub ports: Box<[ServicePortFacts]>,
    /// Its ClusterIPs, one for each IP family; none for a headless Service.
    pub cluster_ips: Box<[IpAddr]>,
    /// Whether its ClusterIP is `None`: clients address the pods one by one.
    pub headless: bool,
    /// Whether it only names a host outside the cluster (type `ExternalName`).
    pub external_name: bool,
    /// Its annotations with `kuma.io/` in the key.
    pub annotations: Pairs,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePortFacts {
    /// The number clients use.
    pub number: u16,
    /// Where it leads in a pod.
    pub target: TargetPort,
    /// What it says is spoken there, as far as that is known.
    pub protocol: Option<Protocol>,
    /// `number` as text: made once here, shared by the tags of every pod behind the Service.
    pub(crate) number_text: Arc<str>,
    /// `kuma.io/service` of the inbounds behind it, shared likewise.
    pub(crate) service_name: ServiceName,
}

/// Where a Service's port leads in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// To this port, whether or not a container declares it.
    Number(u16),
    /// To the container port of that name, which may differ from pod to pod.
    Name(Arc<str>),
}

impl ServiceFacts {
    /// Whether its pods get inbounds of it: it selects some, is in the cluster and not to be ignored.
    pub fn takes_part(&self) -> bool {
        let ignored = self
            .annotations
            .get(annotation::IGNORE)
            .is_some_and(|value| annotation::parse_bool(annotation::IGNORE, value) == Ok(true));
        !self.selector.is_empty() && !self.external_name && !ignored
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
            selector: Pairs::all(spec.selector.as_ref()),
            ports: ports
                .filter_map(|port| ServicePortFacts::new(&key, &annotations, port))
                .collect(),
            headless: cluster_ips.iter().any(|ip| ip == "None"),
            cluster_ips: cluster_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            annotations,
            key,
        }
    }
}

impl ServicePortFacts {
    fn new(service: &ObjectKey, annotations: &Pairs, port: &ServicePort) -> Option<Self> {
        if !is_tcp(port.protocol.as_ref()) {
            return None;
        }
        let number = port_number(port.port)?;
        let target = match &port.target_port {
            // The API server fills an omitted target in; 0 is how older clients omit it.
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(port_number(*target)?),
            Some(IntOrString::String(name)) => TargetPort::Name(name.as_str().into()),
        };
        let number_text: Arc<str> = number.to_string().into();
        let by_annotation = annotations.get(&format!("{number_text}{}", annotation::PORT_PROTOCOL_SUFFIX));
        Some(Self {
            number,
            target,
            protocol: protocol::declared(port.app_protocol.as_deref(), by_annotation.map(AsRef::as_ref)),
            number_text,
            service_name: ServiceName::of_port(&service.name, &service.namespace, number),
        })
    }

    /// `kuma.io/service` of the inbounds behind this port.
    pub fn service_name(&self) -> &ServiceName {
        &self.service_name
    }
}
