//! Checks the rules of Kubernetes' container validation that a ContainerPatch is likely to violate.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Container>

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, Probe, SecurityContext};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ContainerRole;
use crate::quantity::{self, Amount};

pub(super) fn check(container: &Container, role: ContainerRole, problems: &mut Vec<String>) {
    let mut report = |field: String, problem: &str| problems.push(format!("{field}: {problem}"));
    check_name(container, &mut report);
    check_env(container.env.as_deref().unwrap_or_default(), &mut report);
    check_ports(container, &mut report);
    check_mounts(container, &mut report);
    check_resources(container, &mut report);
    check_enums(container, &mut report);
    if let Some(context) = &container.security_context {
        check_security_context(context, &mut report);
    }
    check_probes(container, role, &mut report);
}

/// Callback that reports a problem of a field. The arguments are the field and the description of the problem.
type Report<'a> = dyn FnMut(String, &str) + 'a;

fn check_name(container: &Container, report: &mut Report<'_>) {
    let is_label_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = &container.name;
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(is_label_char)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        report(
            "name".to_owned(),
            "must be 1 to 63 lower-case letters, digits and -, and must not start or end with -",
        );
    }
}

fn check_env(variables: &[EnvVar], report: &mut Report<'_>) {
    let mut index_by_name = BTreeMap::new();
    for (index, variable) in variables.iter().enumerate() {
        if variable.name.is_empty() || variable.name.contains('=') {
            report(format!("env[{index}].name"), "must not be empty or contain =");
        }
        if variable.value_from.is_some() && variable.value.as_ref().is_some_and(|value| !value.is_empty()) {
            report(format!("env[{index}]"), "has both value and valueFrom");
        }
        if let Some(earlier) = index_by_name.get(&variable.name) {
            let problem = format!(
                "duplicate of env[{earlier}] ({}): replace /env/{earlier} instead, or use kuma.io/sidecar-env-vars",
                variable.name
            );
            report(format!("env[{index}].name"), &problem);
        } else {
            index_by_name.insert(&variable.name, index);
        }
    }
}

fn check_ports(container: &Container, report: &mut Report<'_>) {
    let mut names = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        if !(1..=65535).contains(&port.container_port) {
            report(format!("ports[{index}].containerPort"), "must be from 1 to 65535");
        }
        // 0 means no host port.
        if port.host_port.is_some_and(|port| !(0..=65535).contains(&port)) {
            report(format!("ports[{index}].hostPort"), "must be from 1 to 65535");
        }
        let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !is_port_name(name) {
            report(
                format!("ports[{index}].name"),
                "must be at most 15 lower-case letters, digits and -, with at least one letter, without --, and must not start or end with -",
            );
        }
        if !names.insert(name) {
            report(
                format!("ports[{index}].name"),
                "duplicate of an earlier port's name",
            );
        }
    }
}

fn is_port_name(name: &str) -> bool {
    name.len() <= 15
        && name.chars().any(|c| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

fn check_mounts(container: &Container, report: &mut Report<'_>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if mount.name.is_empty() {
            report(format!("volumeMounts[{index}].name"), "must not be empty");
        }
        if mount.mount_path.is_empty() || mount.mount_path.contains(':') {
            report(
                format!("volumeMounts[{index}].mountPath"),
                "must not be empty or contain :",
            );
        }
        if !paths.insert(&mount.mount_path) {
            report(
                format!("volumeMounts[{index}].mountPath"),
                "duplicate of an earlier mount's path",
            );
        }
    }
}

fn check_resources(container: &Container, report: &mut Report<'_>) {
    let Some(resources) = &container.resources else {
        return;
    };
    // `validate` calls `check` only if all quantities are valid.
    let amount = |quantity: Option<&Quantity>| -> Option<Amount> { quantity::parse(&quantity?.0).ok() };
    for (kind, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, quantity) in quantities.iter().flatten() {
            if amount(Some(quantity)).is_some_and(Amount::is_negative) {
                report(format!("resources.{kind}.{name}"), "must not be negative");
            }
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
        if let (Some(request), Some(limit)) = (amount(Some(request)), amount(limit))
            && request > limit
        {
            report(
                format!("resources.requests.{name}"),
                "must not be above the limit",
            );
        }
    }
}

