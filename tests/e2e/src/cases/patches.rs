//! ContainerPatches, and sidecars with few privileges: with one capability, and in namespaces that enforce Pod Security
//! `restricted`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL, SYSTEM_NAMESPACE};
use crate::harness::host;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, demo_pod};

const PATCHES_MANIFEST: &str = include_str!("../../manifests/patches.yaml");
const PATCHES_ANNOTATION: &str = "kuma.io/container-patches";
/// Time limit of each condition that the tests wait for. The slowest condition is the end of a Pod that makes a
/// few requests.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) async fn documented_patch_changes_sidecar_and_init_container(fixture: &Fixture) -> Result<Note> {
    let pod = create_patched_in_dry_run(fixture, "container-patch-1").await?;
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
        "kuma-init's seccompProfile",
        profile,
        &json!({"type": "RuntimeDefault"}),
    )?;
    Ok(String::new())
}

pub(super) async fn denial_of_a_pod_names_missing_patches(fixture: &Fixture) -> Result<Note> {
    let error = match create_patched_in_dry_run(fixture, "container-patch-1, missing-1,missing-2").await {
        Ok(_) => anyhow::bail!("the Pod was admitted, although patches are missing"),
        Err(error) => format!("{error:#}"),
    };
    let text = r#"it appears some expected container patches are missing: ["missing-1" "missing-2"]"#;
    ensure!(
        error.contains(text),
        "{text:?} is missing from the denial: {error}"
    );
    Ok(String::new())
}

pub(super) async fn patch_outside_the_system_namespace_or_with_invalid_json_is_denied(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let in_default =
        PATCHES_MANIFEST.replace(&format!("namespace: {SYSTEM_NAMESPACE}"), "namespace: default");
    check_denial(
        fixture,
        &in_default,
        &format!("ContainerPatch can only be placed in {SYSTEM_NAMESPACE} namespace"),
    )
    .await?;
    // The value of a patch is JSON, in which a text needs quotes.
    let without_quotes = PATCHES_MANIFEST.replace(r#"'"100m"'"#, "100m");
    check_denial(fixture, &without_quotes, "/resources/requests/cpu").await?;
    Ok(String::new())
}

pub(super) async fn sidecar_needs_only_the_capability_net_bind_service(fixture: &Fixture) -> Result<Note> {
    let mut client = apply_patches_and_build_pod(fixture, "net-bind-service-alone").await?;
    client.metadata.name = Some("confined".to_owned());
    if let Some(spec) = &mut client.spec {
        spec.restart_policy = Some("Never".to_owned());
        for container in &mut spec.containers {
            container.args = Some(["get", SERVER_URL, "--count", "5"].map(str::to_owned).to_vec());
        }
    }
    let pods = fixture.pods(APP_NAMESPACE);
    let created = pods.create(&PostParams::default(), &client).await?;
    let outcome = wait_for("Pod confined to succeed", TIMEOUT, async || {
        let status = pods.get("confined").await?.status.unwrap_or_default();
        let phase = status.phase.clone().unwrap_or_default();
        ensure!(phase != "Failed", "Pod confined failed: {status:?}");
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

pub(super) async fn restricted_pods_pass_pod_security_admission(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let restricted = inject_by_kumactl(fixture, "restricted").await?;
    let denial = denial_in_dry_run(fixture, &restricted).await?;
    ensure!(denial.is_empty(), "Pod Security denied the Pod: {denial}");
    // For comparison: the namespace, which enforces `restricted`, denies the same Pod injected for `privileged`.
    let privileged = inject_by_kumactl(fixture, "privileged").await?;
    let denial = denial_in_dry_run(fixture, &privileged).await?;
    ensure!(
        denial.contains("violates PodSecurity"),
        "Pod Security must deny the Pod that was injected for the level privileged; the denial is {denial:?}"
    );
    Ok(String::new())
}

/// Injects [`restricted_pod`] with `kumactl inject`, for a namespace that enforces this Pod Security level, and with
/// the CNI enabled. Returns the manifest of the injected Pod.
async fn inject_by_kumactl(fixture: &Fixture, level: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let write_file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok::<_, anyhow::Error>(path.to_string_lossy().into_owned())
    };
    let pod = write_file("pod.yaml", &restricted_pod().to_string())?;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "e2e-restricted", "labels": {
            "kuma.io/sidecar-injection": "enabled",
            "pod-security.kubernetes.io/enforce": level,
        }},
    });
    let mesh = json!({"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": "default"}});
    let objects = write_file("objects.yaml", &format!("{namespace}\n---\n{mesh}\n"))?;
    let config = json!({"runtime": {"kubernetes": {"injector": {"cniEnabled": true}}}});
    let config = write_file("config.yaml", &config.to_string())?;
    let arguments = ["inject", "-f", &pod, "--objects", &objects, "--config", &config];
    host::run(&fixture.config.checkout.release_binary("kumactl"), &arguments).await
}

