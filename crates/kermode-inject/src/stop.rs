//! Delays the application's SIGTERM until clients have had time to drop the endpoint (docs/design.md#delayed-stop).
//!
//! An annotation records the added hooks, so that a repeated injection removes them and adds them anew.

use std::time::Duration;

use kermode_crds::annotation;
use kermode_model::{duration, notation};
use serde_json::{Value, json};

use crate::drain::{self, DEFAULT_GRACE_PERIOD};
use crate::plan::{Placement, Plan};
use crate::pod::{Container, Pod};
use crate::trace::{Trace, TraceTopic};

/// The delay is at most the grace period, and in classic mode the drain time, divided by this number. The application
/// needs the rest for its own shutdown.
const DIVISOR: u64 = 3;

/// A preStop hook to add to a container of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SleepHook {
    /// Index of the container in `spec.containers`.
    pub(crate) container: usize,
    /// Whether the container has an object `lifecycle`.
    pub(crate) has_lifecycle: bool,
    /// Duration of the sleep, in seconds.
    pub(crate) seconds: u64,
}

/// Returns the hooks for the containers without a preStop hook. Warns about an annotated delay that the grace period, the
/// drain time or the cluster's version does not allow. `sidecar` is the rendered container.
pub(crate) fn hooks(
    pod: &Pod<'_>,
    plan: &Plan<'_>,
    sidecar: &Value,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Vec<SleepHook> {
    let Some(seconds) = delay_seconds(pod, plan, sidecar, warnings, trace) else {
        return Vec::new();
    };
    let mut hooks = Vec::new();
    for (index, container) in pod.containers.iter().enumerate() {
        let Place::Free { has_lifecycle } = place_of_hook(container) else {
            trace.note(TraceTopic::Stop, || {
                format!("container {} keeps its own preStop hook", container.name)
            });
            continue;
        };
        if !plan.application_stop_delay_is_annotated && !container.is_always_restarted(pod) {
            trace.note(TraceTopic::Stop, || {
                format!(
                    "restartPolicy of container {} is not Always, so it is not expected to serve requests",
                    container.name
                )
            });
            continue;
        }
        let Some(seconds) = limit_by_probes(container, seconds, plan, warnings, trace) else {
            continue;
        };
        trace.note(TraceTopic::Stop, || {
            format!(
                "container {} gets a preStop hook that sleeps for {seconds} s",
                container.name
            )
        });
        hooks.push(SleepHook {
            container: index,
            has_lifecycle,
            seconds,
        });
    }
    hooks
}

/// Returns the delay in whole seconds; `None` if the stop is not delayed.
fn delay_seconds(
    pod: &Pod<'_>,
    plan: &Plan<'_>,
    sidecar: &Value,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Option<u64> {
    let delay = plan.application_stop_delay;
    let is_annotated = plan.application_stop_delay_is_annotated;
    if delay.is_zero() {
        trace.note(TraceTopic::Stop, || "the delay is 0s".to_owned());
        return None;
    }
    if !plan.supports_sleep_hooks {
        trace.note(TraceTopic::Stop, || {
            "the API server or the oldest kubelet does not support sleep hooks".to_owned()
        });
        if is_annotated {
            warnings.push(format!(
                "{} has no effect: sleep hooks need Kubernetes 1.30 on the API server and on every Node",
                annotation::APPLICATION_STOP_DELAY
            ));
        }
        return None;
    }
    let grace_period = pod
        .termination_grace_period_seconds
        .unwrap_or(DEFAULT_GRACE_PERIOD.as_secs());
    // A classic sidecar drains from the start of the termination. After its end, the application has no network.
    let drain_time = match plan.placement {
        Placement::Native => u64::MAX,
        Placement::Classic => drain::drain_time(sidecar).unwrap_or(plan.drain_time).as_secs(),
    };
    let max = grace_period.min(drain_time) / DIVISOR;
    let requested = whole_seconds(delay);
    if requested > max && is_annotated {
        let limit = if drain_time < grace_period {
            format!("drain time of {drain_time}s")
        } else {
            format!("grace period of {grace_period}s")
        };
        let effect = if max == 0 {
            "has no effect".to_owned()
        } else {
            format!("was cut to {max}s")
        };
        warnings.push(format!(
            "{} {} exceeds a third of the {limit} and {effect}: raise spec.terminationGracePeriodSeconds and {}, or shorten \
             the delay",
            annotation::APPLICATION_STOP_DELAY,
            duration::format(delay),
            annotation::SIDECAR_DRAIN_TIME,
        ));
    }
    Some(requested.min(max)).filter(|seconds| *seconds > 0)
}

/// Limits the delay by the grace periods of the container's own probes. The kubelet runs the hook within such a grace
/// period when the probe fails. Returns `None` if no whole second is left.
fn limit_by_probes(
    container: &Container<'_>,
    seconds: u64,
    plan: &Plan<'_>,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Option<u64> {
    let grace_periods = ["livenessProbe", "startupProbe"].map(|probe| {
        let grace_period = container.object(probe)?.get("terminationGracePeriodSeconds")?;
        grace_period.as_u64()
    });
    let Some(grace_period) = grace_periods.into_iter().flatten().min() else {
        return Some(seconds);
    };
    let max = grace_period / DIVISOR;
    if seconds > max {
        let text = format!(
            "container {}: the delay of its stop was cut to {max}s, a third of the terminationGracePeriodSeconds of its probes, \
             {grace_period}s",
            container.name
        );
        trace.note(TraceTopic::Stop, || text.clone());
        if plan.application_stop_delay_is_annotated {
            warnings.push(format!(
                "{text}: raise it, or shorten {}",
                annotation::APPLICATION_STOP_DELAY
            ));
        }
    }
    Some(seconds.min(max)).filter(|seconds| *seconds > 0)
}

fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

/// Room for a preStop hook in a container.
enum Place {
    /// The container has no preStop hook.
    Free {
        /// Whether the container has an object `lifecycle`.
        has_lifecycle: bool,
    },
    /// The container has a preStop hook, or its `lifecycle` is not an object, which the API server rejects.
    Taken,
}

fn place_of_hook(container: &Container<'_>) -> Place {
    match container.json.get("lifecycle") {
        None | Some(Value::Null) => Place::Free { has_lifecycle: false },
        Some(Value::Object(hooks)) if hooks.get("preStop").is_none_or(Value::is_null) => {
            Place::Free { has_lifecycle: true }
        }
        Some(_) => Place::Taken,
    }
}

/// Returns the annotation [`annotation::APPLICATION_STOP_DELAYED`] with its value, a comma-separated list of
/// `container=seconds`; `None` if there are no hooks.
pub(crate) fn record(pod: &Pod<'_>, hooks: &[SleepHook]) -> Option<(String, String)> {
    let items = hooks.iter().filter_map(|hook| {
        let container = pod.containers.get(hook.container)?;
        Some(format!("{}={}", container.name, hook.seconds))
    });
    let items: Vec<_> = items.collect();
    (!items.is_empty()).then(|| (annotation::APPLICATION_STOP_DELAYED.to_owned(), items.join(",")))
}

/// Removes the hooks that the annotation records from the containers. A hook that differs from the recorded one stays.
pub(crate) fn remove_recorded(pod: &mut Value) {
    let recorded = pod
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(annotation::APPLICATION_STOP_DELAYED))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let items: Vec<(&str, u64)> = notation::list(&recorded)
        .filter_map(|item| {
            let (name, seconds) = item.split_once('=')?;
            Some((name, seconds.parse().ok()?))
        })
        .collect();
    let containers = pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let name = container["name"].as_str().unwrap_or_default().to_owned();
        let Some((_, seconds)) = items.iter().find(|(recorded, _)| *recorded == name) else {
            continue;
        };
        let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) else {
            continue;
        };
        if lifecycle.get("preStop") == Some(&json!({"sleep": {"seconds": seconds}})) {
            lifecycle.remove("preStop");
            if lifecycle.is_empty()
                && let Some(container) = container.as_object_mut()
            {
                container.remove("lifecycle");
            }
        }
    }
}
