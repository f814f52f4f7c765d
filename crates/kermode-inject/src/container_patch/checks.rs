//! Rules of Kubernetes' own validation of containers, as far as a ContainerPatch is likely to violate them.
//!
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#Container>

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, EnvVar, Probe, SecurityContext};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ContainerRole;
use crate::quantity::{self, Amount};

pub(super) fn check(container: &Container, role: ContainerRole, problems: &mut Vec<String>) {
    let mut found = |field: String, problem: &str| problems.push(format!("{field}: {problem}"));
    check_name(container, &mut found);
    check_env(container.env.as_deref().unwrap_or_default(), &mut found);
    check_ports(container, &mut found);
    check_mounts(container, &mut found);
    check_resources(container, &mut found);
    check_words(container, &mut found);
    if let Some(context) = &container.security_context {
        check_security_context(context, &mut found);
    }
    check_probes(container, role, &mut found);
}

type Report<'a> = dyn FnMut(String, &str) + 'a;

fn check_name(container: &Container, found: &mut Report<'_>) {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = &container.name;
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(label)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        found(
            "name".to_owned(),
            "must be lower-case letters, digits and -, at most 63",
        );
    }
}

fn check_env(variables: &[EnvVar], found: &mut Report<'_>) {
    let mut first = BTreeMap::new();
    for (index, variable) in variables.iter().enumerate() {
        if variable.name.is_empty() || variable.name.contains('=') {
            found(format!("env[{index}].name"), "must not be empty nor contain =");
        }
        if variable.value_from.is_some() && variable.value.as_ref().is_some_and(|value| !value.is_empty()) {
            found(format!("env[{index}]"), "has both value and valueFrom");
        }
        if let Some(earlier) = first.get(&variable.name) {
            let problem = format!(
                "duplicate of env[{earlier}] ({}): replace /env/{earlier} instead, or use kuma.io/sidecar-env-vars",
                variable.name
            );
            found(format!("env[{index}].name"), &problem);
        } else {
            first.insert(&variable.name, index);
        }
    }
}

fn check_ports(container: &Container, found: &mut Report<'_>) {
    let mut names = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        if !(1..=65535).contains(&port.container_port) {
            found(format!("ports[{index}].containerPort"), "must be from 1 to 65535");
        }
        if port.host_port.is_some_and(|port| !(0..=65535).contains(&port)) {
            found(format!("ports[{index}].hostPort"), "must be from 1 to 65535");
        }
        let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !is_port_name(name) {
            found(
                format!("ports[{index}].name"),
                "must be lower-case letters, digits and -, at most 15, with a letter",
            );
        }
        if !names.insert(name) {
            found(
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

fn check_mounts(container: &Container, found: &mut Report<'_>) {
    let mut paths = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if mount.name.is_empty() {
            found(format!("volumeMounts[{index}].name"), "must not be empty");
        }
        if mount.mount_path.is_empty() || mount.mount_path.contains(':') {
            found(
                format!("volumeMounts[{index}].mountPath"),
                "must not be empty nor contain :",
            );
        }
        if !paths.insert(&mount.mount_path) {
            found(
                format!("volumeMounts[{index}].mountPath"),
                "duplicate of an earlier mount's path",
            );
        }
    }
}

fn check_resources(container: &Container, found: &mut Report<'_>) {
    let Some(resources) = &container.resources else {
        return;
    };
    let amount = |quantity: Option<&Quantity>| -> Option<Amount> { quantity::parse(&quantity?.0).ok() };
    for (kind, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, quantity) in amounts.iter().flatten() {
            if amount(Some(quantity)).is_some_and(Amount::is_negative) {
                found(format!("resources.{kind}.{name}"), "must not be negative");
            }
        }
    }
    for (name, request) in resources.requests.iter().flatten() {
        let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
        if let (Some(request), Some(limit)) = (amount(Some(request)), amount(limit))
            && request > limit
        {
            found(
                format!("resources.requests.{name}"),
                "must not be above the limit",
            );
        }
    }
}

fn check_words(container: &Container, found: &mut Report<'_>) {
    for (field, value, words) in [
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
            .is_some_and(|value| !value.is_empty() && !words.contains(&value.as_str()))
        {
            found(field.to_owned(), &format!("must be one of {}", words.join(", ")));
        }
    }
}

fn check_security_context(context: &SecurityContext, found: &mut Report<'_>) {
    let mut found = |field: &str, problem: &str| found(format!("securityContext.{field}"), problem);
    let no_escalation = context.allow_privilege_escalation == Some(false);
    if no_escalation && context.privileged == Some(true) {
        found(
            "allowPrivilegeEscalation",
            "cannot be false while privileged is true",
        );
    }
    let added = context
        .capabilities
        .iter()
        .flat_map(|capabilities| capabilities.add.iter().flatten());
    if no_escalation && added.into_iter().any(|name| name == "CAP_SYS_ADMIN") {
        found(
            "allowPrivilegeEscalation",
            "cannot be false while CAP_SYS_ADMIN is added",
        );
    }
    if context.run_as_non_root == Some(true) && context.run_as_user == Some(0) {
        found(
            "runAsNonRoot",
            "cannot be true while runAsUser is 0: the container would never start",
        );
    }
    for (field, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        if id.is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            found(field, "must be from 0 to 2147483647");
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
        let Some((kind, file)) = profile else { continue };
        let problem = match (kind.as_str(), file.is_some()) {
            ("Localhost", true) | ("RuntimeDefault" | "Unconfined", false) => continue,
            ("Localhost", false) => "needs localhostProfile with type Localhost",
            ("RuntimeDefault" | "Unconfined", true) => {
                "must not have localhostProfile unless type is Localhost"
            }
            _ => "type must be RuntimeDefault, Unconfined or Localhost",
        };
        found(field, problem);
    }
}

fn check_probes(container: &Container, role: ContainerRole, found: &mut Report<'_>) {
    for (field, probe, once) in [
        ("livenessProbe", &container.liveness_probe, true),
        ("readinessProbe", &container.readiness_probe, false),
        ("startupProbe", &container.startup_probe, true),
    ] {
        let Some(probe) = probe else { continue };
        if role == ContainerRole::Init {
            found(
                field.to_owned(),
                "an init container that runs to its end has no probes",
            );
        }
        check_probe(field, probe, once, found);
    }
    if role == ContainerRole::Init && container.lifecycle.is_some() {
        found(
            "lifecycle".to_owned(),
            "an init container that runs to its end has no hooks",
        );
    }
}

fn check_probe(field: &str, probe: &Probe, once: bool, found: &mut Report<'_>) {
    let handlers = [
        probe.exec.is_some(),
        probe.grpc.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
    ];
    if handlers.iter().filter(|handler| **handler).count() != 1 {
        found(
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
            found(format!("{field}.{name}"), "must not be negative");
        }
    }
    if once && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
        found(format!("{field}.successThreshold"), "must be 1");
    }
    let ports = [
        probe.http_get.as_ref().map(|http| &http.port),
        probe.tcp_socket.as_ref().map(|tcp| &tcp.port),
    ];
    for port in ports.into_iter().flatten() {
        if matches!(port, IntOrString::Int(number) if !(1..=65535).contains(number)) {
            found(format!("{field}.port"), "must be from 1 to 65535");
        }
    }
}
