//! The manifests of the control plane: the Kubernetes objects of an [`Installation`], and a Helm chart of the same objects.
//!
//! [`options`] declares the options, and [`template`] the objects that depend on them. `kumactl install control-plane`
//! sets options by its flags, and prints the objects. [`chart`] prints the options as values and the objects as templates
//! of Helm. `kumactl uninstall control-plane` prints only the API version, kind, name and namespace of each object, in
//! the order of [`removal()`].

pub mod chart;
mod checks;
mod cni;
mod configuration;
mod network_policy;
mod option;
mod rbac;
mod removal;
mod template;
mod webhooks;
mod workload;

use kermode_config::{Config, InvalidConfig};
use kermode_crds::{annotation, definition};
use serde_json::{Map, Value, json};

use template::{ObjectTemplate, evaluate, is_met, is_set};

pub use option::{Format, InstallOption, InvalidAssignment, Kind, Names, options};
pub use removal::{CustomResources, removal};
pub use workload::{CONFIG_FILE, CONFIG_MAP, POD_FIELD_VARIABLES, PORTS, Port};

/// An installation of the control plane: its namespace and the values of its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Namespace of the control plane. The caller has checked it.
    pub namespace: String,
    /// Values of all options, nested by their paths.
    values: Value,
}

/// An installation that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Some options have values that are refused, each described with a remedy.
    #[error("{}", lines(.0))]
    Options(Vec<String>),
    /// The control plane would not start with the configuration.
    #[error("{}", lines(.0.problems()))]
    Config(#[from] InvalidConfig),
}

/// Formats the problems, each on a line. All lines after the first are indented like the text after "Error: ".
fn lines(problems: &[impl ToString]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("\n       ")
}

// === impl Installation ===

impl Installation {
    /// Returns an installation in a namespace, with the default values of all options.
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            values: option::defaults(),
        }
    }

    /// Sets the option with this path. A map is merged into the default map.
    pub fn set(&mut self, path: &str, value: Value) {
        let mut changes = json!({});
        option::set(&mut changes, path, value);
        if let Value::Object(changes) = changes {
            self.merge(&changes);
        }
    }

    /// Merges values. Maps are merged, and `null` removes a key.
    fn merge(&mut self, values: &Map<String, Value>) {
        if let Value::Object(own) = &mut self.values {
            template::merge(own, values);
        }
    }

    /// Renders all objects, in the order in which they can be applied.
    ///
    /// # Errors
    /// If the value of an option is refused, or if the control plane would refuse the configuration.
    pub fn objects(&self) -> Result<Vec<Value>, InstallError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(InstallError::Options(problems));
        }
        // Reports what the control plane would refuse at its start, as problems of the flag `--set`.
        Config::load_content("--set", &configuration::content(self), |variable| {
            let variables = self.value("controlPlane.envVars");
            variables[variable].as_str().map(str::to_owned)
        })?;
        Ok(manifests()
            .into_iter()
            .flat_map(|manifest| manifest.objects)
            .filter(|template| {
                let condition = template.condition.as_ref();
                condition.is_none_or(|condition| is_met(condition, self))
            })
            .filter_map(|template| evaluate(&template.object, self))
            .collect())
    }

    /// Returns the problems of the values of all options, each with a remedy.
    pub fn problems(&self) -> Vec<String> {
        let options = options().iter();
        let of_values = options.flat_map(|option| option.check(self.value(option.path)));
        let mut problems: Vec<String> = of_values.collect();
        let refused = checks::all_checks()
            .into_iter()
            .filter(|check| is_met(&check.refused_if, self));
        problems.extend(refused.map(|check| Names::Flags.text(check.problem)));
        problems
    }

    /// Returns the value of an option; null if there is none.
    pub(crate) fn value(&self, path: &str) -> &Value {
        self.values
            .pointer(&option::pointer(path))
            .unwrap_or(&Value::Null)
    }

    /// Returns the text of an option; an empty text if the value is not a text.
    pub(crate) fn text(&self, path: &str) -> &str {
        self.value(path).as_str().unwrap_or_default()
    }
}

/// A file of the chart with templates of objects.
pub(crate) struct Manifest {
    /// Name of the file, without extension.
    pub(crate) name: &'static str,
    /// Templates of the objects, in the order in which they can be applied.
    pub(crate) objects: Vec<ObjectTemplate>,
}

/// Returns the templates of all objects, in the order in which they can be applied.
pub(crate) fn manifests() -> Vec<Manifest> {
    let manifest = |name, objects| Manifest { name, objects };
    let plain = |objects: Vec<Value>| objects.into_iter().map(ObjectTemplate::from).collect();
    vec![
        manifest(
            "namespace",
            vec![ObjectTemplate::conditional(
                is_set("createNamespace"),
                namespace(),
            )],
        ),
        manifest(CUSTOM_RESOURCE_DEFINITIONS, plain(definition::all())),
        manifest("service-account", plain(vec![workload::service_account()])),
        manifest("access-rights", plain(rbac::all())),
        manifest(
            "control-plane",
            vec![
                workload::config_map().into(),
                workload::service().into(),
                workload::deployment(),
                workload::disruption_budget(),
            ],
        ),
        manifest("network-policy", vec![network_policy::policy()]),
        // Before the webhooks: a Pod that is injected for the plugin waits for the plugin.
        manifest("cni", cni::all()),
        manifest(
            "webhooks",
            plain(vec![webhooks::mutating(), webhooks::validating()]),
        ),
    ]
}

/// Name of the manifest with the custom resource definitions.
pub(crate) const CUSTOM_RESOURCE_DEFINITIONS: &str = "custom-resource-definitions";

/// Name of the control plane's Deployment, Service, ServiceAccount, roles and role bindings. See
/// `docs/reference/names-and-ports.md#names`.
pub const NAME: &str = "kuma-control-plane";

/// Namespace of the control plane, which enforces Pod Security *restricted*.
fn namespace() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": template::namespace(),
            "labels": {
                annotation::SYSTEM_NAMESPACE: "true",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    })
}

/// Labels of the control plane's Pods and of all objects except the Namespace and the CustomResourceDefinitions.
pub(crate) fn labels() -> Value {
    json!({"app": NAME, "app.kubernetes.io/name": "kuma", "app.kubernetes.io/instance": "kuma"})
}

/// Metadata of an object in the control plane's namespace.
pub(crate) fn namespaced(name: &str) -> Value {
    json!({"name": name, "namespace": template::namespace(), "labels": labels()})
}

/// Reference to a field of a Pod. The API server adds `apiVersion` if it is missing. The reference would then differ from the
/// manifest, and another tool that applies the same manifest on the server would have a conflict.
pub(crate) fn field_ref(path: &str) -> Value {
    json!({"apiVersion": "v1", "fieldPath": path})
}

/// Metadata of a cluster-scoped object.
pub(crate) fn cluster_scoped(name: &str) -> Value {
    json!({"name": name, "labels": labels()})
}
