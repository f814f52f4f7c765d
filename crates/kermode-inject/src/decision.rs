//! First stage of injection: decides whether a Pod is injected (docs/reference/injection.md#decision).

use std::collections::BTreeMap;

use kermode_crds::annotation::SIDECAR_INJECTION;

use crate::denial::Denial;
use crate::pod::Pod;
use crate::reason::{InjectionSource, Obstacle, SkipReason};
use crate::trace::{Trace, TraceTopic};
use crate::values::Values;

/// Annotation that a kubelet sets on the mirror Pod of a static Pod.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-config-mirror>
const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// Decision on a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InjectionDecision {
    Inject(InjectionSource),
    Skip(SkipReason),
}

/// Labels and annotations of a Pod and its Namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectMetadata<'a> {
    pub(crate) pod_labels: Values<'a>,
    pub(crate) pod_annotations: Values<'a>,
    pub(crate) namespace_labels: Values<'a>,
    pub(crate) namespace_annotations: Values<'a>,
}

/// Decides whether a Pod is injected. `exceptions` holds the labels of Pods that are never injected; the value `*`
/// matches any value.
pub(crate) fn decide(
    pod: &Pod<'_>,
    metadata: &ObjectMetadata<'_>,
    exceptions: &BTreeMap<String, String>,
    trace: &mut Trace,
) -> Result<InjectionDecision, Denial> {
    if let Some(key) = matching_exception(&pod.labels, exceptions) {
        trace.note(TraceTopic::Decision, || {
            format!("label {key} is in the setting exceptions.labels: skipped")
        });
        return Ok(InjectionDecision::Skip(SkipReason::ExceptionLabel));
    }
    trace.note(TraceTopic::Decision, || {
        "no label is in the setting exceptions.labels".to_owned()
    });
    for source in InjectionSource::IN_ORDER {
        let values = metadata.values_of(source);
        let requested = values.boolean(SIDECAR_INJECTION);
        trace.note(TraceTopic::Decision, || {
            describe_request(&values, requested.as_ref())
        });
        match requested? {
            Some(true) => return inject_unless_impossible(pod, source, &values, trace),
            Some(false) => return Ok(InjectionDecision::Skip(SkipReason::Disabled(source))),
            None => {}
        }
    }
    trace.note(TraceTopic::Decision, || {
        "injection is not requested: skipped".to_owned()
    });
    Ok(InjectionDecision::Skip(SkipReason::NotRequested))
}

/// Decides on a request for injection from `source`. A Pod that cannot carry a sidecar is denied if the Pod itself
/// requests injection, and skipped if its Namespace requests injection.
fn inject_unless_impossible(
    pod: &Pod<'_>,
    source: InjectionSource,
    values: &Values<'_>,
    trace: &mut Trace,
) -> Result<InjectionDecision, Denial> {
    let Some(obstacle) = obstacle(pod) else {
        return Ok(InjectionDecision::Inject(source));
    };
    match source {
        InjectionSource::PodLabel | InjectionSource::PodAnnotation => Err(Denial::CannotCarrySidecar {
            obstacle,
            location: values.location(SIDECAR_INJECTION),
        }),
        InjectionSource::NamespaceLabel | InjectionSource::NamespaceAnnotation => {
            trace.note(TraceTopic::Decision, || {
                format!("the Pod cannot carry a sidecar: {obstacle}: skipped")
            });
            Ok(InjectionDecision::Skip(SkipReason::CannotCarrySidecar(obstacle)))
        }
    }
}

fn obstacle(pod: &Pod<'_>) -> Option<Obstacle> {
    if pod.annotations.contains_key(MIRROR_POD) {
        Some(Obstacle::MirrorPod)
    } else if pod.is_windows {
        Some(Obstacle::Windows)
    } else {
        pod.host_network.then_some(Obstacle::HostNetwork)
    }
}

fn describe_request(values: &Values<'_>, requested: Result<&Option<bool>, &Denial>) -> String {
    let location = values.location(SIDECAR_INJECTION);
    let Some(value) = values.get(SIDECAR_INJECTION) else {
        return format!("{location} is absent");
    };
    match requested {
        Ok(Some(true)) => format!("{location} is {value}: injected"),
        Ok(_) => format!("{location} is {value}: skipped"),
        Err(_) => format!("{location} is {value:?}, which is not a valid value: denied"),
    }
}

/// Returns the key of the label that exempts the Pod from injection, if the Pod has such a label.
fn matching_exception<'e>(
    labels: &BTreeMap<String, String>,
    exceptions: &'e BTreeMap<String, String>,
) -> Option<&'e str> {
    let mut matching = exceptions.iter().filter(|(key, value)| {
        labels
            .get(*key)
            .is_some_and(|label| *value == "*" || *value == label)
    });
    matching.next().map(|(key, _)| key.as_str())
}

// === impl ObjectMetadata ===

impl<'a> ObjectMetadata<'a> {
    /// Returns the labels or annotations of a source.
    pub(crate) fn values_of(&self, source: InjectionSource) -> Values<'a> {
        match source {
            InjectionSource::PodLabel => self.pod_labels,
            InjectionSource::PodAnnotation => self.pod_annotations,
            InjectionSource::NamespaceLabel => self.namespace_labels,
            InjectionSource::NamespaceAnnotation => self.namespace_annotations,
        }
    }
}
