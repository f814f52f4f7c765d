//! Limits the sidecar's drain time, so that the drain ends within the Pod's grace period
//! (docs/design.md#termination-budget).

use std::time::Duration;

use kermode_model::duration;
use serde_json::{Value, json};

use crate::settings::SidecarContainer;
use crate::trace::{Trace, TraceTopic};

/// Part of the grace period that remains for stopping Envoy and the agent after the drain.
pub(crate) const STOP_RESERVE: Duration = Duration::from_secs(5);
/// Kubernetes' default `terminationGracePeriodSeconds`. The API server sets it before webhooks run.
pub(crate) const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(30);
/// Minimum drain time: `kuma-dp` does not accept zero.
const MIN_DRAIN_TIME: Duration = Duration::from_millis(1);
/// A limit below this value gives a warning even if no drain time was configured, because clients may not stop using
/// the endpoint within such a drain time. Only a grace period below 10 s leads to such a limit.
const SHORT_DRAIN: Duration = Duration::from_secs(5);
/// Environment variable of the drain mode.
const DRAIN_MODE_VARIABLE: &str = "KUMA_DATAPLANE_DRAIN_MODE";
/// Drain mode that ends the drain early.
const ACKNOWLEDGED: &str = "acknowledged";
/// Environment variable of the minimum duration of the drain.
const MIN_DRAIN_TIME_VARIABLE: &str = "KUMA_DATAPLANE_MIN_DRAIN_TIME";
/// Environment variable of the Pod's termination grace period.
const GRACE_PERIOD_VARIABLE: &str = "KUMA_DATAPLANE_TERMINATION_GRACE_PERIOD";
/// Environment variable of the drain time.
const DRAIN_TIME_VARIABLE: &str = "KUMA_DATAPLANE_DRAIN_TIME";

/// Limits the drain time of a rendered sidecar to the grace period less [`STOP_RESERVE`]. The drain time may come from
/// the setting, the annotation, an environment variable or a ContainerPatch. `is_annotated`: the Pod has the annotation
/// `kuma.io/sidecar-drain-time`.
///
/// Exceeding the limit gives a warning only if the drain time was configured (by the annotation, or to a value other
/// than the default), or if the limit is below [`SHORT_DRAIN`]. The default drain time exceeds the limit of the default
/// grace period: both are 30 s.
///
/// `grace_period_seconds` is `None` only for a Pod that no API server has processed. The drain time is then kept, and
/// the warning compares the drain time with Kubernetes' default grace period.
pub(crate) fn limit_drain_time(
    sidecar: &mut Value,
    grace_period_seconds: Option<u64>,
    is_annotated: bool,
    warnings: &mut Vec<String>,
    trace: &mut Trace,
) {
    let Some(value) = drain_time_of(sidecar) else {
        return;
    };
    let Some(drain_time) = value.as_str().and_then(|text| duration::parse(text).ok()) else {
        warnings.push(format!(
            "{DRAIN_TIME_VARIABLE} of kuma-sidecar is {value}, which is not a duration, so the sidecar will not start: \
             write for example 30s"
        ));
        return;
    };
    let has_grace_period = grace_period_seconds.is_some();
    let grace_period = grace_period_seconds.map_or(DEFAULT_GRACE_PERIOD, Duration::from_secs);
    let max_drain_time = grace_period.saturating_sub(STOP_RESERVE).max(MIN_DRAIN_TIME);
    let is_configured = is_annotated || drain_time != SidecarContainer::default().drain_time;
    trace.note(TraceTopic::Drain, || {
        let origin = if is_configured {
            "configured"
        } else {
            "the default"
        };
        let owner = if has_grace_period {
            "the Pod's"
        } else {
            "Kubernetes' default"
        };
        format!(
            "{}, {origin}; {owner} grace period is {}",
            duration::format(drain_time),
            duration::format(grace_period)
        )
    });
    if drain_time <= max_drain_time {
        return;
    }
    let is_short = has_grace_period && max_drain_time < SHORT_DRAIN;
    let mut warn = |warning: String| {
        if is_configured || is_short {
            warnings.push(warning);
        }
    };
    let (drain_text, grace_text) = (duration::format(drain_time), duration::format(grace_period));
    if !has_grace_period {
        warn(format!(
            "drain time {drain_text} does not fit into Kubernetes' default grace period of {grace_text}: \
             set spec.terminationGracePeriodSeconds or shorten kuma.io/sidecar-drain-time"
        ));
        return;
    }
    let max_text = duration::format(max_drain_time);
    trace.note(TraceTopic::Drain, || {
        format!("cut to {max_text}, since 5 s of the grace period are reserved for stopping")
    });
    warn(format!(
        "drain time {drain_text} does not fit into the grace period of {grace_text} and was cut to {max_text}: \
         raise spec.terminationGracePeriodSeconds or shorten kuma.io/sidecar-drain-time"
    ));
    *value = Value::String(max_text);
}

/// Warns about a drain mode that `kuma-dp` rejects. The mode may come from an environment variable or a ContainerPatch.
pub(crate) fn check_mode(sidecar: &Value, warnings: &mut Vec<String>) {
    let mode = drain_mode(sidecar);
    if !["", "wait", ACKNOWLEDGED].contains(&mode) {
        warnings.push(format!(
            "{DRAIN_MODE_VARIABLE} of kuma-sidecar is {mode:?}, so the sidecar will not start: write wait or {ACKNOWLEDGED}"
        ));
    }
}

