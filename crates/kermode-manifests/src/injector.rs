//! Injects sidecars into the Pods and Pod templates of manifests. A document without an injected Pod keeps its text.

use kermode_config::Config;
use kermode_inject::workload::{misplaced_request, pod_pointer};
use kermode_inject::{Context, InjectionExplanation, Namespace, Outcome, explain};
use serde_json::{Value, json};

use crate::cluster::{ClusterObjects, NamespaceMetadata};
use crate::documents::{Document, is_list, with_kind_from_list};
use crate::{ManifestError, yaml};

/// Injector of manifests, with the configuration and the objects that the control plane would read from the cluster.
pub struct Injector<'a> {
    /// Configuration of the control plane.
    pub config: &'a Config,
    /// Objects of the cluster.
    pub cluster: &'a ClusterObjects,
    /// CA certificates in PEM, which sidecars use to verify the control plane's certificate.
    pub ca_pem: &'a str,
    /// Namespace of objects without a namespace.
    pub namespace: &'a str,
}

/// Result of an injection into manifests.
#[derive(Debug)]
pub struct InjectedManifests {
    /// Documents after the injection, in the order of the input.
    pub text: String,
    /// Decisions on the Pods and on the workloads with a Pod template, in the order of the input.
    pub outcomes: Vec<WorkloadOutcome>,
}

/// Decision on a Pod, or on a workload with a Pod template.
#[derive(Debug)]
pub struct WorkloadOutcome {
    /// Kind, namespace and name, for example `Deployment shop/api`.
    pub name: String,
    /// Assumptions about the cluster that the decision depends on.
    pub assumptions: Vec<String>,
    /// Warning about a label or annotation that requests injection in the metadata of the workload instead of its Pod
    /// template, where the request has no effect.
    pub warning: Option<String>,
    /// Decision on the Pod, with the steps that led to it.
    pub explanation: InjectionExplanation,
}

// === impl InjectedManifests ===

impl InjectedManifests {
    /// Whether at least one Pod is denied.
    pub fn contains_denial(&self) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|outcome| outcome.explanation.result.is_err())
    }
}

// === impl WorkloadOutcome ===

impl WorkloadOutcome {
    /// Whether the Pod is injected.
    pub fn is_injected(&self) -> bool {
        matches!(self.explanation.result, Ok(Outcome::Injected(_)))
    }

    /// Returns the warnings about the workload and its Pod.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let of_pod = match &self.explanation.result {
            Ok(Outcome::Injected(injection)) => injection.warnings.clone(),
            Ok(Outcome::Skipped(reason)) => reason.warning().into_iter().collect(),
            Err(_) => Vec::new(),
        };
        self.warning.clone().into_iter().chain(of_pod)
    }
}

// === impl Injector ===

