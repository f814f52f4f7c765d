//! ContainerPatches and restricted security profiles, with a real API server and kubelet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::harness::host;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, pod};
use crate::world::{APP, SERVER_URL, SYSTEM, World};

const PATCHES: &str = include_str!("../../manifests/patches.yaml");
const ANNOTATION: &str = "kuma.io/container-patches";
/// Deadline from the creation to the end of a Pod that makes a few requests.
const DEADLINE: Duration = Duration::from_mins(1);

pub(super) async fn example_of_the_manual_page_gives_its_result(world: &World) -> Result<Note> {
    let pod = admitted(world, "container-patch-1").await?;
    let sidecar = container(&pod, SIDECAR)?;
    let expected = json!({"runAsGroup": 5678, "runAsUser": 5678, "privileged": true});
    check_same(
        "sidecar's securityContext",
        &sidecar["securityContext"],
        &expected,
    )?;
    let expected = json!({
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "500m", "memory": "256Mi"},
    });
    check_same("sidecar's resources", &sidecar["resources"], &expected)?;
    let init = container(&pod, "kuma-init")?;
    let profile = &init["securityContext"]["seccompProfile"];
    check_same(
        "init's seccompProfile",
        profile,
        &json!({"type": "RuntimeDefault"}),
    )?;
    Ok(String::new())
}

pub(super) async fn missing_patch_rejects_the_pod_and_is_named(world: &World) -> Result<Note> {
    let error = match admitted(world, "container-patch-1, missing-1,missing-2").await {
        Ok(_) => anyhow::bail!("the Pod was admitted"),
        Err(error) => format!("{error:#}"),
    };
    let text = r#"it appears some expected container patches are missing: ["missing-1" "missing-2"]"#;
    ensure!(error.contains(text), "{error}");
    Ok(String::new())
}

