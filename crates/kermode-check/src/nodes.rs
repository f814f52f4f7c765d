//! Checks of the nodes: operating system, kernel, kubelet, clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use kermode_explain::{ObservedCluster, Reference, list, name_of, text};
use kermode_model::{KubernetesVersion, duration};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::catalogue::FindingKind;
use crate::facts::Facts;
use crate::report::{Check, Finding};

/// Oldest kernel: the first one with chains of type nat in tables of the family inet, which the redirection uses.
/// <https://wiki.nftables.org/wiki-nftables/index.php/Nftables_families>
const OLDEST_KERNEL: KubernetesVersion = KubernetesVersion::new(5, 2);
/// Architectures for which there are images.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Namespace of the Leases that kubelets renew.
const LEASES: &str = "kube-node-lease";
/// Difference of clocks above which there is a warning. Differences of a few seconds come from the measurement, which
/// uses whole seconds.
const CLOCK_WARNING: Duration = Duration::from_secs(30);

const NODES: &str = "nodes";
const CLOCKS: &str = "clocks";

/// Checks operating system, kernel, architecture and kubelet of each node.
pub(crate) fn nodes(cluster: &ObservedCluster) -> Check {
    if let Some(reason) = unread(cluster, "Node") {
        return Check::left_out(NODES, reason);
    }
    let nodes: Vec<&Value> = cluster.of_kind("Node").collect();
    let linux: Vec<&Value> = nodes
        .iter()
        .copied()
        .filter(|node| info(node, "operatingSystem") == "linux")
        .collect();
    let mut findings: Vec<Finding> = linux.iter().flat_map(|node| node_findings(node)).collect();
    if linux.is_empty() {
        findings.push(Finding::new(
            FindingKind::NoLinuxNode,
            "nodes",
            "no node runs Linux, so neither the control plane nor a Pod with a sidecar can run",
            "add a Linux node",
        ));
    }
    findings.extend(old_kubelets(&linux));
    let distinct = |key: &str| {
        let values: BTreeSet<&str> = linux.iter().map(|node| info(node, key)).collect();
        values.into_iter().collect::<Vec<_>>().join(", ")
    };
    let summary = format!(
        "{} with Linux, {} with another system; kernel {}; kubelet {}; {}",
        linux.len(),
        nodes.len() - linux.len(),
        distinct("kernelVersion"),
        distinct("kubeletVersion"),
        distinct("containerRuntimeVersion"),
    );
    Check::new(NODES, summary, findings)
}

fn node_findings(node: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (kernel, architecture) = (info(node, "kernelVersion"), info(node, "architecture"));
    if KubernetesVersion::parse(kernel).is_some_and(|version| version < OLDEST_KERNEL) {
        findings.push(Finding::new(
            FindingKind::KernelTooOld,
            Reference::to(node).to_string(),
            format!("its kernel is {kernel}, whose nftables cannot redirect the traffic of Pods"),
            format!("update the kernel to {OLDEST_KERNEL} or later with nf_tables, or keep meshed Pods off the node"),
        ));
    }
    if !ARCHITECTURES.contains(&architecture) {
        findings.push(Finding::new(
            FindingKind::ArchitectureUnsupported,
            Reference::to(node).to_string(),
            format!("its architecture is {architecture}, for which there are no images"),
            format!(
                "keep meshed Pods and the control plane on nodes with {}",
                ARCHITECTURES.join(" or ")
            ),
        ));
    }
    findings
}

/// Returns a finding about kubelets without native sidecars. One of them makes all sidecars classic.
fn old_kubelets(nodes: &[&Value]) -> Option<Finding> {
    let old: Vec<String> = nodes
        .iter()
        .filter(|node| {
            let version = KubernetesVersion::parse(info(node, "kubeletVersion"));
            version.is_some_and(|version| !version.supports_native_sidecars())
        })
        .map(|node| format!("{} ({})", name_of(node), info(node, "kubeletVersion")))
        .collect();
    let first = old.first()?;
    Some(Finding::new(
        FindingKind::KubeletTooOld,
        format!("Node {first}"),
        format!(
            "{} of {} kubelets are older than 1.29, so all sidecars of the cluster are classic in mode auto",
            old.len(),
            nodes.len()
        ),
        "upgrade the kubelets for native sidecars",
    ))
}

