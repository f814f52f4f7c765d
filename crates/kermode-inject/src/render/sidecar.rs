//! Renders the container `kuma-sidecar`.

use std::time::Duration;

use kermode_model::duration;
use serde_json::{Value, json};

use super::{TokenAndRoots, env, resources, restricted_context};
use crate::names::{READY_PATH, SIDECAR, TMP_VOLUME};
use crate::plan::{Placement, Plan};
use crate::settings::ProbeSettings;

/// Part of the startup probe's timeout that is left for starting and ending the command. The command thus ends before
/// the kubelet would kill it, and reports why the sidecar is not ready.
const WAIT_RESERVE: Duration = Duration::from_millis(500);
/// Pause between the requests of the startup probe's command. The application may start later by up to this pause.
const WAIT_INTERVAL: &str = "50ms";

/// Renders the container.
pub(crate) fn sidecar(plan: &Plan<'_>, token_and_roots: &TokenAndRoots) -> Value {
    let settings = &plan.settings.sidecar_container;
    let mut mounts = token_and_roots.mounts.clone();
    if plan.has_tmp_volume() {
        mounts.push(json!({"name": TMP_VOLUME, "mountPath": "/tmp"}));
    }
    let mut container = json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "args": args(plan),
        "env": env::env(plan, token_and_roots.ca_file.as_deref()),
        "securityContext": security_context(plan),
        "livenessProbe": probe(plan, &settings.liveness_probe, 1),
        "readinessProbe": probe(plan, &settings.readiness_probe, settings.readiness_probe.success_threshold),
        "resources": resources(&settings.resources, plan.pod_resources),
        "volumeMounts": mounts,
    });
    match plan.placement {
        Placement::Native => {
            container["restartPolicy"] = "Always".into();
            container["startupProbe"] = startup_probe(plan);
            // The kubelet runs the hook when the Pod begins to terminate, and sends SIGTERM after the application has
            // ended.
            container["lifecycle"] = json!({"preStop": {"exec": {"command": ["kuma-dp", "drain"]}}});
        }
        // The kubelet starts the next container after the postStart hook has returned.
        Placement::Classic if plan.wait_for_ready => {
            let command = json!(["kuma-dp", "wait", "--url", ready_url(plan)]);
            container["lifecycle"] = json!({"postStart": {"exec": {"command": command}}});
        }
        Placement::Classic => {}
    }
    container
}

fn args(plan: &Plan<'_>) -> Vec<String> {
    let mut args = vec!["run".to_owned(), "--log-level=info".to_owned()];
    if plan.concurrency > 0 {
        args.push(format!("--concurrency={}", plan.concurrency));
    }
    args
}

fn security_context(plan: &Plan<'_>) -> Value {
    let settings = &plan.settings.sidecar_container;
    if plan.restricted {
        restricted_context(settings.uid, settings.gid)
    } else {
        json!({"runAsUser": settings.uid, "runAsGroup": settings.gid})
    }
}

fn probe(plan: &Plan<'_>, settings: &ProbeSettings, success_threshold: u32) -> Value {
    json!({
        "httpGet": {"path": READY_PATH, "port": plan.admin_port},
        "initialDelaySeconds": settings.initial_delay_seconds,
        "timeoutSeconds": settings.timeout_seconds,
        "periodSeconds": settings.period_seconds,
        "successThreshold": success_threshold,
        "failureThreshold": settings.failure_threshold,
    })
}

/// Renders the startup probe of a native sidecar: a command that waits for readiness. The kubelet probes a container
/// within the first second, before Envoy has its configuration. An HTTP probe would therefore fail. The kubelet would
/// report the failure as an Event, and repeat the probe only a period later.
fn startup_probe(plan: &Plan<'_>) -> Value {
    let settings = &plan.settings.sidecar_container.startup_probe;
    let timeout = Duration::from_secs(settings.timeout_seconds.max(1).into()).saturating_sub(WAIT_RESERVE);
    json!({
        "exec": {"command": [
            "kuma-dp", "wait", "--url", ready_url(plan), "--timeout", duration::format(timeout),
            "--check-frequency", WAIT_INTERVAL,
        ]},
        "initialDelaySeconds": settings.initial_delay_seconds,
        "timeoutSeconds": settings.timeout_seconds,
        "periodSeconds": settings.period_seconds,
        "successThreshold": 1,
        "failureThreshold": settings.failure_threshold,
    })
}

fn ready_url(plan: &Plan<'_>) -> String {
    format!("http://localhost:{}{READY_PATH}", plan.admin_port)
}