pub(super) async fn patch_outside_the_system_namespace_or_without_json_is_rejected(
    world: &World,
) -> Result<Note> {
    world.installed().await?;
    let in_default = PATCHES.replace(&format!("namespace: {SYSTEM}"), "namespace: default");
    check_rejection(
        world,
        &in_default,
        &format!("ContainerPatch can only be placed in {SYSTEM} namespace"),
    )
    .await?;
    let without_quotes = PATCHES.replace(r#"'"100m"'"#, "100m");
    check_rejection(world, &without_quotes, "/resources/requests/cpu").await?;
    Ok(String::new())
}

pub(super) async fn sidecar_needs_only_net_bind_service(world: &World) -> Result<Note> {
    let mut caller = patched(world, "net-bind-service-alone").await?;
    caller.metadata.name = Some("confined".to_owned());
    if let Some(spec) = &mut caller.spec {
        spec.restart_policy = Some("Never".to_owned());
        for container in &mut spec.containers {
            container.args = Some(["get", SERVER_URL, "--count", "5"].map(str::to_owned).to_vec());
        }
    }
    let pods = world.pods(APP);
    let created = pods.create(&PostParams::default(), &caller).await?;
    let outcome = wait_for("Pod confined to succeed", DEADLINE, async || {
        let status = pods.get("confined").await?.status.unwrap_or_default();
        let phase = status.phase.clone().unwrap_or_default();
        ensure!(phase != "Failed", "the Pod failed: {status:?}");
        Ok(done_if(phase == "Succeeded", (), || format!("phase {phase}")))
    })
    .await;
    pods.delete("confined", &DeleteParams::default()).await?;
    outcome?;
    let capabilities = &container(&created, SIDECAR)?["securityContext"]["capabilities"];
    check_same(
        "sidecar's capabilities",
        capabilities,
        &json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
    )?;
    Ok(String::new())
}

pub(super) async fn restricted_pods_pass_pod_security_admission(world: &World) -> Result<Note> {
    world.installed().await?;
    let restricted = injected(world, "restricted").await?;
    let rejection = create_in_dry_run(world, &restricted).await?;
    ensure!(rejection.is_empty(), "Pod Security rejected the Pod: {rejection}");
    // Rendered for a namespace without a security level, the same Pod is rejected.
    let ordinary = injected(world, "privileged").await?;
    let rejection = create_in_dry_run(world, &ordinary).await?;
    ensure!(
        rejection.contains("violates PodSecurity"),
        "Pod Security accepted the default profile: {rejection}"
    );
    Ok(String::new())
}

/// Returns a Pod that `kumactl inject` rendered with the CNI, for a namespace with this Pod Security level.
async fn injected(world: &World, level: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok::<_, anyhow::Error>(path.to_string_lossy().into_owned())
    };
    let pod = file("pod.yaml", &confined_pod().to_string())?;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "e2e-restricted", "labels": {
            "kuma.io/sidecar-injection": "enabled",
            "pod-security.kubernetes.io/enforce": level,
        }},
    });
    let mesh = json!({"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}});
    let objects = file("objects.yaml", &format!("{namespace}\n---\n{mesh}\n"))?;
    let config = json!({"runtime": {"kubernetes": {"injector": {"cniEnabled": true}}}});
    let config = file("config.yaml", &config.to_string())?;
    let arguments = ["inject", "-f", &pod, "--objects", &objects, "--config", &config];
    host::output(&world.config.program("kumactl"), &arguments).await
}

/// Creates a Pod in a dry run in a namespace that enforces `restricted`. Returns the message of a rejection.
async fn create_in_dry_run(world: &World, pod: &str) -> Result<String> {
    let kubectl = &world.cluster.kubectl;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "e2e-restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    kubectl.apply(&namespace.to_string()).await?;
    let created = wait_for("the namespace's service account", DEADLINE, async || {
        let account = ["get", "serviceaccount", "default", "--namespace=e2e-restricted"];
        let found = kubectl.attempt(&account, "").await?.status.success();
        Ok(done_if(found, (), || "it does not exist".to_owned()))
    });
    created.await?;
    let output = kubectl
        .attempt(&["apply", "--dry-run=server", "--filename=-"], pod)
        .await?;
    kubectl.delete(&namespace.to_string(), true).await?;
    Ok(if output.status.success() {
        String::new()
    } else {
        String::from_utf8_lossy(&output.stderr).into_owned()
    })
}

/// Returns a Pod that satisfies `restricted` before injection.
fn confined_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "confined", "namespace": "e2e-restricted"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "example.com/app:1",
                "securityContext": {
                    "runAsUser": 1000,
                    "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

/// Applies the patches and returns a Pod that names them.
async fn patched(world: &World, patches: &str) -> Result<Pod> {
    world.deployed().await?;
    world.cluster.kubectl.apply(PATCHES).await?;
    let mut pod = pod(world, APP, "patched", &["server"])?;
    pod.annotations_mut()
        .insert(ANNOTATION.to_owned(), patches.to_owned());
    Ok(pod)
}

/// Returns the admitted Pod of a dry run.
async fn admitted(world: &World, patches: &str) -> Result<Pod> {
    let pod = patched(world, patches).await?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Ok(world.pods(APP).create(&dry_run, &pod).await?)
}

fn container(pod: &Pod, name: &str) -> Result<Value> {
    let spec = pod.spec.as_ref().context("a Pod without spec")?;
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let found = all.find(|container| container.name == name);
    Ok(serde_json::to_value(
        found.with_context(|| format!("{} has no {name}", pod.name_any()))?,
    )?)
}

fn check_same(field: &str, found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "{field} is {found}, not {expected}");
    Ok(())
}

async fn check_rejection(world: &World, manifests: &str, needle: &str) -> Result<()> {
    let arguments = ["apply", "--dry-run=server", "--filename=-"];
    let output = world.cluster.kubectl.attempt(&arguments, manifests).await?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && message.contains(needle),
        "{needle:?} is missing from: {message}"
    );
    Ok(())
}