impl Injector<'_> {
    /// Injects into all documents.
    ///
    /// # Errors
    /// If a patch does not apply or a document cannot be written. A denied Pod is not an error.
    pub fn inject(&self, documents: Vec<Document>) -> Result<InjectedManifests, ManifestError> {
        let (mut text, mut outcomes) = (String::new(), Vec::new());
        for mut document in documents {
            let previous_count = outcomes.len();
            self.inject_object(&mut document.value, &mut outcomes)?;
            let changed = outcomes
                .iter()
                .skip(previous_count)
                .any(WorkloadOutcome::is_injected);
            text.push_str("---\n");
            if changed {
                text.push_str(&yaml::document(&document.value)?);
            } else {
                text.push_str(&document.text);
            }
        }
        Ok(InjectedManifests { text, outcomes })
    }

    /// Injects into one object, or into the items of a List, and appends the decisions to `outcomes`.
    fn inject_object(
        &self,
        object: &mut Value,
        outcomes: &mut Vec<WorkloadOutcome>,
    ) -> Result<(), ManifestError> {
        if is_list(object) {
            let list_type = json!({"apiVersion": object["apiVersion"], "kind": object["kind"]});
            let items = object["items"].as_array_mut().into_iter().flatten();
            for item in items {
                *item = with_kind_from_list(&list_type, item.take());
                self.inject_object(item, outcomes)?;
            }
            return Ok(());
        }
        if let Some(pointer) = pod_pointer(object) {
            outcomes.push(self.inject_pod_at(object, pointer)?);
        }
        Ok(())
    }

    /// Injects into the Pod or Pod template at a JSON pointer of an object; an empty pointer means that the object is a Pod.
    ///
    /// # Errors
    /// If the patch does not apply. A denied Pod is not an error.
    pub fn inject_pod_at(&self, object: &mut Value, pointer: &str) -> Result<WorkloadOutcome, ManifestError> {
        let string = |value: &Value| value.as_str().map(str::to_owned);
        let metadata = &object["metadata"];
        let object_name = string(&metadata["name"]).or_else(|| string(&metadata["generateName"]));
        let object_name = object_name.unwrap_or_else(|| "without a name".to_owned());
        let namespace = string(&metadata["namespace"]).unwrap_or_else(|| self.namespace.to_owned());
        let name = format!(
            "{} {namespace}/{object_name}",
            object["kind"].as_str().unwrap_or_default()
        );
        let warning = misplaced_request(object);
        // `pod_pointer` returns only pointers to existing values, so the fallback `absent` is never used.
        let mut absent = Value::Null;
        let pod = object.pointer_mut(pointer).unwrap_or(&mut absent);
        let mut assumptions = self.cluster_assumptions(&namespace);
        // The Pod as the webhook would receive it from the API server. An empty pointer means that the object is a Pod.
        let mut reviewed = pod.clone();
        if !pointer.is_empty() {
            set_generate_name(&object_name, &mut reviewed);
        }
        assumptions.extend(set_default_grace_period(&mut reviewed));
        let explanation = self.decide(&reviewed, &namespace);
        if let Ok(Outcome::Injected(injection)) = &explanation.result {
            if pod["metadata"].is_null() {
                pod["metadata"] = json!({});
            }
            let applied = json_patch::patch(pod, &injection.patch);
            applied.map_err(|source| ManifestError::Patch {
                object: name.clone(),
                source,
            })?;
        }
        Ok(WorkloadOutcome {
            name,
            assumptions,
            warning,
            explanation,
        })
    }

    /// Decides on a Pod as the webhook would. A Namespace that is not among the objects counts as one without labels
    /// and annotations.
    fn decide(&self, pod: &Value, namespace: &str) -> InjectionExplanation {
        let empty = NamespaceMetadata::default();
        let metadata = self.cluster.namespace(namespace).unwrap_or(&empty);
        let url = self.config.control_plane_url();
        let context = Context {
            namespace: Namespace {
                name: namespace,
                labels: &metadata.labels,
                annotations: &metadata.annotations,
            },
            control_plane_url: &url,
            control_plane_ca_pem: self.ca_pem,
            mesh_exists: &|name| self.cluster.mesh_exists(name),
            container_patch: &|name| self.cluster.container_patch(name),
            oldest_node: self.cluster.oldest_node(),
        };
        explain(pod, self.config.injector(), &context)
    }

    /// Returns the assumptions about the cluster that replace missing objects.
    fn cluster_assumptions(&self, namespace: &str) -> Vec<String> {
        let mut assumptions = Vec::new();
        if self.cluster.namespace(namespace).is_none() {
            assumptions.push(format!(
                "Namespace {namespace} is not among the objects: assumed to have no labels and no annotations"
            ));
        }
        if !self.cluster.contains_meshes() {
            assumptions.push("no Mesh is among the objects: Mesh default is assumed to exist".to_owned());
        }
        assumptions
    }
}

/// Sets `generateName` in a Pod template, as the workload's controller sets it in its Pods.
fn set_generate_name(workload_name: &str, template: &mut Value) {
    if template["metadata"].is_null() {
        template["metadata"] = json!({});
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.insert("generateName".to_owned(), format!("{workload_name}-").into());
    }
}

/// Sets the termination grace period if it is absent, as the API server does. Returns a text that says so, or `None` if
/// the Pod already has a grace period.
fn set_default_grace_period(pod: &mut Value) -> Option<String> {
    const GRACE_PERIOD: &str = "terminationGracePeriodSeconds";
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    if spec.get(GRACE_PERIOD).is_some_and(|seconds| !seconds.is_null()) {
        return None;
    }
    spec.insert(GRACE_PERIOD.to_owned(), 30.into());
    Some(format!(
        "spec.{GRACE_PERIOD} is absent: the API server sets it to 30"
    ))
}
