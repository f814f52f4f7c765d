//! Facts about a cluster, which the caller collects.

use std::time::SystemTime;

use kermode_explain::ObservedCluster;
use kermode_model::KubernetesVersion;

use crate::census::Census;

/// End of the names of the injector's webhooks in the MutatingWebhookConfiguration.
const INJECTOR_WEBHOOK: &str = "kuma-injector.kuma.io";

/// Facts about a cluster.
#[derive(Debug)]
pub struct Facts {
    /// Version of `kumactl`.
    pub kumactl_version: String,
    /// Version of the API server; `None` if it cannot be read.
    pub api_server_version: Option<KubernetesVersion>,
    /// Clocks at the same moment; `None` if the API server sends no time.
    pub clocks: Option<Clocks>,
    /// Whether the API server has registrations of webhooks; `None` if this is not known.
    pub serves_admission_registrations: Option<bool>,
    /// Permissions of the user for the objects of an installation. Empty unless the cluster is checked before an
    /// installation.
    pub permissions: Vec<Permission>,
    /// Result of the attempt to create a Pod in a dry run.
    pub dry_run: DryRun,
    /// Nodes, Namespaces, Meshes, ContainerPatches, registrations of webhooks; the Deployment, the DaemonSet and the
    /// Leases of the installation; Secrets with certificates of CAs; and the Pods of the control plane.
    pub cluster: ObservedCluster,
    /// Custom resources of the mesh that the API server does not serve, with their API group; or the reason why this is
    /// not known.
    pub missing_definitions: Result<Vec<String>, String>,
    /// Pods and Dataplanes of the mesh; or the reason why they could not be read.
    pub census: Option<Result<Census, String>>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            kumactl_version: String::new(),
            api_server_version: None,
            clocks: None,
            serves_admission_registrations: None,
            permissions: Vec::new(),
            dry_run: DryRun::NotTried("no Pod was created".to_owned()),
            cluster: ObservedCluster::default(),
            missing_definitions: Err("they were not read".to_owned()),
            census: None,
        }
    }
}

/// Clocks at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Clock of this machine, in the middle between the request and the response.
    pub local: SystemTime,
    /// Clock of the API server, in whole seconds.
    pub api_server: SystemTime,
}

/// Permission of the user for one verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Verb.
    pub verb: &'static str,
    /// Resource with its API group, as `kubectl auth can-i` takes it.
    pub resource: String,
    /// Namespace; `None` for a cluster-scoped resource.
    pub namespace: Option<String>,
    /// Whether the user has the permission.
    pub is_allowed: bool,
}

/// Result of the creation of a labelled Pod in a dry run, in a namespace in which the injector is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// Nothing was created, for this reason.
    NotTried(String),
    /// The Pod got a sidecar.
    Injected,
    /// The Pod was created without a sidecar.
    NotInjected,
    /// The injector denied the Pod, with this message.
    Denied(String),
    /// The API server could not call the injector, with this message.
    Unreachable(String),
}

impl DryRun {
    /// Classifies the error message of the API server, which refused to create the Pod with HTTP status `code`. `None`
    /// if the error says nothing about the injector, for example because another webhook denies the Pod.
    pub fn of_error(code: u16, message: &str) -> Option<Self> {
        if names_injector(message, "failed calling webhook \"") {
            return Some(Self::Unreachable(message.to_owned()));
        }
        if names_injector(message, "admission webhook \"") && message.contains("denied the request") {
            return Some(Self::Denied(message.to_owned()));
        }
        // Pod Security rejects the init container, so the injector has added it.
        (code == 403 && message.contains("PodSecurity") && message.contains("kuma-init"))
            .then_some(Self::Injected)
    }
}

/// Returns whether the quoted name after the first `start` is that of a webhook of the injector.
fn names_injector(message: &str, start: &str) -> bool {
    let rest = message.split_once(start).map(|(_, rest)| rest);
    let name = rest.and_then(|rest| rest.split_once('"'));
    name.is_some_and(|(name, _)| name.ends_with(INJECTOR_WEBHOOK))
}

#[cfg(test)]
mod tests {
    use kermode_install::Installation;
    use kermode_k8s::controller::registration::MUTATING;

    use super::*;

    #[test]
    fn errors_of_the_api_server_say_whether_it_has_called_the_injector() {
        let unreachable = "Internal error occurred: failed calling webhook \"kuma-injector.kuma.io\": failed to call webhook: x509";
        let denied = "admission webhook \"pods-kuma-injector.kuma.io\" denied the request: no mesh";
        let security =
            "pods \"a\" is forbidden: violates PodSecurity \"baseline\": (container \"kuma-init\" must not)";
        assert_eq!(
            DryRun::of_error(500, unreachable),
            Some(DryRun::Unreachable(unreachable.to_owned()))
        );
        assert_eq!(
            DryRun::of_error(403, denied),
            Some(DryRun::Denied(denied.to_owned()))
        );
        assert_eq!(DryRun::of_error(403, security), Some(DryRun::Injected));
        let application =
            "pods \"a\" is forbidden: violates PodSecurity \"restricted\": (container \"app\" must not)";
        assert_eq!(DryRun::of_error(403, application), None);
        assert_eq!(DryRun::of_error(403, "cannot create resource \"pods\""), None);
    }

    #[test]
    fn errors_about_other_webhooks_say_nothing_about_the_injector() {
        for message in [
            "admission webhook \"validate.kyverno.svc-fail\" denied the request: label app is missing",
            "admission webhook \"validation.gatekeeper.sh\" denied the request: see kuma-injector.kuma.io",
            "Internal error occurred: failed calling webhook \"validation.gatekeeper.sh\": failed to call webhook: x509",
        ] {
            assert_eq!(DryRun::of_error(403, message), None, "{message}");
        }
    }

    #[test]
    fn each_webhook_of_the_injector_is_recognised() {
        let objects = Installation::new("mesh").objects().expect("objects");
        let mut objects = objects.iter();
        let registration = objects.find(|object| object["metadata"]["name"] == MUTATING);
        let webhooks = registration.expect("the registration")["webhooks"].as_array();
        for webhook in webhooks.expect("webhooks") {
            let message = format!("admission webhook {} denied the request: no", webhook["name"]);
            assert_eq!(
                DryRun::of_error(403, &message),
                Some(DryRun::Denied(message.clone()))
            );
        }
    }
}
