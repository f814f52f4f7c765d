//! Renders the manifests of the control plane: the Kubernetes objects of an [`Installation`].
//!
//! `kumactl install control-plane` converts its flags to an [`Installation`] and prints the objects. `kumactl uninstall
//! control-plane` prints only the API version, kind, name and namespace of each object, in the order of [`removal()`].

mod assignment;
mod cni;
mod configuration;
mod rbac;
mod removal;
mod webhooks;
mod workload;

use std::collections::BTreeMap;

use kermode_config::{Config, InvalidConfig};
use kermode_crds::{annotation, definition};
use kermode_manifests::{ManifestError, yaml};
use serde_json::{Value, json};

pub use assignment::InvalidAssignment;
pub use removal::{CustomResources, removal};
pub use workload::{CONFIG_FILE, CONFIG_MAP, POD_FIELD_VARIABLES, PORTS, Port};

/// Settings of an installation. The caller has checked all settings except the assignments.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Namespace of the control plane.
    pub namespace: String,
    /// Name of the zone, the value of the tag `kuma.io/zone`; `None` for no tag.
    pub zone: Option<String>,
    /// Number of replicas of the control plane.
    pub replicas: u16,
    /// Images of all containers.
    pub images: Images,
    /// Names of the Secrets with credentials for the registry, for the control plane's Pods and for injected Pods.
    pub image_pull_secrets: Vec<String>,
    /// Failure policy of the injector's webhooks that match the label `kuma.io/sidecar-injection: enabled` of a Pod or
    /// of its Namespace.
    pub injector_failure_policy: FailurePolicy,
    /// Environment variables of the control plane, in addition to [`POD_FIELD_VARIABLES`].
    pub environment: BTreeMap<String, String>,
    /// Assignments `path=value` that set values of the configuration file, in order of application.
    pub assignments: Vec<String>,
    /// Address of the webhooks.
    pub webhook_address: WebhookAddress,
    /// CNI plugin that redirects the traffic of Pods; `None` for the init container.
    pub cni: Option<Cni>,
    /// Whether the manifests contain a Deployment. Without it, the control plane runs outside of the cluster.
    pub with_deployment: bool,
}

/// Full names of the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Image of `kuma-cp`.
    pub control_plane: String,
    /// Image of `kuma-dp`.
    pub sidecar: String,
    /// Image of `kuma-init`.
    pub init: String,
}

/// Installation of the CNI plugin on the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// Image of `kuma-cni`.
    pub image: String,
    /// Folder of the nodes with network configurations, an absolute path.
    pub network_folder: String,
    /// Folder of the nodes with plugins, an absolute path.
    pub program_folder: String,
    /// Name of the configuration that the plugin is added to, or that the plugin gets if it is not chained. By default,
    /// the first valid configuration, or `kuma-cni.conf`.
    pub network_name: Option<String>,
    /// Whether the plugin is added to an existing configuration.
    pub is_chained: bool,
}

/// Address at which the API server calls the webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookAddress {
    /// The control plane's Service.
    Service,
    /// An https URL without a slash at its end.
    Url(String),
}

/// Failure policy of a webhook: the API server's response to a request if the webhook cannot be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// Denies the request.
    Fail,
    /// Admits the request.
    Ignore,
}

/// An installation that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Some assignments cannot be used.
    #[error("{}", lines(.0))]
    Assignments(Vec<InvalidAssignment>),
    /// The control plane would not start with the configuration.
    #[error("{}", lines(.0.problems()))]
    Config(#[from] InvalidConfig),
    /// The configuration file cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Formats the problems, each on a line. All lines after the first are indented like the text after "Error: ".
fn lines(problems: &[impl ToString]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("\n       ")
}

// === impl FailurePolicy ===

impl FailurePolicy {
    /// Returns the value in a webhook registration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}

// === impl Installation ===

impl Installation {
    /// Renders all objects, in the order in which they can be applied.
    ///
    /// # Errors
    /// If an assignment cannot be used, if the control plane would refuse the configuration, or if the configuration
    /// file cannot be written as YAML.
    pub fn objects(&self) -> Result<Vec<Value>, InstallError> {
        let config = configuration::file(self)?;
        // Reports what the control plane would refuse at its start, as problems of `--set`, the flag of an assignment.
        Config::load_content("--set", &config, |variable| {
            self.environment.get(variable).cloned()
        })?;
        let config = yaml::document(&config)?;
        let mut objects = vec![namespace(self)];
        objects.extend(definition::all());
        objects.push(workload::service_account(self));
        objects.extend(rbac::all(self));
        objects.push(workload::config_map(self, &config));
        objects.push(workload::service(self));
        if self.with_deployment {
            objects.push(workload::deployment(self, &config));
            objects.extend(workload::disruption_budget(self));
        }
        // Before the webhooks: a Pod that is injected for the plugin waits for the plugin.
        objects.extend(cni::all(self));
        objects.push(webhooks::mutating(self));
        objects.push(webhooks::validating(self));
        Ok(objects)
    }
}

/// Name of the control plane's Deployment, Service, ServiceAccount, roles and role bindings. See
/// `docs/reference/names-and-ports.md#names`.
pub const NAME: &str = "kuma-control-plane";

/// Namespace of the control plane, which enforces Pod Security *restricted*.
fn namespace(installation: &Installation) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": installation.namespace,
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
pub(crate) fn namespaced(name: &str, installation: &Installation) -> Value {
    json!({"name": name, "namespace": installation.namespace, "labels": labels()})
}

/// Metadata of a cluster-scoped object.
pub(crate) fn cluster_scoped(name: &str) -> Value {
    json!({"name": name, "labels": labels()})
}