/// Creates the Pod of a manifest in a dry run, in a namespace that enforces Pod Security `restricted`. Returns the
/// message of the denial; empty if the Pod is admitted.
async fn denial_in_dry_run(fixture: &Fixture, manifest: &str) -> Result<String> {
    let kubectl = &fixture.cluster.kubectl;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "e2e-restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    kubectl.apply(&namespace.to_string()).await?;
    let account_creation = wait_for("the ServiceAccount of the new namespace", TIMEOUT, async || {
        let arguments = ["get", "serviceaccount", "default", "--namespace=e2e-restricted"];
        let found = kubectl.output(&arguments, "").await?.status.success();
        Ok(done_if(found, (), || {
            "the ServiceAccount does not exist".to_owned()
        }))
    });
    account_creation.await?;
    let output = kubectl
        .output(&["apply", "--dry-run=server", "--filename=-"], manifest)
        .await?;
    kubectl.delete(&namespace.to_string(), true).await?;
    Ok(if output.status.success() {
        String::new()
    } else {
        String::from_utf8_lossy(&output.stderr).into_owned()
    })
}

/// Returns a Pod that satisfies Pod Security `restricted` before injection.
fn restricted_pod() -> Value {
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

/// Applies the ContainerPatches of [`PATCHES_MANIFEST`]. Returns a Pod whose annotation names `patches`.
async fn apply_patches_and_build_pod(fixture: &Fixture, patches: &str) -> Result<Pod> {
    fixture.ensure_application().await?;
    fixture.cluster.kubectl.apply(PATCHES_MANIFEST).await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, "patched", &["server"])?;
    pod.annotations_mut()
        .insert(PATCHES_ANNOTATION.to_owned(), patches.to_owned());
    Ok(pod)
}

/// Creates a Pod with these patches in a dry run. Returns the Pod as the API server admitted it.
async fn create_patched_in_dry_run(fixture: &Fixture, patches: &str) -> Result<Pod> {
    let pod = apply_patches_and_build_pod(fixture, patches).await?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Ok(fixture.pods(APP_NAMESPACE).create(&dry_run, &pod).await?)
}

/// Returns a container or init container of a Pod as JSON.
fn container(pod: &Pod, name: &str) -> Result<Value> {
    let spec = pod
        .spec
        .as_ref()
        .with_context(|| format!("Pod {} has no spec", pod.name_any()))?;
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let found = all.find(|container| container.name == name);
    Ok(serde_json::to_value(found.with_context(|| {
        format!("Pod {} has no container {name}", pod.name_any())
    })?)?)
}

fn check_same(field: &str, found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "{field} is {found}, not {expected}");
    Ok(())
}

/// Checks that the webhook denies these manifests with a message that contains `text`.
async fn check_denial(fixture: &Fixture, manifests: &str, text: &str) -> Result<()> {
    let arguments = ["apply", "--dry-run=server", "--filename=-"];
    let output = fixture.cluster.kubectl.output(&arguments, manifests).await?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && message.contains(text),
        "the manifests were not denied with {text:?}: {message}"
    );
    Ok(())
}
