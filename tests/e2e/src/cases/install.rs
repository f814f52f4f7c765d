//! `kumactl install control-plane | kubectl apply -f -`.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};

use crate::harness::runner::Note;
use crate::world::{CONTROL_PLANE, SYSTEM, World};

const INJECTION: &str = "kuma.io/sidecar-injection";

pub(super) async fn control_plane_is_ready_after_applying_the_manifests(world: &World) -> Result<Note> {
    world.installed().await?;
    let client = || world.cluster.client.clone();
    let namespace = Api::<Namespace>::all(client()).get(SYSTEM).await?;
    ensure!(
        namespace
            .labels()
            .get("kuma.io/system-namespace")
            .map(String::as_str)
            == Some("true"),
        "labels of namespace {SYSTEM}: {:?}",
        namespace.labels()
    );
    ensure!(
        !namespace.labels().contains_key(INJECTION),
        "namespace {SYSTEM} has the label {INJECTION}"
    );
    let service = Api::<Service>::namespaced(client(), SYSTEM)
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
            "Service {CONTROL_PLANE} has ports {ports:?}, not {port}"
        );
    }
    let pods = world.ready_pods(SYSTEM, CONTROL_PLANE).await?;
    let pod = pods.first().context("no Pod of the control plane is ready")?;
    let restarts: i32 = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|c| c.restart_count)
        .sum();
    ensure!(restarts == 0, "the control plane was restarted {restarts} times");
    let second = world.cluster.kubectl.apply(&world.manifests(&[]).await?).await?;
    let changed: Vec<&str> = second
        .lines()
        .filter(|line| !line.ends_with(" unchanged"))
        .collect();
    ensure!(
        changed.is_empty(),
        "applying the manifests twice changed {changed:?}"
    );
    Ok(String::new())
}

pub(super) async fn custom_resources_are_served(world: &World) -> Result<Note> {
    world.installed().await?;
    let definitions = Api::<CustomResourceDefinition>::all(world.cluster.client.clone());
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
            "{plural} are of kind {}",
            definition.spec.names.kind
        );
        ensure!(
            definition.spec.scope == scope,
            "{plural} are {}",
            definition.spec.scope
        );
        let versions: Vec<&str> = definition
            .spec
            .versions
            .iter()
            .filter(|v| v.served && v.storage)
            .map(|v| v.name.as_str())
            .collect();
        ensure!(
            versions == ["v1alpha1"],
            "{plural} are served and stored in {versions:?}"
        );
    }
    Ok(String::new())
}

pub(super) async fn access_rights_are_minimal(world: &World) -> Result<Note> {
    world.installed().await?;
    let client = || world.cluster.client.clone();
    let cluster_role = Api::<ClusterRole>::all(client()).get(CONTROL_PLANE).await?;
    let role = Api::<Role>::namespaced(client(), SYSTEM)
        .get(CONTROL_PLANE)
        .await?;
    for rule in cluster_role.rules.iter().chain(&role.rules).flatten() {
        no_wildcard(rule)?;
    }
    for (verb, resource, namespace, expected) in [
        ("list", "pods", "default", "yes"),
        ("create", "dataplanes.kuma.io", "default", "yes"),
        ("get", "secrets", SYSTEM, "yes"),
        ("get", "secrets", "default", "no"),
        ("create", "pods", "default", "no"),
        ("create", "pods", SYSTEM, "no"),
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
        ("list", "nodes", "default", "no"),
    ] {
        let found = can_i(world, verb, resource, namespace).await?;
        ensure!(
            found == expected,
            "kubectl auth can-i {verb} {resource} in {namespace} as the control plane: {found}"
        );
    }
    Ok(String::new())
}

fn no_wildcard(rule: &PolicyRule) -> Result<()> {
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

async fn can_i(world: &World, verb: &str, resource: &str, namespace: &str) -> Result<String> {
    let (user_flag, namespace_flag) = (
        format!("--as=system:serviceaccount:{SYSTEM}:{CONTROL_PLANE}"),
        format!("--namespace={namespace}"),
    );
    let output = world
        .cluster
        .kubectl
        .attempt(
            &["auth", "can-i", verb, resource, &user_flag, &namespace_flag],
            "",
        )
        .await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(super) async fn webhooks_fail_closed_for_labelled_objects_and_open_for_others(
    world: &World,
) -> Result<Note> {
    world.installed().await?;
    let registrations = Api::<MutatingWebhookConfiguration>::all(world.cluster.client.clone());
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
        ensure!(found == policy, "failure policy of {name}: {found}");
        let service = webhook
            .client_config
            .service
            .as_ref()
            .context("a webhook without a Service")?;
        let correct = service.path.as_deref() == Some("/inject-sidecar") && service.name == CONTROL_PLANE;
        ensure!(correct, "{name} has the client config {service:?}");
    }
    Ok(String::new())
}

pub(super) async fn default_mesh_is_created(world: &World) -> Result<Note> {
    world.installed().await?;
    world.mesh_is_created().await?;
    Ok(String::new())
}
