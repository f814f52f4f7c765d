//! Delays the stop of the application, so that its containers still serve the requests that clients send until they
//! have dropped the endpoint (docs/design.md#delayed-stop).

use std::time::Duration;

use kermode_crds::annotation;
use kermode_model::duration;
use serde_json::Value;

use crate::drain::DEFAULT_GRACE_PERIOD;
use crate::plan::Plan;
use crate::pod::{Container, Pod};
use crate::trace::{Trace, TraceTopic};

/// The delay takes at most this part of the grace period: the application needs the rest for its own shutdown.
const MAX_PART_OF_GRACE_PERIOD: u64 = 3;

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

/// Returns the hooks for the containers without a preStop hook. Warns about a configured delay that the grace period or
/// the cluster's version does not allow.
pub(crate) fn hooks(
    pod: &Pod<'_>,
    plan: &Plan<'_>,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Vec<SleepHook> {
    let Some(seconds) = delay_seconds(pod, plan, warnings, trace) else {
        return Vec::new();
    };
    let mut hooks = Vec::new();
    for (index, container) in pod.containers.iter().enumerate() {
        let Some(has_lifecycle) = lifecycle_without_pre_stop(container) else {
            trace.note(TraceTopic::Stop, || {
                format!("container {} keeps its own preStop hook", container.name)
            });
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
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Option<u64> {
    let delay = plan.application_stop_delay;
    let is_annotated = plan.application_stop_delay_is_annotated;
    if delay.is_zero() {
        trace.note(TraceTopic::Stop, || "the delay is 0s".to_owned());
        return None;
    }
    if !is_annotated && !pod.is_always_restarted {
        trace.note(TraceTopic::Stop, || {
            "restartPolicy is not Always, so the Pod is not expected to serve requests".to_owned()
        });
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
    let max = grace_period / MAX_PART_OF_GRACE_PERIOD;
    let requested = whole_seconds(delay);
    if requested > max && is_annotated {
        warnings.push(format!(
            "{} {} exceeds a third of the grace period of {grace_period}s and was cut to {max}s: raise \
             spec.terminationGracePeriodSeconds or shorten the delay",
            annotation::APPLICATION_STOP_DELAY,
            duration::format(delay)
        ));
    }
    Some(requested.min(max)).filter(|seconds| *seconds > 0)
}

fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

/// Returns whether the container has an object `lifecycle`. Returns `None` if a hook cannot be added: the object has a
/// preStop hook, or `lifecycle` is not an object, which the API server rejects.
fn lifecycle_without_pre_stop(container: &Container<'_>) -> Option<bool> {
    match container.json.get("lifecycle") {
        None | Some(Value::Null) => Some(false),
        Some(Value::Object(hooks)) => hooks.get("preStop").is_none_or(Value::is_null).then_some(true),
        Some(_) => None,
    }
}
