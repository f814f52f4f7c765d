//! A network inside a Pod, as Docker creates one: a bridge in the Pod's network namespace, and an inner container with a
//! network namespace of its own. The Pod forwards and masquerades the packets of the inner container.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tokio::process::{Child, Command};

use super::fault::process_of;
use super::host;
use super::wait::{done_if, wait_for};

/// Name of the bridge, as in Docker.
pub(crate) const BRIDGE: &str = "docker0";
/// Addresses of the network, as in Docker.
pub(crate) const CIDR: &str = "172.17.0.0/16";

/// Inner container of a Pod. It stands for one that a privileged container of the Pod runs. Dropping this value removes
/// the container; the bridge remains until the Pod ends.
pub(crate) struct InnerContainer {
    /// Process with the network namespace of the container.
    process: Child,
}

impl InnerContainer {
    /// Creates the network and an inner container in a Pod. `program` is the name of a process in the Pod.
    pub(crate) async fn start(pod: &Pod, program: &str) -> Result<Self> {
        let outer = process_of(pod, program)?;
        let process = Command::new("unshare")
            .args(["--net", "--", "sleep", "infinity"])
            .kill_on_drop(true)
            .spawn()
            .context("unshare cannot be started")?;
        let inner = process.id().context("the inner container has ended")?;
        let own_namespace = std::fs::read_link("/proc/self/ns/net")?;
        wait_for("a network namespace", Duration::from_secs(5), async || {
            let namespace = std::fs::read_link(format!("/proc/{inner}/ns/net"))?;
            Ok(done_if(namespace != own_namespace, (), String::new))
        })
        .await?;
        let in_pod = format!(
            "ip link add {BRIDGE} type bridge
             ip address add 172.17.0.1/16 dev {BRIDGE}
             ip link set {BRIDGE} up
             ip link add inner0 type veth peer name eth0 netns {inner}
             ip link set inner0 master {BRIDGE} up
             echo 1 > /proc/sys/net/ipv4/ip_forward
             nft add table ip docker
             nft 'add chain ip docker postrouting {{ type nat hook postrouting priority srcnat; }}'
             nft 'add rule ip docker postrouting ip saddr {CIDR} oifname != {BRIDGE} masquerade'"
        );
        run_script(&outer, &in_pod).await?;
        let in_container = "ip address add 172.17.0.2/16 dev eth0
             ip link set eth0 up
             ip route add default via 172.17.0.1";
        run_script(&inner, in_container).await?;
        Ok(Self { process })
    }

    /// Makes a GET request with the demo program in the inner container. Returns what the program prints, whether or
    /// not the request succeeds. `url` must contain an IP address, because the container resolves no names.
    pub(crate) async fn get(&self, demo_program: &Path, url: &str) -> Result<String> {
        let inner = self.process.id().context("the inner container has ended")?;
        let output = host::in_network_of(inner, &demo_program.to_string_lossy())
            .args(["get", url])
            .output()
            .await
            .context("nsenter cannot be started")?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Runs a shell script in the network namespace of a process.
async fn run_script(process: &impl std::fmt::Display, script: &str) -> Result<()> {
    let output = host::in_network_of(process, "sh")
        .args(["-e", "-c", script])
        .stdin(Stdio::null())
        .output()
        .await
        .context("nsenter cannot be started")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {errors}");
    Ok(())
}
