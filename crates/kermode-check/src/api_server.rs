//! Checks of the API server: its version, its admission, and the permissions of the user.

use std::collections::{BTreeMap, BTreeSet};

use kermode_explain::text;
use kermode_model::KubernetesVersion;
use serde_json::Value;

use crate::catalogue::FindingKind;
use crate::facts::{DryRun, Facts, Permission};
use crate::report::{Check, Finding};

/// Oldest supported version of the API server: the first one that evaluates `matchConditions` of webhooks by default.
/// <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-matchconditions>
const OLDEST: KubernetesVersion = KubernetesVersion::new(1, 28);

const VERSION: &str = "API server";
const ADMISSION: &str = "admission";
const PERMISSIONS: &str = "permissions";
const INJECTOR: &str = "injector";
const DEFINITIONS: &str = "custom resources";

/// Checks the version of the API server.
pub(crate) fn version(facts: &Facts) -> Check {
    let Some(version) = facts.api_server_version else {
        return Check::left_out(VERSION, "the user may not read its version");
    };
    let mut findings = Vec::new();
    if version < OLDEST {
        findings.push(Finding::new(
            FindingKind::ApiServerTooOld,
            "API server",
            format!(
                "its version is {version}; it does not evaluate the matchConditions of webhooks, so it would reject or \
                 misunderstand the manifests"
            ),
            format!("upgrade Kubernetes to {OLDEST} or later"),
        ));
    } else if !version.supports_native_sidecars() {
        findings.push(Finding::new(
            FindingKind::NativeSidecarsUnsupported,
            "API server",
            format!("its version is {version}, so all sidecars are classic: they stop together with the application"),
            "upgrade Kubernetes to 1.29 or later for native sidecars",
        ));
    }
    Check::new(VERSION, format!("version {version}"), findings)
}

/// Checks that the API server knows registrations of webhooks.
pub(crate) fn admission(facts: &Facts) -> Check {
    match facts.serves_admission_registrations {
        None => Check::left_out(ADMISSION, "it is not known whether webhooks can be registered"),
        Some(true) => Check::new(ADMISSION, "webhooks can be registered", Vec::new()),
        Some(false) => Check::new(
            ADMISSION,
            "webhooks cannot be registered",
            vec![Finding::new(
                FindingKind::AdmissionUnavailable,
                "API server",
                "it does not serve admissionregistration.k8s.io/v1",
                "remove the setting --runtime-config of the API server that turns the API off, and do not disable the \
                 admission plugins MutatingAdmissionWebhook and ValidatingAdmissionWebhook",
            )],
        ),
    }
}

/// Returns the permissions that `kubectl apply` of these objects needs: to create and to change each kind. They are not
/// marked as allowed.
pub fn required_permissions(objects: &[Value]) -> Vec<Permission> {
    let kinds: BTreeSet<(String, Option<&str>)> = objects
        .iter()
        .map(|object| (resource_of(object), object["metadata"]["namespace"].as_str()))
        .collect();
    let permissions = kinds.into_iter().flat_map(|(resource, namespace)| {
        ["create", "patch"].map(|verb| Permission {
            verb,
            resource: resource.clone(),
            namespace: namespace.map(str::to_owned),
            is_allowed: false,
        })
    });
    permissions.collect()
}

/// Returns the plural of an object's kind with its API group. The kinds of an installation have regular plurals.
fn resource_of(object: &Value) -> String {
    let kind = text(object, "/kind").to_lowercase();
    let plural = kind
        .strip_suffix('y')
        .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    match text(object, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{plural}.{group}"),
        None => plural,
    }
}

/// Checks that the user may create and change the objects of an installation.
pub(crate) fn permissions(facts: &Facts) -> Check {
    let mut missing: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
    for permission in facts
        .permissions
        .iter()
        .filter(|permission| !permission.is_allowed)
    {
        let object = (permission.resource.as_str(), permission.namespace.as_deref());
        missing.entry(object).or_default().push(permission.verb);
    }
    let findings = missing.into_iter().map(|((resource, namespace), verbs)| {
        let place = match namespace {
            Some(namespace) => format!("in namespace {namespace}"),
            None => "in the whole cluster".to_owned(),
        };
        Finding::new(
            FindingKind::PermissionMissing,
            format!("{resource} {place}"),
            format!("the user of the kubeconfig may not {} them", verbs.join(" and ")),
            format!(
                "install as a user with the ClusterRole cluster-admin, or ask for a role with the verbs {} on {resource} \
                 {place}",
                verbs.join(" and ")
            ),
        )
    });
    Check::new(
        PERMISSIONS,
        format!("{} are needed", facts.permissions.len()),
        findings.collect(),
    )
}

/// Checks that the API server calls the injector for a labelled Pod.
pub(crate) fn injector(facts: &Facts) -> Check {
    let finding =
        |kind: FindingKind, problem: String, remedy: &str| Finding::new(kind, "injector", problem, remedy);
    let (summary, finding) = match &facts.dry_run {
        DryRun::NotTried(reason) => return Check::left_out(INJECTOR, reason),
        DryRun::Injected => ("a Pod gets a sidecar in a dry run", None),
        DryRun::NotInjected => (
            "a Pod gets no sidecar in a dry run",
            Some(finding(
                FindingKind::WebhookNotCalled,
                "a Pod with the label kuma.io/sidecar-injection=enabled gets no sidecar".to_owned(),
                "check that the registration exists and that its failure policy is Fail, since a failed call is invisible \
                 otherwise; and that the API server does not disable the admission plugin MutatingAdmissionWebhook",
            )),
        ),
        DryRun::Denied(message) => (
            "a Pod is denied in a dry run",
            Some(finding(
                FindingKind::PodDenied,
                format!("the injector denies an ordinary Pod: {message}"),
                "docs/reference/admission-messages.md lists the reasons with their remedies",
            )),
        ),
        DryRun::Unreachable(message) => (
            "the API server cannot call the injector",
            Some(finding(
                FindingKind::WebhookUnreachable,
                format!("the API server cannot call the injector: {message}"),
                "check that a replica of the control plane is ready, and that no firewall or NetworkPolicy blocks connections \
                 of the API server to port 5443 of its Pods. A certificate error means that the caBundle of the \
                 registration is wrong: the leading replica writes it within seconds",
            )),
        ),
    };
    Check::new(INJECTOR, summary, finding.into_iter().collect())
}

/// Checks that the API server serves the custom resources.
pub(crate) fn definitions(facts: &Facts) -> Check {
    let missing = match &facts.missing_definitions {
        Ok(missing) => missing,
        Err(reason) => return Check::left_out(DEFINITIONS, reason),
    };
    let finding = |name: &String| {
        Finding::new(
            FindingKind::DefinitionMissing,
            name,
            "the API server does not serve this custom resource",
            "apply the manifests of kumactl install control-plane",
        )
    };
    let summary = format!("{} are missing", missing.len());
    Check::new(DEFINITIONS, summary, missing.iter().map(finding).collect())
}
