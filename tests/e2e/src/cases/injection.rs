//! Injection: the Pods that get a sidecar, the fields of these Pods that must not change, and the mode of the sidecar.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Node};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, container_names, injected_in_dry_run, node_without_machine};

const INIT_CONTAINER: &str = "kuma-init";
/// Port on which the sidecar serves HTTP probes of the application.
const VIRTUAL_PROBES_PORT: i64 = 9000;
/// Mount path of the ServiceAccount's token, which the API server mounts into every container.
const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Fields of a Pod's spec that injection must not change.
const UNCHANGED_POD_FIELDS: [&str; 6] = [
    "hostAliases",
    "dnsConfig",
    "dnsPolicy",
    "hostNetwork",
    "securityContext",
    "shareProcessNamespace",
];

pub(super) async fn pods_get_a_sidecar_unless_they_opt_out(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    for (app, count) in [("server", 3), ("client", 1)] {
        let pods = fixture.ready_pods(APP_NAMESPACE, app).await?;
        ensure!(
            pods.len() == count,
            "{} Pods of Deployment {app} are ready, not {count}",
            pods.len()
        );
        for pod in pods {
            let (init_containers, containers) = container_names(&pod);
            ensure!(
                init_containers.contains(&INIT_CONTAINER),
                "{INIT_CONTAINER} is missing from the init containers of Pod {}: {init_containers:?}",
                pod.name_any()
            );
            let sidecar_count = init_containers
                .iter()
                .chain(&containers)
                .filter(|name| **name == SIDECAR)
                .count();
            ensure!(
                sidecar_count == 1,
                "Pod {} has {sidecar_count} containers {SIDECAR} instead of one",
                pod.name_any()
            );
            let annotation = pod
                .annotations()
                .get("kuma.io/sidecar-injected")
                .map(String::as_str);
            ensure!(
                annotation == Some("true"),
                "annotation kuma.io/sidecar-injected of Pod {} is {annotation:?}, not true",
                pod.name_any()
            );
        }
    }
    for (namespace, app) in [
        (APP_NAMESPACE, "opted-out"),
        (OUTSIDE_NAMESPACE, "outsider"),
        (OUTSIDE_NAMESPACE, "server"),
    ] {
        for pod in fixture.ready_pods(namespace, app).await? {
            let (init_containers, containers) = container_names(&pod);
            ensure!(
                init_containers.is_empty() && containers.len() == 1,
                "Pod {} was injected: it has the init containers {init_containers:?} and the containers {containers:?}",
                pod.name_any()
            );
            let annotations: Vec<_> = pod
                .annotations()
                .keys()
                .filter(|key| key.contains("kuma.io/"))
                .collect();
            ensure!(
                annotations.is_empty(),
                "Pod {}, which was not injected, has annotations of the mesh: {annotations:?}",
                pod.name_any()
            );
        }
    }
    Ok(String::new())
}

pub(super) async fn application_containers_are_unchanged(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    for app in ["server", "client"] {
        let template = fixture
            .deployments(APP_NAMESPACE)
            .get(app)
            .await?
            .spec
            .with_context(|| format!("Deployment {app} has no spec"))?
            .template;
        let template_spec = template
            .spec
            .with_context(|| format!("the template of Deployment {app} has no spec"))?;
        let original = template_spec
            .containers
            .first()
            .with_context(|| format!("the template of Deployment {app} has no containers"))?;
        for pod in fixture.ready_pods(APP_NAMESPACE, app).await? {
            let spec = pod
                .spec
                .clone()
                .with_context(|| format!("Pod {} has no spec", pod.name_any()))?;
            let injected = spec
                .containers
                .iter()
                .find(|container| container.name == original.name);
            let injected = injected
                .with_context(|| format!("Pod {} has no container {}", pod.name_any(), original.name))?;
            check_unchanged(original, injected)
                .with_context(|| format!("container {} of Pod {}", original.name, pod.name_any()))?;
            let others: Vec<&str> = spec
                .containers
                .iter()
                .map(|container| container.name.as_str())
                .filter(|name| ![&original.name, SIDECAR].contains(name))
                .collect();
            ensure!(
                others.is_empty(),
                "Pod {} has containers besides {} and the sidecar: {others:?}",
                pod.name_any(),
                original.name
            );
            let (template_spec, spec) = (json!(template_spec), json!(spec));
            for field in UNCHANGED_POD_FIELDS {
                let (before, after) = (&template_spec[field], &spec[field]);
                ensure!(
                    before == after,
                    "{field} of Pod {}: {before} became {after}",
                    pod.name_any()
                );
            }
        }
    }
    Ok(String::new())
}

/// Name of a Node whose kubelet is older than 1.29, and so knows no native sidecars.
const OLD_NODE: &str = "e2e-old-node";

