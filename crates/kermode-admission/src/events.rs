//! Writes Events about denied and skipped Pods. A Pod does not exist during its admission, so the Event is about the
//! controller of the Pod, or about the Namespace if the Pod has no controller. Repetitions and the total rate are
//! limited.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kermode_crds::annotation::{SIDECAR_INJECTION, parse_bool};
use kermode_inject::{Denial, InjectionSource, SkipReason};
use kermode_k8s::controller::recorder::{EventType, Events};
use kermode_limit::rate::Window;
use parking_lot::Mutex;
use serde_json::Value;

use super::review::Request;
use crate::directory::NamespaceRecord;

/// Minimum interval between Events about the same object with the same reason.
const REPEAT_INTERVAL: Duration = Duration::from_mins(10);
/// Maximum number of Events per minute, about all objects together.
const MAX_EVENTS_PER_MINUTE: u32 = 60;
const MINUTE: Duration = Duration::from_mins(1);
/// Maximum length of a name in Kubernetes, in bytes. An owner with a longer name cannot exist.
const MAX_NAME_BYTES: usize = 253;

/// Value of the field `action` in the Events.
const ACTION: &str = "InjectSidecar";

/// Writer of Events about denied and skipped Pods.
#[derive(Debug)]
pub struct InjectionEvents {
    events: Events,
    throttle: Mutex<EventThrottle>,
}

/// Limits repetitions and the total rate of Events.
#[derive(Debug)]
struct EventThrottle {
    /// Topics of the Events that were written within the last [`REPEAT_INTERVAL`], with the times of writing.
    written: HashMap<Topic, Instant>,
    rate: Window,
}

/// Object and reason of an Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    kind: String,
    namespace: String,
    name: String,
    reason: &'static str,
}

// === impl InjectionEvents ===

impl InjectionEvents {
    /// Creates a writer of Events.
    pub fn new(events: Events) -> Self {
        Self {
            events,
            throttle: Mutex::new(EventThrottle::new()),
        }
    }

    /// Writes an Event about a denied Pod. Returns `false` if no Event is written, because the request is a dry run or
    /// because a limit is reached.
    pub(super) fn report_denied(&self, request: &Request, namespace: &str, denial: &Denial) -> bool {
        let pod = request.pod_name();
        let text = format!("Pod {namespace}/{pod} denied: {denial}");
        self.write(request, namespace, EventType::Warning, denial.reason(), &text)
    }

    /// Writes an Event about a skipped Pod. Writes no Event if the reason is expected, or if it applies to all Pods of
    /// the Namespace.
    pub(super) fn report_skipped(
        &self,
        request: &Request,
        namespace: &str,
        record: &NamespaceRecord,
        reason: SkipReason,
    ) {
        if let SkipReason::CannotCarrySidecar(obstacle) = reason {
            let text = format!(
                "Pod {namespace}/{} gets no sidecar: {obstacle}",
                request.pod_name()
            );
            self.write(request, namespace, EventType::Warning, reason.as_str(), &text);
            return;
        }
        let cause = match reason {
            SkipReason::Disabled(InjectionSource::PodLabel) => {
                format!("its label {SIDECAR_INJECTION} disables injection")
            }
            SkipReason::Disabled(InjectionSource::PodAnnotation) => {
                format!("its annotation {SIDECAR_INJECTION} disables injection")
            }
            SkipReason::ExceptionLabel if is_injection_enabled(request, record) => {
                "it has a label that the control plane's setting injector.exceptions.labels lists".to_owned()
            }
            SkipReason::ExceptionLabel
            | SkipReason::Disabled(InjectionSource::NamespaceLabel | InjectionSource::NamespaceAnnotation)
            | SkipReason::CannotCarrySidecar(_)
            | SkipReason::AlreadyInjected
            | SkipReason::NotRequested => return,
        };
        let text = format!("Pod {namespace}/{} gets no sidecar: {cause}", request.pod_name());
        self.write(request, namespace, EventType::Normal, reason.as_str(), &text);
    }

    fn write(
        &self,
        request: &Request,
        namespace: &str,
        event_type: EventType,
        reason: &'static str,
        text: &str,
    ) -> bool {
        if request.dry_run {
            return false;
        }
        let object =
            controller_reference(request, namespace).unwrap_or_else(|| namespace_reference(namespace));
        let topic = Topic {
            kind: object.kind.clone().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: object.name.clone().unwrap_or_default(),
            reason,
        };
        let mut throttle = self.throttle.lock();
        if !throttle.try_admit(topic, Instant::now()) {
            return false;
        }
        drop(throttle);
        self.events.publish(object, event_type, ACTION, reason, text);
        true
    }
}

/// Returns whether a label or annotation of the Pod or of its Namespace enables injection.
fn is_injection_enabled(request: &Request, record: &NamespaceRecord) -> bool {
    let is_enabled = |value: &str| parse_bool(SIDECAR_INJECTION, value).unwrap_or(false);
    let pod = ["labels", "annotations"].iter().filter_map(|map| {
        request
            .object
            .get("metadata")?
            .get(map)?
            .get(SIDECAR_INJECTION)?
            .as_str()
    });
    let namespace = [&record.labels, &record.annotations]
        .into_iter()
        .filter_map(|map| map.get(SIDECAR_INJECTION).map(String::as_str));
    pod.chain(namespace).any(is_enabled)
}

