//! At least 200 starts of Pods with the CNI plugin: before, during and after the start of its installer, while parts of
//! the cluster are away, and after a reboot of the node. No Pod sends plain text, and each Pod starts.

mod batch;
mod phase;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::cni;
use crate::fixture::Fixture;
use crate::harness::fault::{RejectedAddress, node_processes};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use batch::{Batch, SIZE};
use phase::{Phase, observe};

/// Smallest number of starts.
const MIN_STARTS: usize = 200;
/// Time limit of each condition, such as the start of all Pods of a batch with their sidecars.
const TIMEOUT: Duration = Duration::from_mins(4);
/// Time by which the installer starts later than Pods.
const LATENESS: Duration = Duration::from_secs(30);
/// Time for which the API server is away.
const OUTAGE: Duration = Duration::from_secs(20);
/// Number of restarts of the installer while Pods start.
const RESTARTS: usize = 3;
/// Time between two changes of the network configuration by another component.
const REWRITE_INTERVAL: Duration = Duration::from_millis(300);
/// Largest number of these changes.
const MAX_REWRITES: usize = 1000;
/// Network configuration of the cluster's nodes.
const NETWORK_CONFIGURATION: &str = "/etc/cni/net.d/10-kermode.conflist";
/// DaemonSet of the installer.
const INSTALLER: &str = "daemonset/kuma-cni";
const INSTALLER_NAMESPACE: &str = "--namespace=kube-system";
/// Small requests for the sidecars, so that the node has room for a batch.
const FLAGS: [&str; 2] = [
    "--env-var=KUMA_INJECTOR_SIDECAR_CONTAINER_RESOURCES_REQUESTS_CPU=1m",
    "--env-var=KUMA_INJECTOR_SIDECAR_CONTAINER_RESOURCES_REQUESTS_MEMORY=8Mi",
];

pub(super) async fn pods_send_no_plain_text_whenever_they_start(fixture: &Fixture) -> Result<Note> {
    fixture.uninstall_and_delete_test_objects().await?;
    // After a failure, the objects stay until the next test, so that the diagnosis shows them.
    let phases = check(fixture).await?;
    fixture.uninstall_and_delete_test_objects().await?;
    let starts: usize = phases.iter().map(|phase| phase.starts).sum();
    ensure!(
        starts >= MIN_STARTS,
        "only {starts} starts instead of {MIN_STARTS}"
    );
    let longest_repair = phases.iter().map(|phase| phase.longest_repair);
    Ok(format!(
        "{starts} starts, 0 readable segments; all Pods redirected within {:.1} s",
        longest_repair.fold(0.0, f64::max)
    ))
}

async fn check(fixture: &Fixture) -> Result<Vec<Phase>> {
    let configuration = read_network_configuration(fixture).await?;
    let installer = cni::install_control_plane(fixture, &FLAGS).await?;
    fixture.apply_strict_mesh().await?;
    fixture.apply_application().await?;
    let scenario = Scenario {
        fixture,
        installer,
        configuration,
    };
    let mut phases = Vec::new();

    let batch = Batch::new(fixture, "before");
    phases.push(
        observe(&batch, "before the installer", async || {
            scenario.before(&batch).await
        })
        .await?,
    );
    batch.delete().await?;

    let batch = Batch::new(fixture, "during");
    phases.push(
        observe(&batch, "during restarts of the installer", async || {
            scenario.during(&batch).await
        })
        .await?,
    );
    batch.delete().await?;

    let batch = Batch::new(fixture, "after");
    phases.push(
        observe(&batch, "after the installer", async || {
            scenario.after(&batch).await
        })
        .await?,
    );
    phases.push(
        observe(&batch, "after a reboot of the node", async || {
            scenario.reboot(&batch).await
        })
        .await?,
    );
    batch.delete().await?;

    let batch = Batch::new(fixture, "late");
    phases.push(
        observe(&batch, "30 s before the installer", async || {
            scenario.late(&batch).await
        })
        .await?,
    );
    batch.delete().await?;

    let batch = Batch::new(fixture, "outage");
    phases.push(
        observe(&batch, "while the API server is away", async || {
            scenario.outage(&batch).await
        })
        .await?,
    );
    batch.delete().await?;

    let batch = Batch::new(fixture, "rewritten");
    let name = "while another component removes the plugin";
    phases.push(observe(&batch, name, async || scenario.rewritten(&batch).await).await?);
    batch.delete().await?;
    Ok(phases)
}

/// Cluster and texts that all phases share.
struct Scenario<'f> {
    fixture: &'f Fixture,
    /// Manifest of the installer.
    installer: String,
    /// Network configuration of the node without the plugin.
    configuration: String,
}

