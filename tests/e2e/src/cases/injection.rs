//! Injection: which Pods get a sidecar, and that the rest of the Pod is unchanged.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Container;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::harness::runner::Note;
use crate::pods::{SIDECAR, containers};
use crate::world::{APP, OUTSIDE, World};

const INIT: &str = "kuma-init";
/// Port on which the sidecar serves HTTP probes of the application.
const VIRTUAL_PROBES: i64 = 9000;
/// Mount path that the API server's admission adds to every container.
const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) async fn pods_get_a_sidecar_unless_they_opt_out(world: &World) -> Result<Note> {
    world.deployed().await?;
    for (app, count) in [("server", 3), ("client", 1)] {
        let pods = world.ready_pods(APP, app).await?;
        ensure!(
            pods.len() == count,
            "{} Pods of {app} are ready, not {count}",
            pods.len()
        );
        for pod in pods {
            let (init, containers) = containers(&pod);
            ensure!(
                init.contains(&INIT),
                "init containers of {}: {init:?}",
                pod.name_any()
            );
            let sidecars = init
                .iter()
                .chain(&containers)
                .filter(|name| **name == SIDECAR)
                .count();
            ensure!(
                sidecars == 1,
                "{} has {sidecars} containers {SIDECAR}",
                pod.name_any()
            );
            let annotation = pod
                .annotations()
                .get("kuma.io/sidecar-injected")
                .map(String::as_str);
            ensure!(
                annotation == Some("true"),
                "{} has kuma.io/sidecar-injected {annotation:?}",
                pod.name_any()
            );
        }
    }
    for (namespace, app) in [(APP, "opted-out"), (OUTSIDE, "outsider"), (OUTSIDE, "server")] {
        for pod in world.ready_pods(namespace, app).await? {
            let (init, containers) = containers(&pod);
            ensure!(
                init.is_empty() && containers.len() == 1,
                "{}: {init:?} {containers:?}",
                pod.name_any()
            );
            let annotations: Vec<_> = pod
                .annotations()
                .keys()
                .filter(|key| key.contains("kuma.io/"))
                .collect();
            ensure!(
                annotations.is_empty(),
                "{} has annotations {annotations:?}",
                pod.name_any()
            );
        }
    }
    Ok(String::new())
}

pub(super) async fn application_containers_are_unchanged(world: &World) -> Result<Note> {
    world.deployed().await?;
    for app in ["server", "client"] {
        let template = world
            .deployments(APP)
            .get(app)
            .await?
            .spec
            .context("a Deployment without spec")?
            .template;
        let template = template.spec.context("a template without spec")?;
        let wanted = template
            .containers
            .first()
            .context("a template without containers")?;
        for pod in world.ready_pods(APP, app).await? {
            let spec = pod.spec.clone().context("a Pod without spec")?;
            let found = spec
                .containers
                .iter()
                .find(|container| container.name == wanted.name);
            check_same(wanted, found.context("the application's container is missing")?)
                .with_context(|| format!("container {} of {}", wanted.name, pod.name_any()))?;
            let others: Vec<&str> = spec
                .containers
                .iter()
                .map(|c| c.name.as_str())
                .filter(|n| ![&wanted.name, SIDECAR].contains(n))
                .collect();
            ensure!(
                others.is_empty(),
                "{} has other containers: {others:?}",
                pod.name_any()
            );
            let pairs = [
                (json!(template.host_aliases), json!(spec.host_aliases)),
                (json!(template.dns_config), json!(spec.dns_config)),
                (json!(template.dns_policy), json!(spec.dns_policy)),
                (json!(template.host_network), json!(spec.host_network)),
                (json!(template.security_context), json!(spec.security_context)),
                (
                    json!(template.share_process_namespace),
                    json!(spec.share_process_namespace),
                ),
            ];
            for (before, after) in pairs {
                ensure!(before == after, "{}: {before} became {after}", pod.name_any());
            }
        }
    }
    Ok(String::new())
}

/// Checks that a container equals that of the template, apart from additions of the API server and from HTTP probes,
/// which go through the sidecar.
fn check_same(wanted: &Container, found: &Container) -> Result<()> {
    let (mut wanted, mut found) = (json!(wanted), json!(found));
    for probe in ["readinessProbe", "livenessProbe"] {
        let (before, after) = (wanted[probe].take(), found[probe].take());
        ensure!(
            with_virtual_probe(before.clone(), &wanted) == after,
            "{probe}: {before} became {after}"
        );
    }
    if let Some(mounts) = found["volumeMounts"].as_array_mut() {
        mounts.retain(|mount| mount["mountPath"] != TOKEN_MOUNT);
        if mounts.is_empty() {
            found["volumeMounts"] = Value::Null;
        }
    }
    for side in [&mut wanted, &mut found] {
        side.as_object_mut()
            .context("the container is not a JSON object")?
            .retain(|_, value| !value.is_null());
    }
    ensure!(wanted == found, "{wanted} became {found}");
    Ok(())
}

/// Returns the expected probe after injection.
fn with_virtual_probe(mut probe: Value, container: &Value) -> Value {
    if let Some(http) = probe.get_mut("httpGet") {
        let ports = container["ports"].as_array().into_iter().flatten();
        let named = ports.into_iter().find(|port| port["name"] == http["port"]);
        let port = named.map_or(&http["port"], |port| &port["containerPort"]);
        let path = format!("/{port}{}", http["path"].as_str().unwrap_or_default());
        http["path"] = path.into();
        http["port"] = VIRTUAL_PROBES.into();
    }
    probe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(value: Value) -> Container {
        serde_json::from_value(value).expect("a container")
    }

    fn wanted() -> Value {
        json!({
            "name": "server",
            "env": [{"name": "GREETING", "value": "hello"}],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}},
        })
    }

    fn found() -> Value {
        let mut found = wanted();
        found["readinessProbe"]["httpGet"] = json!({"path": "/8080/healthz", "port": 9000, "scheme": "HTTP"});
        found["volumeMounts"] =
            json!([{"name": "kube-api-access", "mountPath": TOKEN_MOUNT, "readOnly": true}]);
        found
    }

    #[test]
    fn additions_of_the_api_server_are_ignored() {
        check_same(&container(wanted()), &container(found())).expect("no difference");
    }

    #[test]
    fn additional_variable_mount_or_probe_is_a_difference() {
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
            let mut changed = found();
            *changed.pointer_mut(path).expect(path) = value;
            check_same(&container(wanted()), &container(changed)).expect_err(path);
        }
    }
}
