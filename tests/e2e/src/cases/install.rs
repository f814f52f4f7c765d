//! The objects of an installation by `kumactl install control-plane | kubectl apply -f -`.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};

use crate::fixture::{CONTROL_PLANE, Fixture, SYSTEM_NAMESPACE};
use crate::harness::runner::Note;

const INJECTION_LABEL: &str = "kuma.io/sidecar-injection";

pub(super) async fn control_plane_is_ready_after_applying_the_manifests(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let client = || fixture.cluster.client.clone();
    let namespace = Api::<Namespace>::all(client()).get(SYSTEM_NAMESPACE).await?;
    ensure!(
        namespace
            .labels()
            .get("kuma.io/system-namespace")
            .map(String::as_str)
            == Some("true"),
        "namespace {SYSTEM_NAMESPACE} must have the label kuma.io/system-namespace=true, but has {:?}",
        namespace.labels()
    );
    ensure!(
        !namespace.labels().contains_key(INJECTION_LABEL),
        "namespace {SYSTEM_NAMESPACE} has the label {INJECTION_LABEL}"
    );
    let service = Api::<Service>::namespaced(client(), SYSTEM_NAMESPACE)
        .get(CONTROL_PLANE)
        .await?;
    let ports: Vec<i32> = service
        .spec
        .into_iter()
        .filter_map(|spec| spec.ports)
        .flatten()
        .map(|port| port.port)
        .collect();
    for port in [443, 5678] {
        ensure!(
            ports.contains(&port),
            "port {port} is missing from the ports of Service {CONTROL_PLANE}: {ports:?}"
        );
    }
    let pods = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let pod = pods.first().context("no Pod of the control plane is ready")?;
    let restarts: i32 = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|status| status.restart_count)
        .sum();
    ensure!(restarts == 0, "the control plane was restarted {restarts} times");
    let output_of_second_apply = fixture
        .cluster
        .kubectl
        .apply(&fixture.manifests(&[]).await?)
        .await?;
    let changed: Vec<&str> = output_of_second_apply
        .lines()
        .filter(|line| !line.ends_with(" unchanged"))
        .collect();
    ensure!(
        changed.is_empty(),
        "applying the manifests a second time changed {changed:?}"
    );
    Ok(String::new())
}

pub(super) async fn custom_resources_are_served(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let definitions = Api::<CustomResourceDefinition>::all(fixture.cluster.client.clone());
    let expected = [
        ("dataplanes", "Dataplane", "Namespaced"),
        ("containerpatches", "ContainerPatch", "Namespaced"),
        ("meshes", "Mesh", "Cluster"),
        ("meshtrafficpermissions", "MeshTrafficPermission", "Namespaced"),
    ];
    for (plural, kind, scope) in expected {
        let definition = definitions.get(&format!("{plural}.kuma.io")).await?;
        let conditions = definition
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let established = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Established" && condition.status == "True");
        ensure!(
            established,
            "CustomResourceDefinition {plural}.kuma.io is not established"
        );
        ensure!(
            definition.spec.names.kind == kind,
            "{plural} are of kind {}, not {kind}",
            definition.spec.names.kind
        );
        ensure!(
            definition.spec.scope == scope,
            "the scope of {plural} is {}, not {scope}",
            definition.spec.scope
        );
        let versions: Vec<&str> = definition
            .spec
            .versions
            .iter()
            .filter(|version| version.served && version.storage)
            .map(|version| version.name.as_str())
            .collect();
        ensure!(
            versions == ["v1alpha1"],
            "{plural} are served and stored as {versions:?}, not as v1alpha1"
        );
    }
    Ok(String::new())
}