/// Returns a reference to the controller of the Pod; `None` if the Pod has no controller or an invalid owner reference.
/// The API server validates owner references only after admission.
fn controller_reference(request: &Request, namespace: &str) -> Option<ObjectReference> {
    let owners = request.object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners
        .iter()
        .find(|owner| owner["controller"] == Value::Bool(true))?;
    let text = |key: &str| {
        let text = owner.get(key)?.as_str()?;
        (!text.is_empty() && text.len() <= MAX_NAME_BYTES).then(|| text.to_owned())
    };
    Some(ObjectReference {
        api_version: Some(text("apiVersion")?),
        kind: Some(text("kind")?),
        name: Some(text("name")?),
        namespace: Some(namespace.to_owned()),
        uid: text("uid"),
        ..ObjectReference::default()
    })
}

/// Returns a reference to a Namespace. The field `namespace` is set too, so that the Events are listed with the other
/// Events of the Namespace.
fn namespace_reference(namespace: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        name: Some(namespace.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    }
}

// === impl EventThrottle ===

impl EventThrottle {
    fn new() -> Self {
        Self {
            written: HashMap::new(),
            rate: Window::new(MAX_EVENTS_PER_MINUTE, MINUTE),
        }
    }

    /// Returns whether an Event may be written now. An admitted Event counts against the limits.
    fn try_admit(&mut self, topic: Topic, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.duration_since(*at) < REPEAT_INTERVAL;
        if self.written.get(&topic).is_some_and(is_recent) || self.rate.try_admit(now).is_none() {
            return false;
        }
        self.written.retain(|_, at| is_recent(at));
        self.written.insert(topic, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn topic(name: &str, reason: &'static str) -> Topic {
        Topic {
            kind: "ReplicaSet".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            reason,
        }
    }

    #[test]
    fn repeated_event_is_not_written_before_the_interval_has_passed() {
        let (mut throttle, start) = (EventThrottle::new(), Instant::now());
        assert!(throttle.try_admit(topic("a", "MeshNotFound"), start));
        assert!(!throttle.try_admit(topic("a", "MeshNotFound"), start + REPEAT_INTERVAL / 2));
        assert!(throttle.try_admit(topic("a", "SameUid"), start), "another reason");
        assert!(
            throttle.try_admit(topic("b", "MeshNotFound"), start),
            "another owner"
        );
        assert!(throttle.try_admit(topic("a", "MeshNotFound"), start + REPEAT_INTERVAL));
    }

    #[test]
    fn event_rate_and_memory_are_bounded_for_any_number_of_owners() {
        let (mut throttle, start) = (EventThrottle::new(), Instant::now());
        let mut written = 0;
        for second in 0..3600_u64 {
            for owner in 0..20 {
                let now = start + Duration::from_secs(second);
                written += u32::from(throttle.try_admit(topic(&format!("{second}-{owner}"), "SameUid"), now));
                assert!(throttle.written.len() <= MAX_EVENTS_PER_MINUTE as usize * 10);
            }
        }
        assert_eq!(written, 60 * MAX_EVENTS_PER_MINUTE);
    }

    fn mk_request(metadata: Value) -> Request {
        Request {
            object: json!({"metadata": metadata}),
            ..Request::default()
        }
    }

    #[test]
    fn event_is_about_the_controller_and_no_other_owner() {
        let owner = |name: &str, controller: bool| {
            json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "u", "controller": controller,
            })
        };
        let request = mk_request(json!({"ownerReferences": [owner("a", false), owner("b", true)]}));
        let found = controller_reference(&request, "default").expect("a controller");
        assert_eq!(found.name.as_deref(), Some("b"));
        assert_eq!(found.api_version.as_deref(), Some("apps/v1"));
        assert_eq!(found.uid.as_deref(), Some("u"));
        assert_eq!(
            controller_reference(
                &mk_request(json!({"ownerReferences": [owner("a", false)]})),
                "default"
            ),
            None
        );
    }

    #[test]
    fn invalid_owners_are_ignored() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for owner in [
            json!({"controller": true}),
            json!({"controller": true, "apiVersion": "v1", "kind": "", "name": "a"}),
            json!({"controller": true, "apiVersion": "v1", "kind": "A", "name": long}),
            json!(1),
        ] {
            assert_eq!(
                controller_reference(&mk_request(json!({"ownerReferences": [owner]})), "default"),
                None
            );
        }
        assert_eq!(
            controller_reference(&mk_request(json!({"ownerReferences": "x"})), "default"),
            None
        );
    }

    #[test]
    fn injection_is_enabled_by_a_label_of_the_pod_or_of_its_namespace() {
        let record = |value: &str| NamespaceRecord {
            labels: [(SIDECAR_INJECTION.to_owned(), value.to_owned())].into(),
            ..NamespaceRecord::default()
        };
        let plain = mk_request(json!({}));
        assert!(!is_injection_enabled(&plain, &NamespaceRecord::default()));
        assert!(!is_injection_enabled(&plain, &record("disabled")));
        assert!(!is_injection_enabled(&plain, &record("maybe")));
        assert!(is_injection_enabled(&plain, &record("enabled")));
        assert!(is_injection_enabled(
            &mk_request(json!({"labels": {SIDECAR_INJECTION: "true"}})),
            &record("disabled")
        ));
    }
}
