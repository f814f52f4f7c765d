//! Checks of Pods, sidecars and ContainerPatches.

use kermode_explain::{ObservedCluster, name_of};
use kermode_inject::{try_container_patch, validate_container_patch};
use serde_json::Value;

use crate::catalogue::FindingKind;
use crate::census::{Census, Group};
use crate::facts::Facts;
use crate::report::{Check, Finding};
use crate::version;

/// Number of objects of a Namespace that a text names at most.
const NAMED_OBJECTS: usize = 5;

const PODS: &str = "Pods";
const SIDECARS: &str = "sidecars";
const PATCHES: &str = "ContainerPatches";

/// Checks Pods: those without a sidecar that would get one, and those whose sidecar is outdated.
pub(crate) fn pods(facts: &Facts) -> Check {
    let census = match &facts.census {
        Some(Ok(census)) => census,
        Some(Err(reason)) => return Check::left_out(PODS, reason),
        None => return Check::left_out(PODS, "they were not read"),
    };
    let mut findings = group_findings(
        FindingKind::PodsNotInjected,
        &census.not_injected,
        "Pods have no sidecar, and would get one today",
        "restart their workloads: kubectl rollout restart; kumactl explain pod names the cause",
    );
    findings.extend(group_findings(
        FindingKind::PodsWouldBeDenied,
        &census.denied,
        "Pods run, but a new Pod like them would be denied",
        "correct the workload before its Pods are replaced; kumactl explain pod shows the decision",
    ));
    findings.extend(group_findings(
        FindingKind::SidecarsOutdated,
        &census.outdated,
        "Pods have a sidecar that differs from what would be injected today",
        "restart their workloads when it suits them: kubectl rollout restart",
    ));
    let compared = if facts.cluster.config_is_known {
        ""
    } else {
        "; sidecars were not compared, because the settings of the control plane are not known"
    };
    let summary = format!(
        "{} exist, {} with a sidecar{compared}",
        census.pods, census.injected
    );
    Check::new(PODS, summary, findings)
}

/// Checks the sidecars by the status of their Dataplanes.
pub(crate) fn sidecars(facts: &Facts) -> Check {
    let Some(Ok(census)) = &facts.census else {
        return Check::left_out(SIDECARS, "the Pods or Dataplanes were not read");
    };
    let mut findings = group_findings(
        FindingKind::SidecarsDisconnected,
        &census.disconnected,
        "sidecars have no connection to the control plane",
        "their logs name the reason: kubectl logs POD -c kuma-sidecar; check also that the control plane is ready",
    );
    findings.extend(group_findings(
        FindingKind::ConfigurationRejected,
        &census.rejecting,
        "sidecars reject configuration",
        "kumactl explain pod names the resources. Correct the object that the message refers to; if there is none, report \
         the message as a bug",
    ));
    findings.extend(group_findings(
        FindingKind::DataplanesMissing,
        &census.without_dataplane(),
        "Pods with a sidecar and an IP have no Dataplane",
        "the leading replica writes them within seconds: check that a replica is ready, and read its log; kumactl explain pod \
         names an invalid field",
    ));
    findings.extend(version_finding(facts, census));
    Check::new(
        SIDECARS,
        format!("{} Dataplanes", census.dataplane_count),
        findings,
    )
}

/// Returns a finding about sidecars whose version differs from that of the control plane.
fn version_finding(facts: &Facts, census: &Census) -> Option<Finding> {
    let control_plane = version::of_control_plane(&facts.cluster)?;
    let others = census.versions.iter();
    let others: Vec<_> = others
        .filter(|(version, _)| version::differ(version, &control_plane))
        .collect();
    if others.is_empty() {
        return None;
    }
    let texts: Vec<String> = others
        .iter()
        .map(|(version, sidecars)| format!("{version}: {}", named(sidecars)))
        .collect();
    Some(Finding::new(
        FindingKind::VersionOfSidecarsDiffers,
        "sidecars",
        format!(
            "sidecars have another version than the control plane, which has {control_plane}: {}",
            texts.join("; ")
        ),
        "restart their workloads, so that they get the sidecar of the control plane's version",
    ))
}

/// Checks that each ContainerPatch applies to an ordinary Pod, and that those of the settings exist.
pub(crate) fn container_patches(cluster: &ObservedCluster) -> Check {
    if let Some(unread) = cluster
        .unread
        .iter()
        .find(|unread| unread.kind == "ContainerPatch")
    {
        return Check::left_out(PATCHES, &unread.reason);
    }
    let patches: Vec<&Value> = cluster.of_kind("ContainerPatch").collect();
    let mut findings: Vec<Finding> = patches
        .iter()
        .filter_map(|patch| {
            let problem = patch_problem(patch, cluster)?;
            Some(Finding::new(
                FindingKind::ContainerPatchFails,
                format!("ContainerPatch {}", name_of(patch)),
                format!("it does not apply to the containers of an ordinary Pod: {problem}"),
                "correct the operation; kumactl validate containerpatch checks it with a Pod of your choice. Pods that use \
                 the ContainerPatch are denied, unless their annotations or other ContainerPatches make it apply",
            ))
        })
        .collect();
    for name in &cluster.config.injector().container_patches {
        if !patches.iter().any(|patch| name_of(patch) == name) {
            findings.push(Finding::new(
                FindingKind::ContainerPatchMissing,
                format!("ContainerPatch {name}"),
                format!(
                    "the settings of the control plane name it for all Pods, but it does not exist in namespace {}: Pods \
                     without the annotation kuma.io/container-patches are denied",
                    cluster.config.system_namespace()
                ),
                "create the ContainerPatch, or remove its name from runtime.kubernetes.injector.containerPatches",
            ));
        }
    }
    Check::new(PATCHES, format!("{} exist", patches.len()), findings)
}

fn patch_problem(patch: &Value, cluster: &ObservedCluster) -> Option<String> {
    if let Err(problems) = validate_container_patch(patch, cluster.config.system_namespace()) {
        return problems.first().map(ToString::to_string);
    }
    let spec = serde_json::from_value(patch["spec"].clone());
    match spec {
        Ok(spec) => {
            let failure = try_container_patch(name_of(patch), &spec, cluster.config.injector());
            failure.map(|failure| failure.to_string())
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Returns a finding for each Namespace of a group.
fn group_findings(kind: FindingKind, group: &Group, problem: &str, remedy: &str) -> Vec<Finding> {
    let finding = |(namespace, members): (&String, &crate::census::Members)| {
        let example = if members.example.is_empty() {
            String::new()
        } else {
            format!("; the first one: {}", members.example)
        };
        Finding::new(
            kind,
            format!("Namespace {namespace}"),
            format!(
                "{} {problem}: {}{example}",
                members.names.len(),
                named(&members.names)
            ),
            remedy,
        )
    };
    group.iter().map(finding).collect()
}

/// Joins the first names of a list.
fn named(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED_OBJECTS).map(String::as_str).collect();
    let more = names.len().saturating_sub(NAMED_OBJECTS);
    if more == 0 {
        shown.join(", ")
    } else {
        format!("{} and {more} more", shown.join(", "))
    }
}