/// The methods start a batch of Pods and wait until all have started. They return the time at which the last absent part
/// of the cluster came back, if a part was absent.
impl Scenario<'_> {
    async fn before(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        batch.create().await?;
        batch.wait_for_validation().await?;
        self.start_installer().await?;
        batch.wait_for_starts().await?;
        self.installer_start().await.map(Some)
    }

    async fn during(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        batch.create().await?;
        let restarts = async {
            for _ in 0..RESTARTS {
                self.kubectl(&["rollout", "restart", INSTALLER, INSTALLER_NAMESPACE])
                    .await?;
                self.wait_for_installer().await?;
            }
            Ok(())
        };
        tokio::try_join!(restarts, batch.wait_for_starts())?;
        self.installer_start().await.map(Some)
    }

    async fn after(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        batch.create().await?;
        batch.wait_for_starts().await?;
        Ok(None)
    }

    /// Restarts the Pods that run.
    async fn reboot(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        let former = batch.containers().await?;
        self.fixture.cluster.reboot().await?;
        batch.wait_for_starts_after(&former).await?;
        self.installer_start().await.map(Some)
    }

    async fn late(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        self.stop_installer().await?;
        batch.create().await?;
        let start = Instant::now() + LATENESS;
        batch.wait_for_validation().await?;
        sleep_until(start).await;
        self.start_installer().await?;
        batch.wait_for_starts().await?;
        self.installer_start().await.map(Some)
    }

    /// The plugin cannot reach the API server while the Pods are created, so that it waits for all of them once the API
    /// server ends.
    async fn outage(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        let cluster = &self.fixture.cluster;
        let services = Api::<Service>::namespaced(cluster.client.clone(), "default");
        let address = services
            .get("kubernetes")
            .await?
            .spec
            .and_then(|spec| spec.cluster_ip);
        let address = address.context("the Service kubernetes has no address")?;
        let rejected = RejectedAddress::reject(cluster, &address, 443).await?;
        let waiting = async {
            batch.create().await?;
            wait_for("the plugin to wait for each Pod", TIMEOUT, async || {
                let count = node_processes(cluster, "kuma-cni")?;
                Ok(done_if(count >= SIZE, (), || {
                    format!("the plugin waits for {count} Pods")
                }))
            })
            .await
        };
        let waiting = waiting.await;
        cluster.stop_component("kube-apiserver").await?;
        rejected.restore().await?;
        sleep(OUTAGE).await;
        let back = Timestamp::now();
        cluster.start_component("kube-apiserver").await?;
        waiting?;
        batch.wait_for_starts().await?;
        Ok(Some(back))
    }

    async fn rewritten(&self, batch: &Batch<'_>) -> Result<Option<Timestamp>> {
        let rewrites = async {
            for _ in 0..MAX_REWRITES {
                self.write_network_configuration().await?;
                sleep(REWRITE_INTERVAL).await;
            }
            anyhow::bail!(
                "the Pods have not started after {MAX_REWRITES} changes of the network configuration"
            )
        };
        batch.create().await?;
        tokio::select! {
            started = batch.wait_for_starts() => started?,
            ended = rewrites => ended?,
        }
        Ok(None)
    }

    // === installer ===

    async fn start_installer(&self) -> Result<()> {
        self.fixture.cluster.kubectl.apply(&self.installer).await?;
        self.wait_for_installer().await
    }

    /// Deletes the installer, and waits until its Pod has ended.
    async fn stop_installer(&self) -> Result<()> {
        self.kubectl(&["delete", INSTALLER, INSTALLER_NAMESPACE, "--cascade=foreground"])
            .await
    }

    async fn wait_for_installer(&self) -> Result<()> {
        self.kubectl(&[
            "rollout",
            "status",
            INSTALLER,
            INSTALLER_NAMESPACE,
            "--timeout=240s",
        ])
        .await
    }

    /// Returns the time at which the installer's container started.
    async fn installer_start(&self) -> Result<Timestamp> {
        batch::start_of_container(self.fixture, "kube-system", "kuma-cni").await
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        self.fixture.cluster.kubectl.run(arguments).await.map(drop)
    }

    // === network configuration ===

    /// Replaces the network configuration atomically by the one without the plugin.
    async fn write_network_configuration(&self) -> Result<()> {
        let script = format!("cat > /etc/cni/net.d/.new && mv /etc/cni/net.d/.new {NETWORK_CONFIGURATION}");
        let mut child = self
            .fixture
            .cluster
            .with_node_files("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .context("sh cannot be started")?;
        let mut stdin = child
            .stdin
            .take()
            .context("the standard input of sh is not piped")?;
        stdin.write_all(self.configuration.as_bytes()).await?;
        drop(stdin);
        let status = child.wait().await?;
        ensure!(
            status.success(),
            "the network configuration cannot be written: {status}"
        );
        Ok(())
    }
}

async fn read_network_configuration(fixture: &Fixture) -> Result<String> {
    let mut command = fixture.cluster.with_node_files("cat");
    let output = command.arg(NETWORK_CONFIGURATION).output().await?;
    ensure!(output.status.success(), "{NETWORK_CONFIGURATION} cannot be read");
    Ok(String::from_utf8(output.stdout)?)
}
