//! Converts the Pods of manifests to Dataplanes without an API server, for `kumactl`. The rules are the same as in the
//! control plane.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kermode_model::ObjectKey;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::facts::{IntermediateFacts, IntermediateId, NamespaceFacts, PodFacts, ServiceFacts};
use crate::convert::{
    ConvertError, ConvertSettings, ConvertWarning, DataplaneExplanation, convert, dataplane_object, explain,
    selecting_services, top_workload,
};

/// Address in the Dataplane of a Pod that has no IP; reserved for documentation (RFC 5737).
pub const PLACEHOLDER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// An object that cannot be decoded as its kind.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} cannot be decoded: {source}")]
pub struct InvalidObject {
    kind: String,
    name: String,
    source: serde_json::Error,
}

/// Result of converting one Pod.
#[derive(Clone, Debug)]
pub struct PodOutcome {
    /// Namespace and name of the Pod.
    pub pod: ObjectKey,
    /// The Dataplane as the control plane would write it, or the reason for its absence.
    pub dataplane: Result<Value, NoDataplane>,
    /// Warnings about likely unintended configuration.
    pub warnings: Vec<ConvertWarning>,
    /// Explanation of the Dataplane: the selecting Services, the inbounds and their tags.
    pub explanation: DataplaneExplanation,
    /// Whether the Pod has no IP, so that [`PLACEHOLDER_ADDRESS`] is used.
    pub has_placeholder_address: bool,
}

/// Reason why a Pod has no Dataplane. The text follows the name of the Pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDataplane {
    /// The Pod has no sidecar, or lacks the annotation that injection sets.
    #[error(
        "it has no sidecar, or its annotation kuma.io/sidecar-injected is not \"true\"; kumactl inject adds both"
    )]
    NotInjected,
    /// The Pod has finished: its phase is `Succeeded` or `Failed`.
    #[error("it has finished")]
    Finished,
    /// The Pod cannot be converted.
    #[error("{field}: {0}", field = .0.field())]
    Invalid(ConvertError),
}

/// Facts of the objects in the manifests. Contains only the kinds that conversion reads.
#[derive(Debug, Default)]
struct ManifestObjects {
    pods: Vec<PodFacts>,
    services: Vec<ServiceFacts>,
    namespaces: Vec<NamespaceFacts>,
    /// ReplicaSets and Jobs, which stand between a Pod and its top workload.
    intermediates: Vec<IntermediateFacts>,
}

/// Converts the Pods among `objects`, in their order. `default_namespace` is the namespace of objects without a
/// namespace. Kinds that conversion does not read are ignored.
///
/// # Errors
/// Fails if an object cannot be decoded. The error names the first such object.
pub fn convert_pods(
    objects: &[Value],
    default_namespace: &str,
    settings: &ConvertSettings,
) -> Result<Vec<PodOutcome>, InvalidObject> {
    let mut manifests = ManifestObjects::default();
    for object in objects {
        manifests.add(object, default_namespace)?;
    }
    let pods = manifests.pods.iter();
    Ok(pods.map(|pod| manifests.convert_pod(pod, settings)).collect())
}

impl ManifestObjects {
    fn add(&mut self, object: &Value, default_namespace: &str) -> Result<(), InvalidObject> {
        match object["kind"].as_str() {
            Some("Pod") => self.pods.push(PodFacts::from(&decode_namespaced::<Pod>(
                object,
                default_namespace,
            )?)),
            Some("Service") => self
                .services
                .push(ServiceFacts::from(&decode_namespaced::<Service>(
                    object,
                    default_namespace,
                )?)),
            Some("Namespace") => self
                .namespaces
                .push(NamespaceFacts::from(&decode::<Namespace>(object.clone())?)),
            Some("ReplicaSet") => self
                .intermediates
                .push(IntermediateFacts::from(&decode_namespaced::<ReplicaSet>(
                    object,
                    default_namespace,
                )?)),
            Some("Job") => self
                .intermediates
                .push(IntermediateFacts::from(&decode_namespaced::<Job>(
                    object,
                    default_namespace,
                )?)),
            _ => {}
        }
        Ok(())
    }

    fn convert_pod(&self, pod: &PodFacts, settings: &ConvertSettings) -> PodOutcome {
        let mut pod = pod.clone();
        let has_placeholder_address = pod.ip.is_none();
        pod.ip = pod.ip.or(Some(PLACEHOLDER_ADDRESS));
        let services: Vec<_> = self
            .services
            .iter()
            .filter(|service| service.key.namespace == pod.key.namespace)
            .collect();
        let intermediate = |id: &IntermediateId| self.intermediates.iter().find(|facts| facts.id == *id);
        let workload = top_workload(&pod, intermediate);
        let explanation = explain(&pod, &services, workload.as_ref(), settings);
        let namespace = self
            .namespaces
            .iter()
            .find(|namespace| namespace.name == pod.key.namespace);
        let selecting_services = selecting_services(services.iter().copied(), &pod);
        let mut warnings = Vec::new();
        let dataplane = if pod.is_injected() {
            match convert(&pod, &selecting_services, namespace, workload.as_ref(), settings) {
                Ok(Some(converted)) => {
                    warnings = converted.warnings;
                    Ok(dataplane_json(&converted.dataplane, &pod.uid))
                }
                Ok(None) => Err(NoDataplane::Finished),
                Err(error) => Err(NoDataplane::Invalid(error)),
            }
        } else {
            Err(NoDataplane::NotInjected)
        };
        PodOutcome {
            pod: pod.key,
            dataplane,
            warnings,
            explanation,
            has_placeholder_address,
        }
    }
}

fn dataplane_json(dataplane: &kermode_model::Dataplane, pod_uid: &Arc<str>) -> Value {
    // A Dataplane contains only strings, numbers and booleans, so encoding cannot fail.
    serde_json::to_value(dataplane_object(dataplane, pod_uid)).unwrap_or_default()
}

/// Decodes an object of a namespaced kind. `default_namespace` applies if the object names no namespace.
fn decode_namespaced<T: DeserializeOwned>(
    object: &Value,
    default_namespace: &str,
) -> Result<T, InvalidObject> {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata
            .entry("namespace")
            .or_insert_with(|| default_namespace.to_owned().into());
    }
    decode(object)
}

fn decode<T: DeserializeOwned>(object: Value) -> Result<T, InvalidObject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    serde_json::from_value(object).map_err(|source| InvalidObject { kind, name, source })
}
