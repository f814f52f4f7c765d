//! Documents to documents: every Pod in them goes through injection, everything else stays as it is written.

use anyhow::{Context as _, Result};
use kermode_inject::workload::{misplaced_request, pod_pointer};
use kermode_inject::{Context, InjectionExplanation, Namespace, Outcome, explain};
use serde_json::{Value, json};

use super::config::Config;
use super::world::{Texts, World};
use crate::documents::{Document, is_list, with_kind_of};
use crate::yaml;

/// Injects into manifests.
pub(crate) struct Injector<'a> {
    pub(crate) config: &'a Config,
    pub(crate) world: &'a World,
    pub(crate) ca_pem: &'a str,
    /// Namespace of objects that name none.
    pub(crate) namespace: &'a str,
}

/// What came of manifests.
#[derive(Debug)]
pub(crate) struct Manifests {
    /// The documents, in their order.
    pub(crate) text: String,
    /// Everything that is or makes Pods, in its order.
    pub(crate) workloads: Vec<Workload>,
}

/// An object that is or makes Pods.
#[derive(Debug)]
pub(crate) struct Workload {
    /// `Deployment shop/api`, for example.
    pub(crate) name: String,
    /// What had to be assumed.
    pub(crate) assumptions: Vec<String>,
    /// What is said of the object around the Pod.
    pub(crate) warning: Option<String>,
    /// The decision on its Pod.
    pub(crate) explanation: InjectionExplanation,
}

// === impl Manifests ===

impl Manifests {
    /// Whether a Pod is refused.
    pub(crate) fn is_refused(&self) -> bool {
        let mut workloads = self.workloads.iter();
        workloads.any(|workload| workload.explanation.result.is_err())
    }
}

// === impl Workload ===

impl Workload {
    pub(crate) fn is_injected(&self) -> bool {
        matches!(self.explanation.result, Ok(Outcome::Injected(_)))
    }

    /// Everything that the user should know.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = &String> {
        let of_pod = match &self.explanation.result {
            Ok(Outcome::Injected(injection)) => injection.warnings.as_slice(),
            _ => &[],
        };
        self.warning.iter().chain(of_pod)
    }
}

// === impl Injector ===

impl Injector<'_> {
    /// Injects into all documents.
    pub(crate) fn inject(&self, documents: Vec<Document>) -> Result<Manifests> {
        let (mut text, mut workloads) = (String::new(), Vec::new());
        for mut document in documents {
            let before = workloads.len();
            self.object(&mut document.value, &mut workloads)?;
            let changed = workloads.iter().skip(before).any(Workload::is_injected);
            text.push_str("---\n");
            if changed {
                text.push_str(&yaml::document(&document.value)?);
            } else {
                text.push_str(&document.text);
            }
        }
        Ok(Manifests { text, workloads })
    }

    fn object(&self, object: &mut Value, workloads: &mut Vec<Workload>) -> Result<()> {
        if is_list(object) {
            let header = json!({"apiVersion": object["apiVersion"], "kind": object["kind"]});
            let items = object["items"].as_array_mut().into_iter().flatten();
            for item in items {
                *item = with_kind_of(&header, item.take());
                self.object(item, workloads)?;
            }
            return Ok(());
        }
        if let Some(pointer) = pod_pointer(object) {
            workloads.push(self.workload(object, pointer)?);
        }
        Ok(())
    }

    fn workload(&self, object: &mut Value, pointer: &str) -> Result<Workload> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let metadata = &object["metadata"];
        let own_name = text(&metadata["name"]).or_else(|| text(&metadata["generateName"]));
        let own_name = own_name.unwrap_or_else(|| "without a name".to_owned());
        let namespace = text(&metadata["namespace"]).unwrap_or_else(|| self.namespace.to_owned());
        let name = format!(
            "{} {namespace}/{own_name}",
            object["kind"].as_str().unwrap_or_default()
        );
        let warning = misplaced_request(object);
        let pod = object.pointer_mut(pointer).context("the Pod has gone")?;
        let mut assumptions = self.assumptions(&namespace);
        let mut arriving = pod.clone();
        if !pointer.is_empty() {
            name_after(&own_name, &mut arriving);
        }
        assumptions.extend(with_defaults(&mut arriving));
        let explanation = self.decide(&arriving, &namespace);
        if let Ok(Outcome::Injected(injection)) = &explanation.result {
            if pod["metadata"].is_null() {
                pod["metadata"] = json!({});
            }
            let applied = json_patch::patch(pod, &injection.patch);
            applied.with_context(|| format!("{name}: the answer does not apply"))?;
        }
        Ok(Workload {
            name,
            assumptions,
            warning,
            explanation,
        })
    }

    fn decide(&self, pod: &Value, namespace: &str) -> InjectionExplanation {
        let unknown = Texts::default();
        let texts = self.world.namespace(namespace).unwrap_or(&unknown);
        let url = self.config.control_plane_url();
        let context = Context {
            namespace: Namespace {
                name: namespace,
                labels: &texts.labels,
                annotations: &texts.annotations,
            },
            control_plane_url: &url,
            control_plane_ca_pem: self.ca_pem,
            mesh_exists: &|name| self.world.has_mesh(name),
            container_patch: &|name| self.world.container_patch(name),
        };
        explain(pod, self.config.settings(), &context)
    }

    fn assumptions(&self, namespace: &str) -> Vec<String> {
        let mut assumptions = Vec::new();
        if self.world.namespace(namespace).is_none() {
            assumptions.push(format!(
                "Namespace {namespace} is not among the objects: taken to have no labels and annotations"
            ));
        }
        if !self.world.knows_meshes() {
            assumptions.push("no Mesh is among the objects: default is taken to exist".to_owned());
        }
        assumptions
    }
}

/// A template has no name, its Pods get one that begins with that of the workload.
fn name_after(workload: &str, template: &mut Value) {
    if template["metadata"].is_null() {
        template["metadata"] = json!({});
    }
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.insert("generateName".to_owned(), format!("{workload}-").into());
    }
}

/// What the API server fills in before it asks the webhook, and matters to it.
fn with_defaults(pod: &mut Value) -> Option<String> {
    const GRACE_PERIOD: &str = "terminationGracePeriodSeconds";
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    if spec.get(GRACE_PERIOD).is_some_and(|seconds| !seconds.is_null()) {
        return None;
    }
    spec.insert(GRACE_PERIOD.to_owned(), 30.into());
    Some(format!(
        "spec.{GRACE_PERIOD} is absent: the API server makes it 30"
    ))
}
