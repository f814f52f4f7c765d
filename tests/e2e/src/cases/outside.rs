//! kuma-cp outside of the cluster, with a kubeconfig. The API server calls the webhooks of kuma-cp by URL, and proxies
//! connect to the IP address of this machine.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kube::api::ListParams;
use tokio::process::Child;

use crate::fixture::{APP_NAMESPACE, Fixture, SYSTEM_NAMESPACE};
use crate::harness::host::{control_plane_command, free_port, terminate};
use crate::harness::runner::Note;

pub(super) async fn application_works_with_a_control_plane_outside_the_cluster(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.uninstall_and_delete_test_objects().await?;
    let host = fixture.cluster.addresses.host.as_str();
    let webhook_port = free_port(host)?;
    let flag = format!("--webhook-url=https://{host}:{webhook_port}");
    let manifests = fixture.manifests(&["--without-deployment", &flag]).await?;
    fixture.cluster.kubectl.apply(&manifests).await?;
    let control_plane = start_control_plane(fixture, host, webhook_port)?;
    let outcome = check_mesh(fixture).await;
    let shutdown = terminate(control_plane)
        .await
        .context("the shutdown of kuma-cp failed");
    fixture.uninstall_and_delete_test_objects().await?;
    outcome?;
    shutdown?;
    Ok(String::new())
}

fn start_control_plane(fixture: &Fixture, host: &str, webhook_port: u16) -> Result<Child> {
    let kubeconfig = fixture
        .cluster
        .kubectl
        .kubeconfig()
        .to_str()
        .context("the path of the kubeconfig is not UTF-8")?;
    let (webhook_port, proxy_port, diagnostics_port) = (
        webhook_port.to_string(),
        free_port(host)?.to_string(),
        free_port(host)?.to_string(),
    );
    let (proxy_url, sidecar_image, init_image) = (
        format!("https://{host}:{proxy_port}"),
        fixture.cluster.image("kuma-dp")?,
        fixture.cluster.image("kuma-init")?,
    );
    let environment = [
        ("KUBECONFIG", kubeconfig),
        ("KUMA_STORE_KUBERNETES_SYSTEM_NAMESPACE", SYSTEM_NAMESPACE),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS", host),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT", &webhook_port),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_HOSTNAMES", host),
        ("KUMA_DP_SERVER_ADDRESS", host),
        ("KUMA_DP_SERVER_PORT", &proxy_port),
        ("KUMA_DP_SERVER_URL", &proxy_url),
        ("KUMA_DIAGNOSTICS_ADDRESS", host),
        ("KUMA_DIAGNOSTICS_SERVER_PORT", &diagnostics_port),
        // No debug server.
        ("KUMA_DIAGNOSTICS_DEBUG_PORT", "0"),
        (
            "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_IMAGE",
            sidecar_image,
        ),
        ("KUMA_INJECTOR_INIT_CONTAINER_IMAGE", init_image),
    ];
    let folder = fixture.config.checkout.target.join("e2e");
    std::fs::create_dir_all(&folder)?;
    let log = std::fs::File::create(folder.join("kuma-cp-outside.log"))?;
    let mut command = control_plane_command(&fixture.config.checkout.release_binary("kuma-cp"), &environment);
    command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
    command.spawn().context("kuma-cp cannot be started")
}

/// Checks that the Pods of the application are injected, that the client gets responses by mTLS, and that the cluster
/// runs no control plane.
async fn check_mesh(fixture: &Fixture) -> Result<()> {
    fixture.wait_for_admission().await?;
    fixture.wait_for_default_mesh().await?;
    fixture.apply_strict_mesh().await?;
    fixture.deploy_application().await?;
    let response = fixture
        .client_counters()
        .await?
        .last_response
        .context("the client got no response")?;
    let header = response["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        header.contains("spiffe://default/client_e2e-mesh_svc"),
        "x-forwarded-client-cert does not contain the identity of the client: {header:?}"
    );
    let dataplane_count = fixture
        .dataplanes(APP_NAMESPACE)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    ensure!(
        dataplane_count == 4,
        "{dataplane_count} Dataplanes exist instead of 4, for three servers and a client"
    );
    let pod_count = fixture
        .pods(SYSTEM_NAMESPACE)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    ensure!(
        pod_count == 0,
        "{pod_count} Pods exist in {SYSTEM_NAMESPACE}, although the control plane runs outside of the cluster"
    );
    Ok(())
}
