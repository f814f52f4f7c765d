//! kuma-cp outside of the cluster, with a kubeconfig: the API server calls its webhooks by URL, and proxies connect to
//! the address of the host.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kube::api::ListParams;
use tokio::process::Child;

use crate::harness::host::{control_plane, end, free_port};
use crate::harness::runner::Note;
use crate::world::{APP, SYSTEM, World};

pub(super) async fn control_plane_outside_the_cluster_serves_it(world: &World) -> Result<Note> {
    world.clear().await?;
    let host = world.cluster.settings.host.as_str();
    let webhooks = free_port(host)?;
    let flag = format!("--webhook-url=https://{host}:{webhooks}");
    let manifests = world.manifests(&["--without-deployment", &flag]).await?;
    world.cluster.kubectl.apply(&manifests).await?;
    let child = start(world, host, webhooks)?;
    let outcome = serves(world).await;
    let ended = end(child).await.context("kuma-cp");
    world.clear().await?;
    outcome?;
    ended?;
    Ok(String::new())
}

fn start(world: &World, host: &str, webhooks: u16) -> Result<Child> {
    let kubeconfig = world
        .cluster
        .kubectl
        .kubeconfig()
        .to_str()
        .context("the path of the kubeconfig is not UTF-8")?;
    let (webhooks, proxies, diagnostics) = (
        webhooks.to_string(),
        free_port(host)?.to_string(),
        free_port(host)?.to_string(),
    );
    let (url, sidecar, init) = (
        format!("https://{host}:{proxies}"),
        world.cluster.image("kuma-dp")?,
        world.cluster.image("kuma-init")?,
    );
    let environment = [
        ("KUBECONFIG", kubeconfig),
        ("KUMA_STORE_KUBERNETES_SYSTEM_NAMESPACE", SYSTEM),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS", host),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT", &webhooks),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_HOSTNAMES", host),
        ("KUMA_DP_SERVER_ADDRESS", host),
        ("KUMA_DP_SERVER_PORT", &proxies),
        ("KUMA_DP_SERVER_URL", &url),
        ("KUMA_DIAGNOSTICS_ADDRESS", host),
        ("KUMA_DIAGNOSTICS_SERVER_PORT", &diagnostics),
        ("KUMA_DIAGNOSTICS_DEBUG_PORT", "0"),
        (
            "KUMA_RUNTIME_KUBERNETES_INJECTOR_SIDECAR_CONTAINER_IMAGE",
            sidecar,
        ),
        ("KUMA_INJECTOR_INIT_CONTAINER_IMAGE", init),
    ];
    let folder = world.config.target.join("e2e");
    std::fs::create_dir_all(&folder)?;
    let log = std::fs::File::create(folder.join("kuma-cp-outside.log"))?;
    let mut command = control_plane(&world.config.program("kuma-cp"), &environment);
    command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
    command.spawn().context("kuma-cp cannot be started")
}

async fn serves(world: &World) -> Result<()> {
    world.admits().await?;
    world.mesh_is_created().await?;
    world.strict().await?;
    world.deploy().await?;
    let response = world
        .counters()
        .await?
        .last_answer
        .context("the client got no response")?;
    let header = response["headers"]["x-forwarded-client-cert"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        header.contains("spiffe://default/client_e2e-mesh_svc"),
        "x-forwarded-client-cert is {header:?}"
    );
    let dataplanes = world
        .dataplanes(APP)
        .list(&ListParams::default())
        .await?
        .items
        .len();
    ensure!(dataplanes == 4, "{dataplanes} Dataplanes, not 4");
    let pods = world.pods(SYSTEM).list(&ListParams::default()).await?.items.len();
    ensure!(
        pods == 0,
        "{pods} Pods in {SYSTEM}, although the control plane runs outside of the cluster"
    );
    Ok(())
}