pub(super) async fn sidecars_are_classic_while_a_node_has_an_old_kubelet(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    wait_for_sidecar_mode(fixture, true)
        .await
        .context("before the old Node")?;
    let nodes = Api::<Node>::all(fixture.cluster.client.clone());
    let node = node_without_machine(OLD_NODE, "v1.27.9")?;
    nodes.create(&PostParams::default(), &node).await?;
    let joined = wait_for_sidecar_mode(fixture, false).await;
    nodes.delete(OLD_NODE, &DeleteParams::default()).await?;
    joined.context("after the old Node joined")?;
    wait_for_sidecar_mode(fixture, true)
        .await
        .context("after the old Node left")?;
    Ok(String::new())
}

/// Waits until new Pods get native sidecars, or classic ones.
async fn wait_for_sidecar_mode(fixture: &Fixture, native: bool) -> Result<()> {
    wait_for("the mode of new sidecars", Duration::from_secs(15), async || {
        let pod = injected_in_dry_run(fixture).await?;
        let (init_containers, containers) = container_names(&pod);
        let done = init_containers.contains(&SIDECAR) == native && containers.contains(&SIDECAR) != native;
        Ok(done_if(done, (), || {
            format!("the init containers are {init_containers:?}, the containers {containers:?}")
        }))
    })
    .await
}

/// Checks that a container of an injected Pod equals the container of the template. Three differences are expected: the
/// mount of the token, which the API server adds, HTTP probes, which injection changes to virtual probes, and a preStop
/// hook that delays the stop.
fn check_unchanged(original: &Container, injected: &Container) -> Result<()> {
    let (mut original, mut injected) = (json!(original), json!(injected));
    for probe in ["readinessProbe", "livenessProbe"] {
        let (before, after) = (original[probe].take(), injected[probe].take());
        ensure!(
            with_virtual_probe(before.clone(), &original) == after,
            "{probe}: {before} became {after}"
        );
    }
    let lifecycle = injected["lifecycle"].take();
    ensure!(
        original["lifecycle"].is_null() && lifecycle == json!({"preStop": {"sleep": {"seconds": 5}}}),
        "lifecycle became {lifecycle}"
    );
    if let Some(mounts) = injected["volumeMounts"].as_array_mut() {
        mounts.retain(|mount| mount["mountPath"] != TOKEN_MOUNT_PATH);
        if mounts.is_empty() {
            injected["volumeMounts"] = Value::Null;
        }
    }
    for container in [&mut original, &mut injected] {
        container
            .as_object_mut()
            .context("the container is not a JSON object")?
            .retain(|_, value| !value.is_null());
    }
    ensure!(original == injected, "the fields {original} became {injected}");
    Ok(())
}

/// Returns the probe as injection must change it. `container` is the container of the probe, with its named ports.
fn with_virtual_probe(mut probe: Value, container: &Value) -> Value {
    if let Some(http) = probe.get_mut("httpGet") {
        let ports = container["ports"].as_array().into_iter().flatten();
        let named_port = ports.into_iter().find(|port| port["name"] == http["port"]);
        let port = named_port.map_or(&http["port"], |port| &port["containerPort"]);
        let path = format!("/{port}{}", http["path"].as_str().unwrap_or_default());
        http["path"] = path.into();
        http["port"] = VIRTUAL_PROBES_PORT.into();
    }
    probe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(value: Value) -> Container {
        serde_json::from_value(value).expect("a container")
    }

    fn original() -> Value {
        json!({
            "name": "server",
            "env": [{"name": "GREETING", "value": "hello"}],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}},
        })
    }

    fn injected() -> Value {
        let mut injected = original();
        injected["readinessProbe"]["httpGet"] =
            json!({"path": "/8080/healthz", "port": 9000, "scheme": "HTTP"});
        injected["volumeMounts"] =
            json!([{"name": "kube-api-access", "mountPath": TOKEN_MOUNT_PATH, "readOnly": true}]);
        injected["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
        injected
    }

    #[test]
    fn token_mount_virtual_probe_and_delayed_stop_are_allowed() {
        check_unchanged(&container(original()), &container(injected())).expect("no difference");
    }

    #[test]
    fn any_other_difference_is_reported() {
        for (path, value) in [
            (
                "/env",
                json!([{"name": "GREETING", "value": "hello"}, {"name": "HTTP_PROXY", "value": "x"}]),
            ),
            (
                "/volumeMounts",
                json!([{"name": "certificates", "mountPath": "/certificates"}]),
            ),
            ("/ports", json!([])),
            ("/readinessProbe/httpGet/path", json!("/healthz")),
        ] {
            let mut injected = injected();
            *injected.pointer_mut(path).expect(path) = value;
            check_unchanged(&container(original()), &container(injected)).expect_err(path);
        }
    }
}
