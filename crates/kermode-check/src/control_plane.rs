//! Checks of the control plane: replicas, leader, versions, registrations of webhooks, CNI plugin.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use kermode_explain::{ObservedCluster, list, name_of, text};
use kermode_install::NAME;
use kermode_k8s::controller::registration::{MUTATING, VALIDATING};
use serde_json::Value;

use crate::catalogue::FindingKind;
use crate::facts::Facts;
use crate::nodes::{timestamp, unread};
use crate::report::{Check, Finding};
use crate::version;

/// Name of the Lease that the leading replica holds.
pub const LEASE: &str = "kuma-cp-leader";
/// Time since the last renewal after which no replica leads: another replica takes the Lease over after 15 s.
const LEASE_EXPIRY: Duration = Duration::from_mins(1);
/// Name and namespace of the DaemonSet of the CNI plugin.
pub const CNI: (&str, &str) = ("kuma-cni", "kube-system");

const CONTROL_PLANE: &str = "control plane";
const WEBHOOKS: &str = "webhooks";
const CNI_PLUGIN: &str = "CNI plugin";

/// Checks the replicas of the control plane, its leader and its version.
pub(crate) fn control_plane(facts: &Facts, now: SystemTime) -> Check {
    let cluster = &facts.cluster;
    let namespace = cluster.config.system_namespace();
    let object = format!("Deployment {namespace}/{NAME}");
    if let Some(reason) = unread(cluster, "Deployment") {
        return Check::left_out(CONTROL_PLANE, reason);
    }
    let Some(deployment) = cluster.find("Deployment", namespace, NAME) else {
        // Without a Deployment, the control plane may run outside of the cluster.
        if registered_url(cluster).is_some() {
            return Check::left_out(CONTROL_PLANE, "it runs outside of the cluster");
        }
        return Check::new(
            CONTROL_PLANE,
            format!("none in namespace {namespace}"),
            vec![Finding::new(
                FindingKind::ControlPlaneMissing,
                object,
                "it does not exist",
                "install the control plane with kumactl install control-plane, or name its namespace with \
                 --control-plane-namespace",
            )],
        );
    };
    let pods = cluster.control_plane_pods.as_deref().unwrap_or_default();
    let mut findings = replica_findings(deployment, pods, &object, namespace);
    findings.extend(leader_finding(cluster, pods, now));
    findings.extend(kumactl_finding(facts, &object));
    let number = |pointer: &str| {
        deployment
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let version = version::of_control_plane(cluster);
    let summary = format!(
        "{} of {} replicas ready, version {}{}",
        number("/status/readyReplicas"),
        number("/spec/replicas"),
        version.as_deref().unwrap_or("unknown"),
        unchecked(cluster),
    );
    Check::new(CONTROL_PLANE, summary, findings)
}

fn replica_findings(deployment: &Value, pods: &[Value], object: &str, namespace: &str) -> Vec<Finding> {
    let number = |pointer: &str| {
        deployment
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_default()
    };
    let (ready, wanted) = (number("/status/readyReplicas"), number("/spec/replicas"));
    let describe = format!("kubectl -n {namespace} describe deployment,pods -l app={NAME}");
    let mut findings = Vec::new();
    if ready == 0 {
        findings.push(Finding::new(
            FindingKind::ControlPlaneNotReady,
            object,
            "no replica is ready: Pods that request injection are denied, and sidecars keep the configuration that they have",
            describe,
        ));
    } else if ready < wanted {
        findings.push(Finding::new(
            FindingKind::ReplicasNotReady,
            object,
            format!("{} of {wanted} replicas are not ready", wanted - ready),
            describe,
        ));
    }
    let images: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| text(pod, "/metadata/deletionTimestamp").is_empty())
        .filter_map(|pod| list(pod, "/spec/containers").first())
        .map(|container| text(container, "/image"))
        .collect();
    if images.len() > 1 {
        let images: Vec<&str> = images.into_iter().collect();
        findings.push(Finding::new(
            FindingKind::ReplicasDiffer,
            object,
            format!("its replicas have different images: {}", images.join(", ")),
            format!(
                "wait for the end of the rollout: kubectl -n {namespace} rollout status deployment {NAME}"
            ),
        ));
    }
    findings
}

/// Returns the parts of the check that are left out because their objects were not read, as the end of a summary.
fn unchecked(cluster: &ObservedCluster) -> String {
    if cluster.control_plane_pods.is_none() {
        let reason = unread(cluster, "Pod").unwrap_or("the Pods of the control plane were not read");
        return format!("; leader and images of the replicas not checked: {reason}");
    }
    let reason = unread(cluster, "Lease").map(|reason| format!("; leader not checked: {reason}"));
    reason.unwrap_or_default()
}

