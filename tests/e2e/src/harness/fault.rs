//! Faults that tests cause from outside of Kubernetes: killed or frozen processes, and severed connections.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;

use super::cluster::Cluster;
use crate::pods::ip;

/// nftables table, in the node's network namespace, whose rules drop the packets of severed connections.
const TABLE: &str = "inet kermode-e2e-severed";
/// nftables table, in the node's network namespace, whose rule rejects connections of the node to an address.
const REJECTING_TABLE: &str = "inet kermode-e2e-rejected";

/// Sends SIGKILL to the process named `program` in a Pod.
///
/// # Errors
/// The Pod does not have exactly one such process.
pub(crate) fn kill_program(pod: &Pod, program: &str) -> Result<()> {
    let pid = process_of(pod, program)?;
    kill(pid, Signal::SIGKILL).with_context(|| format!("cannot signal {program} of Pod {}", pod.name_any()))
}

/// Frozen process. Dropping this value resumes the process.
pub(crate) struct FrozenProcess(Pid);

impl FrozenProcess {
    /// Sends SIGSTOP to the process named `program` in a Pod.
    ///
    /// # Errors
    /// The Pod does not have exactly one such process.
    pub(crate) fn freeze(pod: &Pod, program: &str) -> Result<Self> {
        let pid = process_of(pod, program)?;
        kill(pid, Signal::SIGSTOP)
            .with_context(|| format!("cannot signal {program} of Pod {}", pod.name_any()))?;
        Ok(Self(pid))
    }
}

impl Drop for FrozenProcess {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Returns the process named `program` in a Pod.
///
/// # Errors
/// The Pod does not have exactly one such process.
pub(crate) fn process_of(pod: &Pod, program: &str) -> Result<Pid> {
    let uid = pod
        .uid()
        .with_context(|| format!("Pod {} has no UID", pod.name_any()))?;
    let pids: Vec<i32> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| runs_program(*pid, &uid, program))
        .collect();
    let name = pod.name_any();
    ensure!(
        pids.len() == 1,
        "Pod {name} must have exactly one process {program}, but has processes {pids:?}"
    );
    Ok(Pid::from_raw(pids[0]))
}

/// Whether a process runs the program in a container of the Pod with this UID. The name of a container's cgroup
/// contains the UID of its Pod.
fn runs_program(pid: i32, pod_uid: &str, program: &str) -> bool {
    let folder = Path::new("/proc").join(pid.to_string());
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    read("comm").trim() == program && read("cgroup").contains(&format!("pod{pod_uid}"))
}

/// Returns the number of processes of the node, outside of its containers, that run a program.
pub(crate) fn node_processes(cluster: &Cluster, program: &str) -> Result<usize> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let node = namespace(&cluster.node_pid.to_string()).context("the node has ended")?;
    let names = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_counted = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
            && namespace(pid).as_ref() == Some(&node)
    };
    Ok(names.filter(is_counted).count())
}

/// Address that no process of the node can connect to until [`RejectedAddress::restore`]. Pods still can.
pub(crate) struct RejectedAddress<'c> {
    cluster: &'c Cluster,
}

impl<'c> RejectedAddress<'c> {
    /// Rejects connections to a port of an IPv4 address, which may be that of a Service.
    pub(crate) async fn reject(cluster: &'c Cluster, address: &str, port: u16) -> Result<Self> {
        // The priority precedes that of kube-proxy, which replaces the address of a Service by that of an endpoint.
        let rules = format!(
            "table {REJECTING_TABLE} {{\nchain output {{ type filter hook output priority raw; \
             ip daddr {address} tcp dport {port} reject with tcp reset; }}\n}}\n"
        );
        nft(cluster, &rules).await?;
        Ok(Self { cluster })
    }

    /// Removes the rule.
    pub(crate) async fn restore(self) -> Result<()> {
        nft(self.cluster, &format!("delete table {REJECTING_TABLE}\n")).await
    }
}

/// Connections whose packets are dropped until [`SeveredConnections::restore`].
pub(crate) struct SeveredConnections<'c> {
    cluster: &'c Cluster,
}

impl<'c> SeveredConnections<'c> {
    /// Drops all packets of the current connections between these Pods and a port of the node. New connections work.
    /// Returns the severed connections and their number.
    pub(crate) async fn sever(cluster: &'c Cluster, pods: &[Pod], port: u16) -> Result<(Self, usize)> {
        let output = cluster
            .in_node_network("ss")
            .args(["-Htn", "state", "established", &format!("sport = :{port}")])
            .output()
            .await
            .context("ss cannot be started")?;
        let connections_text = String::from_utf8(output.stdout)?;
        let addresses = pods.iter().map(ip).collect::<Result<Vec<_>>>()?;
        // The fourth column of a line is the IP address and port of the peer. An IPv4 address may be mapped to IPv6:
        // `[::ffff:10.0.0.1]`.
        let peers: Vec<String> = connections_text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':'))
            .map(|(address, peer_port)| {
                (
                    address.trim_start_matches("[::ffff:").trim_end_matches(']'),
                    peer_port,
                )
            })
            .filter(|(address, _)| addresses.contains(address))
            .map(|(address, peer_port)| format!("{address} . {peer_port}"))
            .collect();
        ensure!(
            !peers.is_empty(),
            "no connection of Pods {addresses:?} to port {port} is among {connections_text}"
        );
        let mut rules = format!("table {TABLE} {{\n");
        let elements = peers.join(", ");
        writeln!(
            rules,
            "set peers {{ type ipv4_addr . inet_service; elements = {{ {elements} }} }}"
        )?;
        for (hook, address_field, port_field) in [("input", "saddr", "sport"), ("output", "daddr", "dport")] {
            writeln!(
                rules,
                "chain {hook} {{ type filter hook {hook} priority -10; \
                 ip {address_field} . tcp {port_field} @peers drop; }}"
            )?;
        }
        rules.push_str("}\n");
        nft(cluster, &rules).await?;
        Ok((Self { cluster }, peers.len()))
    }

    /// Removes the rules that drop packets.
    pub(crate) async fn restore(self) -> Result<()> {
        nft(self.cluster, &format!("delete table {TABLE}\n")).await
    }
}

/// Runs nft commands in the node's network namespace.
async fn nft(cluster: &Cluster, commands: &str) -> Result<()> {
    let mut child = cluster
        .in_node_network("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft cannot be started")?;
    let mut stdin = child
        .stdin
        .take()
        .context("the standard input of nft is not piped")?;
    stdin.write_all(commands.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "nft failed: {errors}; commands: {commands}"
    );
    Ok(())
}