fn check_enums(container: &Container, report: &mut Report<'_>) {
    for (field, value, choices) in [
        (
            "imagePullPolicy",
            &container.image_pull_policy,
            &["Always", "IfNotPresent", "Never"][..],
        ),
        (
            "terminationMessagePolicy",
            &container.termination_message_policy,
            &["File", "FallbackToLogsOnError"],
        ),
    ] {
        if value
            .as_ref()
            .is_some_and(|value| !value.is_empty() && !choices.contains(&value.as_str()))
        {
            report(
                field.to_owned(),
                &format!("must be one of {}", choices.join(", ")),
            );
        }
    }
}

fn check_security_context(context: &SecurityContext, report: &mut Report<'_>) {
    let mut report = |field: &str, problem: &str| report(format!("securityContext.{field}"), problem);
    let forbids_escalation = context.allow_privilege_escalation == Some(false);
    if forbids_escalation && context.privileged == Some(true) {
        report(
            "allowPrivilegeEscalation",
            "cannot be false while privileged is true",
        );
    }
    let added_capabilities = context
        .capabilities
        .iter()
        .flat_map(|capabilities| capabilities.add.iter().flatten());
    if forbids_escalation && added_capabilities.into_iter().any(|name| name == "CAP_SYS_ADMIN") {
        report(
            "allowPrivilegeEscalation",
            "cannot be false while CAP_SYS_ADMIN is added",
        );
    }
    if context.run_as_non_root == Some(true) && context.run_as_user == Some(0) {
        report(
            "runAsNonRoot",
            "cannot be true while runAsUser is 0: the container would never start",
        );
    }
    for (field, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        if id.is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            report(field, "must be from 0 to 2147483647");
        }
    }
    let profiles = [
        (
            "seccompProfile",
            context
                .seccomp_profile
                .as_ref()
                .map(|profile| (&profile.type_, &profile.localhost_profile)),
        ),
        (
            "appArmorProfile",
            context
                .app_armor_profile
                .as_ref()
                .map(|profile| (&profile.type_, &profile.localhost_profile)),
        ),
    ];
    for (field, profile) in profiles {
        let Some((kind, localhost_profile)) = profile else {
            continue;
        };
        let problem = match (kind.as_str(), localhost_profile.is_some()) {
            ("Localhost", true) | ("RuntimeDefault" | "Unconfined", false) => continue,
            ("Localhost", false) => "needs localhostProfile, because type is Localhost",
            ("RuntimeDefault" | "Unconfined", true) => {
                "must not have localhostProfile, because type is not Localhost"
            }
            _ => "type must be RuntimeDefault, Unconfined or Localhost",
        };
        report(field, problem);
    }
}

fn check_probes(container: &Container, role: ContainerRole, report: &mut Report<'_>) {
    for (field, probe, requires_one_success) in [
        ("livenessProbe", &container.liveness_probe, true),
        ("readinessProbe", &container.readiness_probe, false),
        ("startupProbe", &container.startup_probe, true),
    ] {
        let Some(probe) = probe else { continue };
        if role == ContainerRole::RunsToCompletion {
            report(
                field.to_owned(),
                "not allowed for an init container that runs to completion",
            );
        }
        check_probe(field, probe, requires_one_success, report);
    }
    if role == ContainerRole::RunsToCompletion && container.lifecycle.is_some() {
        report(
            "lifecycle".to_owned(),
            "not allowed for an init container that runs to completion",
        );
    }
}

fn check_probe(field: &str, probe: &Probe, requires_one_success: bool, report: &mut Report<'_>) {
    let handlers_present = [
        probe.exec.is_some(),
        probe.grpc.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
    ];
    if handlers_present.iter().filter(|present| **present).count() != 1 {
        report(
            field.to_owned(),
            "needs exactly one of exec, grpc, httpGet and tcpSocket",
        );
    }
    for (name, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if number.is_some_and(|number| number < 0) {
            report(format!("{field}.{name}"), "must not be negative");
        }
    }
    if requires_one_success && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
        report(format!("{field}.successThreshold"), "must be 1");
    }
    let ports = [
        probe.http_get.as_ref().map(|http| &http.port),
        probe.tcp_socket.as_ref().map(|tcp| &tcp.port),
    ];
    for port in ports.into_iter().flatten() {
        if matches!(port, IntOrString::Int(number) if !(1..=65535).contains(number)) {
            report(format!("{field}.port"), "must be from 1 to 65535");
        }
    }
}