/// Returns a finding if no running replica renews the Lease.
fn leader_finding(cluster: &ObservedCluster, pods: &[Value], now: SystemTime) -> Option<Finding> {
    if unread(cluster, "Lease").is_some() || cluster.control_plane_pods.is_none() {
        return None;
    }
    let namespace = cluster.config.system_namespace();
    let lease = cluster.find("Lease", namespace, LEASE);
    let holder = lease
        .map(|lease| text(lease, "/spec/holderIdentity"))
        .unwrap_or_default();
    // The identity is the name of the Pod and a random number.
    let is_running = pods.iter().any(|pod| {
        let rest = holder.strip_prefix(name_of(pod));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    let renewed = lease.and_then(|lease| timestamp(text(lease, "/spec/renewTime")));
    let is_renewed = renewed.is_some_and(|renewed| renewed + LEASE_EXPIRY > now);
    let problem = match (holder.is_empty(), is_running, is_renewed) {
        (false, true, true) => return None,
        (true, ..) => "no replica holds it".to_owned(),
        (_, false, _) => format!("its holder {holder} is no Pod of the control plane"),
        (.., false) => format!("its holder {holder} has not renewed it for more than a minute"),
    };
    Some(Finding::new(
        FindingKind::LeaderMissing,
        format!("Lease {namespace}/{LEASE}"),
        format!("{problem}, so Dataplanes, caBundle and status are not written"),
        "a ready replica takes the Lease within 20 s: read the logs of the replicas, and check that the ServiceAccount of the \
         control plane may update the Lease",
    ))
}

fn kumactl_finding(facts: &Facts, object: &str) -> Option<Finding> {
    let version = version::of_control_plane(&facts.cluster)?;
    let own = &facts.kumactl_version;
    version::differ(&version, own).then(|| {
        Finding::new(
            FindingKind::VersionOfKumactlDiffers,
            object,
            format!(
                "its version is {version}, and that of kumactl {own}: decisions that kumactl predicts may be different ones"
            ),
            format!("use kumactl {version}"),
        )
    })
}

/// Returns the URL of the first webhook of the injector that is registered by a URL.
fn registered_url(cluster: &ObservedCluster) -> Option<&str> {
    let registration = cluster.find("MutatingWebhookConfiguration", "", MUTATING)?;
    let webhook = list(registration, "/webhooks").first()?;
    Some(text(webhook, "/clientConfig/url")).filter(|url| !url.is_empty())
}

/// Checks that the webhooks are registered with a CA certificate.
pub(crate) fn webhooks(cluster: &ObservedCluster) -> Check {
    let registrations = [
        ("MutatingWebhookConfiguration", MUTATING),
        ("ValidatingWebhookConfiguration", VALIDATING),
    ];
    let mut findings = Vec::new();
    let mut count = 0;
    for (kind, name) in registrations {
        if let Some(reason) = unread(cluster, kind) {
            return Check::left_out(WEBHOOKS, reason);
        }
        let Some(registration) = cluster.find(kind, "", name) else {
            findings.push(Finding::new(
                FindingKind::WebhooksMissing,
                format!("{kind} {name}"),
                "it does not exist, so the API server does not call the control plane",
                "apply the manifests of kumactl install control-plane",
            ));
            continue;
        };
        for webhook in list(registration, "/webhooks") {
            count += 1;
            if text(webhook, "/clientConfig/caBundle").is_empty() {
                findings.push(Finding::new(
                    FindingKind::WebhookWithoutCa,
                    format!("{kind} {name}"),
                    format!(
                        "webhook {} has no caBundle, so the API server cannot call it",
                        text(webhook, "/name")
                    ),
                    "the leading replica writes the caBundle within seconds: check that a replica is ready, and read its log",
                ));
            }
        }
    }
    Check::new(WEBHOOKS, format!("{count} are registered"), findings)
}

/// Checks that the CNI plugin is ready on each Linux node, if the settings require it.
pub(crate) fn cni(cluster: &ObservedCluster) -> Check {
    let (name, namespace) = CNI;
    let object = format!("DaemonSet {namespace}/{name}");
    if let Some(reason) = unread(cluster, "DaemonSet") {
        return Check::left_out(CNI_PLUGIN, reason);
    }
    let is_required = cluster.config.injector().cni_enabled;
    let Some(daemon_set) = cluster.find("DaemonSet", namespace, name) else {
        let missing = is_required.then(|| {
            Finding::new(
                FindingKind::CniMissing,
                object,
                "it does not exist, but the settings of the control plane require the CNI plugin: injected Pods do not start",
                "install with --cni-enabled, or set runtime.kubernetes.injector.cniEnabled to false",
            )
        });
        return Check::new(CNI_PLUGIN, "not installed", missing.into_iter().collect());
    };
    let number = |key: &str| daemon_set["status"][key].as_u64().unwrap_or_default();
    let (wanted, ready) = (number("desiredNumberScheduled"), number("numberReady"));
    let mut findings = Vec::new();
    if ready < wanted {
        findings.push(Finding::new(
            FindingKind::CniNotReady,
            &object,
            format!(
                "{} of {wanted} installers are not ready: new Pods with a sidecar wait on these nodes",
                wanted - ready
            ),
            format!(
                "kubectl -n {namespace} get pods -l app={name} -o wide; the log of an installer names the reason \
                 (docs/reference/transparent-proxying.md#installer)"
            ),
        ));
    }
    let linux = cluster
        .of_kind("Node")
        .filter(|node| text(node, "/status/nodeInfo/operatingSystem") == "linux");
    let linux = linux.count() as u64;
    if unread(cluster, "Node").is_none() && wanted < linux {
        findings.push(Finding::new(
            FindingKind::CniNotOnNode,
            object,
            format!("it runs on {wanted} of {linux} Linux nodes: injected Pods do not start on the others"),
            "change --cni-node-selector, or keep meshed Pods off these nodes",
        ));
    }
    Check::new(
        CNI_PLUGIN,
        format!("ready on {ready} of {wanted} nodes"),
        findings,
    )
}
