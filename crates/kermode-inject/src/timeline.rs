//! Timeline of a Pod's termination: preStop hooks, drain time and grace period together
//! (docs/design.md#termination-budget).

use std::time::Duration;

use kermode_crds::annotation;
use kermode_model::duration;
use serde_json::{Value, json};

use crate::drain;
use crate::plan::{Placement, Plan};
use crate::pod::{Container, Pod};
use crate::stop::SleepHook;
use crate::trace::{Trace, TraceTopic};

/// Duration of a container's preStop hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HookDuration {
    /// The container has no hook.
    None,
    /// The hook sleeps for this many seconds.
    Seconds(u64),
    /// The hook calls the application or runs a command.
    Unknown,
}

/// Time that an application is expected to need after its preStop hook, before the sidecar with the drain mode
/// `acknowledged` may end.
const STOP_TIME: Duration = Duration::from_secs(2);

/// Adds the timeline to the trace. Warns about preStop hooks of the application for which the grace period or the drain of a
/// classic sidecar is too short. `sidecar` is the rendered container, and `hooks` are those that injection adds.
///
/// Returns the minimum drain time of a classic sidecar with the drain mode `acknowledged`: the sidecar must outlast the
/// hooks. Returns `None` for other sidecars.
pub(crate) fn check(
    pod: &Pod<'_>,
    plan: &Plan<'_>,
    sidecar: &Value,
    hooks: &[SleepHook],
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) -> Option<Duration> {
    let drain_time = drain::drain_time(sidecar).unwrap_or(plan.drain_time);
    let grace_period = pod
        .termination_grace_period_seconds
        .map_or(drain::DEFAULT_GRACE_PERIOD, Duration::from_secs);
    let stops: Vec<_> = pod
        .containers
        .iter()
        .enumerate()
        .map(|(index, container)| (container.name, hook_duration(index, container, hooks)))
        .collect();
    for (name, hook) in &stops {
        warnings.extend(problem(name, *hook, plan, drain_time, grace_period));
    }
    let has_drain_hook =
        sidecar.pointer("/lifecycle/preStop/exec/command") == Some(&json!(["kuma-dp", "drain"]));
    if plan.placement == Placement::Native && !has_drain_hook {
        warnings.push(
            "a ContainerPatch replaces the preStop hook of kuma-sidecar, so the sidecar drains only after the application has \
             ended: let the hook run kuma-dp drain"
                .to_owned(),
        );
    }
    let ends_early = plan.placement == Placement::Classic && drain::ends_when_acknowledged(sidecar);
    let min_drain_time = ends_early.then(|| {
        let hooks = stops.iter().map(|(_, hook)| match hook {
            HookDuration::None => Duration::ZERO,
            HookDuration::Seconds(seconds) => Duration::from_secs(*seconds),
            HookDuration::Unknown => drain_time,
        });
        let longest = hooks.max().unwrap_or_default();
        (longest + STOP_TIME).min(drain_time)
    });
    let grace_text = duration::format(grace_period);
    let drain_text = duration::format(drain_time);
    let sidecar_line = match plan.placement {
        Placement::Native if has_drain_hook => {
            "at 0s, the endpoint leaves the clients' configuration, and the sidecar starts to drain"
                .to_owned()
        }
        Placement::Native => "at 0s, the endpoint leaves the clients' configuration".to_owned(),
        Placement::Classic if ends_early => format!(
            "at 0s, the endpoint leaves the clients' configuration, and the sidecar drains until every proxy has \
             acknowledged this and no connection is open, at most until {drain_text}"
        ),
        Placement::Classic => format!(
            "at 0s, the endpoint leaves the clients' configuration, and the sidecar drains until {drain_text}"
        ),
    };
    trace.note(TraceTopic::Termination, || sidecar_line);
    for (name, hook) in stops {
        trace.note(TraceTopic::Termination, || match hook {
            HookDuration::None => format!("at 0s, container {name} gets SIGTERM"),
            HookDuration::Seconds(seconds) => {
                format!("at {seconds}s, after its preStop hook, container {name} gets SIGTERM")
            }
            HookDuration::Unknown => format!("after its preStop hook, container {name} gets SIGTERM"),
        });
    }
    if plan.placement == Placement::Native {
        trace.note(TraceTopic::Termination, || native_end(drain_time, grace_period));
    }
    trace.note(TraceTopic::Termination, || {
        format!("at {grace_text}, Kubernetes kills the remaining containers")
    });
    min_drain_time
}

/// Describes the end of a native sidecar.
fn native_end(drain_time: Duration, grace_period: Duration) -> String {
    let latest_end = grace_period.saturating_sub(drain::STOP_RESERVE);
    format!(
        "after the last container of the application, the sidecar ends; it waits at most {}, and at most until {}, for responses \
         and TCP connections that are in progress",
        duration::format(drain_time),
        duration::format(latest_end)
    )
}

/// Returns the warning about a container's hook that does not fit.
fn problem(
    name: &str,
    hook: HookDuration,
    plan: &Plan<'_>,
    drain_time: Duration,
    grace_period: Duration,
) -> Option<String> {
    let HookDuration::Seconds(seconds) = hook else {
        return None;
    };
    let (hook, grace_text) = (Duration::from_secs(seconds), duration::format(grace_period));
    if hook >= grace_period {
        return Some(format!(
            "container {name}: its preStop hook sleeps for {seconds}s, and Kubernetes kills the container after the grace \
             period of {grace_text}, before its SIGTERM: raise spec.terminationGracePeriodSeconds or shorten the hook"
        ));
    }
    (plan.placement == Placement::Classic && hook >= drain_time).then(|| {
        format!(
            "container {name}: its preStop hook sleeps for {seconds}s, and the sidecar ends after its drain time of {}, before \
             the application: raise {} or shorten the hook",
            duration::format(drain_time),
            annotation::SIDECAR_DRAIN_TIME
        )
    })
}

fn hook_duration(index: usize, container: &Container<'_>, hooks: &[SleepHook]) -> HookDuration {
    if let Some(hook) = hooks.iter().find(|hook| hook.container == index) {
        return HookDuration::Seconds(hook.seconds);
    }
    let lifecycle = container.object("lifecycle");
    match lifecycle.and_then(|lifecycle| lifecycle.get("preStop")) {
        None | Some(Value::Null) => HookDuration::None,
        Some(hook) => sleep_seconds(hook).map_or(HookDuration::Unknown, HookDuration::Seconds),
    }
}

/// Returns the duration of a hook with the handler `sleep`, or whose command is `sleep` with whole seconds, also in a
/// shell.
fn sleep_seconds(hook: &Value) -> Option<u64> {
    if let Some(seconds) = hook.pointer("/sleep/seconds") {
        return seconds.as_u64();
    }
    let command: Vec<&str> = hook
        .pointer("/exec/command")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let words: Vec<&str> = match command.as_slice() {
        [_, "-c", script] => script.split_whitespace().collect(),
        words => words.to_vec(),
    };
    match words.as_slice() {
        [program, seconds] if program.rsplit('/').next() == Some("sleep") => {
            seconds.strip_suffix('s').unwrap_or(seconds).parse().ok()
        }
        _ => None,
    }
}