/// Compares the clock of this machine and the clocks of the nodes with that of the API server.
pub(crate) fn clocks(facts: &Facts) -> Check {
    let mut findings: Vec<Finding> = facts
        .clocks
        .and_then(|clocks| {
            let difference = distance(clocks.local, clocks.api_server);
            (difference > CLOCK_WARNING).then(|| {
                Finding::new(
                    FindingKind::LocalClockDiffers,
                    "this machine",
                    format!(
                        "its clock is {} {} that of the API server",
                        duration::format(whole_seconds(difference)),
                        direction(clocks.local, clocks.api_server)
                    ),
                    "synchronise the clock of this machine, for example by NTP; the checks use the time of the API server",
                )
            })
        })
        .into_iter()
        .collect();
    if let Some(reason) = unread(&facts.cluster, "Lease") {
        return if findings.is_empty() {
            Check::left_out(CLOCKS, reason)
        } else {
            Check::new(CLOCKS, format!("only of this machine: {reason}"), findings)
        };
    }
    let skews: BTreeMap<&str, (SystemTime, SystemTime)> = facts
        .cluster
        .in_namespace("Lease", LEASES)
        .filter_map(|lease| Some((name_of(lease), renewal(lease)?)))
        .collect();
    let tolerance = facts.cluster.config.general.clock_tolerance;
    findings.extend(
        skews.iter().filter_map(|(node, (kubelet, api_server))| {
            clock_finding(node, *kubelet, *api_server, tolerance)
        }),
    );
    let largest = skews
        .values()
        .map(|(kubelet, api_server)| distance(*kubelet, *api_server))
        .max()
        .unwrap_or_default();
    let summary = format!(
        "{} nodes, at most {} from the API server",
        skews.len(),
        duration::format(whole_seconds(largest))
    );
    Check::new(CLOCKS, summary, findings)
}

fn clock_finding(
    node: &str,
    kubelet: SystemTime,
    api_server: SystemTime,
    tolerance: Duration,
) -> Option<Finding> {
    let difference = distance(kubelet, api_server);
    let kind = if difference > tolerance.max(CLOCK_WARNING) {
        FindingKind::NodeClockWrong
    } else if difference > CLOCK_WARNING {
        FindingKind::NodeClockDiffers
    } else {
        return None;
    };
    Some(Finding::new(
        kind,
        format!("Node {node}"),
        format!(
            "its clock is {} {} that of the API server; certificates tolerate {}",
            duration::format(whole_seconds(difference)),
            direction(kubelet, api_server),
            duration::format(tolerance)
        ),
        "synchronise the clock of the node, for example by NTP",
    ))
}

/// Returns the time of the last renewal of a Lease by the clock of the kubelet, and by the clock of the API server, which
/// records the time of each change for its writer.
fn renewal(lease: &Value) -> Option<(SystemTime, SystemTime)> {
    let renewed = timestamp(text(lease, "/spec/renewTime"))?;
    let writes = list(lease, "/metadata/managedFields").iter();
    let renews = |entry: &&Value| entry["fieldsV1"]["f:spec"].get("f:renewTime").is_some();
    let written = writes
        .filter(renews)
        .filter_map(|entry| timestamp(text(entry, "/time")))
        .max()?;
    Some((renewed, written))
}

/// Parses a time of an object.
pub(crate) fn timestamp(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(Into::into)
}

fn distance(left: SystemTime, right: SystemTime) -> Duration {
    left.duration_since(right)
        .unwrap_or_else(|error| error.duration())
}

fn direction(clock: SystemTime, reference: SystemTime) -> &'static str {
    if clock > reference { "ahead of" } else { "behind" }
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

fn info<'a>(node: &'a Value, key: &str) -> &'a str {
    text(&node["status"]["nodeInfo"], &format!("/{key}"))
}

/// Returns the reason why the objects of a kind were not read.
pub(crate) fn unread<'a>(cluster: &'a ObservedCluster, kind: &str) -> Option<&'a str> {
    let unread = cluster.unread.iter().find(|unread| unread.kind == kind)?;
    Some(&unread.reason)
}