pub(super) async fn access_rights_have_no_wildcard_and_allow_only_expected_requests(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let client = || fixture.cluster.client.clone();
    let cluster_role = Api::<ClusterRole>::all(client()).get(CONTROL_PLANE).await?;
    let role = Api::<Role>::namespaced(client(), SYSTEM_NAMESPACE)
        .get(CONTROL_PLANE)
        .await?;
    for rule in cluster_role.rules.iter().chain(&role.rules).flatten() {
        check_no_wildcard(rule)?;
    }
    for (verb, resource, namespace, expected) in [
        ("list", "pods", "default", "yes"),
        ("create", "dataplanes.kuma.io", "default", "yes"),
        ("get", "secrets", SYSTEM_NAMESPACE, "yes"),
        ("get", "secrets", "default", "no"),
        ("get", "configmaps", "default", "no"),
        ("list", "configmaps", "default", "no"),
        ("patch", "configmaps", "default", "no"),
        ("patch", "configmaps/kuma-control-plane-ca", "default", "yes"),
        ("delete", "configmaps/kuma-control-plane-ca", "default", "no"),
        ("patch", "configmaps", SYSTEM_NAMESPACE, "no"),
        ("patch", "configmaps/kuma-dns-vips", SYSTEM_NAMESPACE, "yes"),
        ("delete", "configmaps/kuma-dns-vips", SYSTEM_NAMESPACE, "no"),
        ("create", "pods", "default", "no"),
        ("create", "pods", SYSTEM_NAMESPACE, "no"),
        ("delete", "pods", "default", "no"),
        ("update", "services", "default", "no"),
        (
            "create",
            "clusterroles.rbac.authorization.k8s.io",
            "default",
            "no",
        ),
        (
            "delete",
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "default",
            "no",
        ),
        ("list", "nodes", "default", "yes"),
        ("list", "endpointslices.discovery.k8s.io", "default", "yes"),
        ("update", "endpointslices.discovery.k8s.io", "default", "no"),
        ("patch", "nodes", "default", "no"),
        ("list", "persistentvolumes", "default", "no"),
    ] {
        let answer = can_i(fixture, verb, resource, namespace).await?;
        ensure!(
            answer == expected,
            "kubectl auth can-i {verb} {resource} in {namespace}, as the control plane, prints {answer}, \
             not {expected}"
        );
    }
    Ok(String::new())
}

fn check_no_wildcard(rule: &PolicyRule) -> Result<()> {
    let lists = [
        Some(&rule.verbs),
        rule.resources.as_ref(),
        rule.api_groups.as_ref(),
    ];
    let mut items = lists.into_iter().flatten().flatten();
    ensure!(
        !items.any(|item| item.contains('*')),
        "the rule contains a wildcard: {rule:?}"
    );
    Ok(())
}

/// Returns the answer of `kubectl auth can-i` for the ServiceAccount of the control plane: `yes` or `no`.
async fn can_i(fixture: &Fixture, verb: &str, resource: &str, namespace: &str) -> Result<String> {
    let (user_flag, namespace_flag) = (
        format!("--as=system:serviceaccount:{SYSTEM_NAMESPACE}:{CONTROL_PLANE}"),
        format!("--namespace={namespace}"),
    );
    let output = fixture
        .cluster
        .kubectl
        .output(
            &["auth", "can-i", verb, resource, &user_flag, &namespace_flag],
            "",
        )
        .await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) async fn failure_policy_is_fail_for_labelled_objects_and_ignore_for_others(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let registrations = Api::<MutatingWebhookConfiguration>::all(fixture.cluster.client.clone());
    let registration = registrations
        .get("kuma-admission-mutating-webhook-configuration")
        .await?;
    let webhooks = registration.webhooks.unwrap_or_default();
    for (name, policy) in [
        ("namespace-kuma-injector.kuma.io", "Fail"),
        ("pods-kuma-injector.kuma.io", "Fail"),
        ("kuma-injector.kuma.io", "Ignore"),
    ] {
        let webhook = webhooks.iter().find(|webhook| webhook.name == name);
        let webhook = webhook.with_context(|| format!("webhook {name} does not exist"))?;
        let found = webhook.failure_policy.as_deref().unwrap_or_default();
        ensure!(
            found == policy,
            "the failure policy of {name} is {found}, not {policy}"
        );
        let service = webhook
            .client_config
            .service
            .as_ref()
            .with_context(|| format!("webhook {name} has no Service"))?;
        let calls_control_plane =
            service.path.as_deref() == Some("/inject-sidecar") && service.name == CONTROL_PLANE;
        ensure!(
            calls_control_plane,
            "webhook {name} must call /inject-sidecar of {CONTROL_PLANE}, but calls {service:?}"
        );
    }
    Ok(String::new())
}

pub(super) async fn default_mesh_is_created(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    fixture.wait_for_default_mesh().await?;
    Ok(String::new())
}