/// Whether a rendered sidecar has the drain mode `acknowledged`.
pub(crate) fn ends_when_acknowledged(sidecar: &Value) -> bool {
    drain_mode(sidecar) == ACKNOWLEDGED
}

/// Sets the minimum duration of the drain, which matters only if the drain may end before the drain time.
pub(crate) fn set_min_drain_time(sidecar: &mut Value, min: Duration) {
    set_variable(sidecar, MIN_DRAIN_TIME_VARIABLE, duration::format(min));
}

/// Sets the Pod's termination grace period, which limits the drain of a native sidecar. A grace period that has no text
/// in Go's notation, which is one of centuries, limits nothing.
pub(crate) fn set_grace_period(sidecar: &mut Value, grace_period_seconds: Option<u64>) {
    let grace_period = grace_period_seconds.map_or(DEFAULT_GRACE_PERIOD, Duration::from_secs);
    let text = duration::format(grace_period);
    if duration::parse(&text).is_ok() {
        set_variable(sidecar, GRACE_PERIOD_VARIABLE, text);
    }
}

fn set_variable(sidecar: &mut Value, name: &str, value: String) {
    let Some(variables) = sidecar.get_mut("env").and_then(Value::as_array_mut) else {
        return;
    };
    variables.retain(|variable| variable["name"] != name);
    variables.push(json!({"name": name, "value": value}));
}

fn drain_mode(sidecar: &Value) -> &str {
    let mut variables = sidecar.get("env").and_then(Value::as_array).into_iter().flatten();
    let variable = variables.find(|variable| variable["name"] == DRAIN_MODE_VARIABLE);
    variable
        .and_then(|variable| variable["value"].as_str())
        .unwrap_or_default()
}

/// Returns the drain time of a rendered sidecar; `None` if it has none or an invalid one.
pub(crate) fn drain_time(sidecar: &Value) -> Option<Duration> {
    let variables = sidecar.get("env")?.as_array()?;
    let variable = variables
        .iter()
        .find(|variable| variable["name"] == DRAIN_TIME_VARIABLE)?;
    duration::parse(variable["value"].as_str()?).ok()
}

fn drain_time_of(sidecar: &mut Value) -> Option<&mut Value> {
    let variables = sidecar.get_mut("env")?.as_array_mut()?;
    let variable = variables
        .iter_mut()
        .find(|variable| variable.get("name").and_then(Value::as_str) == Some(DRAIN_TIME_VARIABLE))?;
    variable.get_mut("value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Limits a drain time that an annotation of the Pod sets. Returns the resulting drain time and the warnings.
    fn limit(drain_time: &str, grace_period: Option<u64>) -> (String, Vec<String>) {
        limit_with(drain_time, grace_period, true)
    }

    fn limit_with(drain_time: &str, grace_period: Option<u64>, is_annotated: bool) -> (String, Vec<String>) {
        let mut sidecar = json!({"env": [{"name": "X"}, {"name": DRAIN_TIME_VARIABLE, "value": drain_time}]});
        let mut warnings = Vec::new();
        limit_drain_time(
            &mut sidecar,
            grace_period,
            is_annotated,
            &mut warnings,
            &mut Trace::off(),
        );
        (sidecar["env"][1]["value"].as_str().unwrap().to_owned(), warnings)
    }

    #[test]
    fn drain_time_is_limited_to_the_grace_period_less_five_seconds() {
        for (drain_time, grace_period, result, warns) in [
            ("30s", 30, "25s", true),
            ("25s", 30, "25s", false),
            ("30s", 35, "30s", false),
            ("2m", 65, "1m0s", true),
            ("30s", 5, "1ms", true),
            ("30s", 0, "1ms", true),
            ("10s", u64::MAX, "10s", false),
        ] {
            let (value, warnings) = limit(drain_time, Some(grace_period));
            assert_eq!(
                (value.as_str(), warnings.len()),
                (result, usize::from(warns)),
                "{drain_time} {grace_period}"
            );
        }
    }

    #[test]
    fn limiting_the_default_drain_time_gives_no_warning() {
        assert_eq!(limit_with("30s", Some(30), false), ("25s".to_owned(), vec![]));
        assert_eq!(limit_with("30s", None, false), ("30s".to_owned(), vec![]));
        // 31 s differ from the default, so the drain time was configured.
        let (value, warnings) = limit_with("31s", Some(30), false);
        assert_eq!((value.as_str(), warnings.len()), ("25s", 1));
    }

    #[test]
    fn grace_period_that_leaves_hardly_any_drain_time_gives_a_warning_even_for_the_default() {
        for (grace_period, result, warns) in [
            (0, "1ms", true),
            (5, "1ms", true),
            (9, "4s", true),
            (10, "5s", false),
            (29, "24s", false),
        ] {
            let (value, warnings) = limit_with("30s", Some(grace_period), false);
            assert_eq!(
                (value.as_str(), warnings.len()),
                (result, usize::from(warns)),
                "{grace_period}"
            );
        }
        let (_, warnings) = limit_with("30s", Some(5), false);
        assert!(
            warnings[0].contains("grace period of 5s and was cut to 1ms"),
            "{warnings:?}"
        );
    }

    #[test]
    fn drain_time_is_kept_if_the_grace_period_is_unknown() {
        assert_eq!(limit("31s", None).0, "31s");
        assert_eq!(limit("31s", None).1.len(), 1);
        assert_eq!(limit("25s", None).1.len(), 0);
    }

    #[test]
    fn invalid_drain_time_gives_a_warning() {
        let (value, warnings) = limit("soon", Some(30));
        assert_eq!((value.as_str(), warnings.len()), ("soon", 1));
    }
}
