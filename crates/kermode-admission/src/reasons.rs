//! Tells why a Pod has no sidecar where people look: as an Event on what owns the Pod, since a refused Pod is not there
//! to carry one, or on its Namespace. Each reason is told once in a while, and few a minute in all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kermode_crds::annotation::{SIDECAR_INJECTION, parse_bool};
use kermode_inject::{Denial, InjectionSource, SkipReason};
use kermode_k8s::controller::recorder::{EventType, Events};
use serde_json::Value;

use super::review::Request;
use crate::directory::NamespaceRecord;

/// An owner is not told the same reason again within this time.
const REPEAT: Duration = Duration::from_mins(10);
/// Events in a minute, whoever they are about.
const PER_MINUTE: usize = 60;
/// Names longer than Kubernetes allows belong to objects that do not exist.
const LONGEST_NAME: usize = 253;

const ACTION: &str = "InjectSidecar";

/// Writes Events, rarely enough.
#[derive(Debug)]
pub struct Reasons {
    events: Events,
    throttle: Mutex<Throttle>,
}

/// Who was told what, and when. Holds at most what the rate lets in within [`REPEAT`].
#[derive(Debug, Default)]
struct Throttle {
    told: HashMap<Topic, Instant>,
}

/// Somebody and a reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    kind: String,
    namespace: String,
    name: String,
    reason: &'static str,
}

// === impl Reasons ===

impl Reasons {
    /// With an empty memory.
    pub fn new(events: Events) -> Self {
        Self {
            events,
            throttle: Mutex::default(),
        }
    }

    /// Tells that a Pod was refused. Whether it was told now.
    pub(super) fn refused(&self, request: &Request, namespace: &str, refusal: &Denial) -> bool {
        let pod = request.pod_name();
        let text = format!("Pod {namespace}/{pod} refused: {refusal}");
        self.tell(request, namespace, EventType::Warning, refusal.reason(), &text)
    }

    /// Tells that a Pod gets no sidecar, where somebody asked for one or for none.
    pub(super) fn skipped(
        &self,
        request: &Request,
        namespace: &str,
        record: &NamespaceRecord,
        reason: SkipReason,
    ) {
        let cause = match reason {
            SkipReason::Disabled(InjectionSource::PodLabel) => {
                format!("its label {SIDECAR_INJECTION} says so")
            }
            SkipReason::Disabled(InjectionSource::PodAnnotation) => {
                format!("its annotation {SIDECAR_INJECTION} says so")
            }
            SkipReason::ExceptionLabel if wants_sidecar(request, record) => {
                "it has a label of the control plane's setting injector.exceptions.labels".to_owned()
            }
            // What a Namespace says of all its Pods needs no word about each.
            SkipReason::ExceptionLabel
            | SkipReason::Disabled(InjectionSource::NamespaceLabel | InjectionSource::NamespaceAnnotation)
            | SkipReason::AlreadyInjected
            | SkipReason::NotRequested => return,
        };
        let text = format!("Pod {namespace}/{} gets no sidecar: {cause}", request.pod_name());
        self.tell(request, namespace, EventType::Normal, reason.as_str(), &text);
    }

    fn tell(
        &self,
        request: &Request,
        namespace: &str,
        type_: EventType,
        reason: &'static str,
        text: &str,
    ) -> bool {
        if request.dry_run {
            return false;
        }
        let object = controller(request, namespace).unwrap_or_else(|| itself(namespace));
        let topic = Topic {
            kind: object.kind.clone().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: object.name.clone().unwrap_or_default(),
            reason,
        };
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if !throttle.admits(topic, Instant::now()) {
            return false;
        }
        drop(throttle);
        self.events.about(object, type_, ACTION, reason, text);
        true
    }
}

/// Whether Pod or Namespace ask for injection.
fn wants_sidecar(request: &Request, record: &NamespaceRecord) -> bool {
    let on = |value: &str| parse_bool(SIDECAR_INJECTION, value).unwrap_or(false);
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
    pod.chain(namespace).any(on)
}

/// What controls the Pod. The names are the sender's and not checked yet.
fn controller(request: &Request, namespace: &str) -> Option<ObjectReference> {
    let owners = request.object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners
        .iter()
        .find(|owner| owner["controller"] == Value::Bool(true))?;
    let text = |key: &str| {
        let text = owner.get(key)?.as_str()?;
        (!text.is_empty() && text.len() <= LONGEST_NAME).then(|| text.to_owned())
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

/// The Namespace, as something inside of itself: so its Events are among those of its objects.
fn itself(namespace: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Namespace".to_owned()),
        name: Some(namespace.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    }
}

// === impl Throttle ===

impl Throttle {
    fn admits(&mut self, topic: Topic, now: Instant) -> bool {
        if self
            .told
            .get(&topic)
            .is_some_and(|told| now.duration_since(*told) < REPEAT)
        {
            return false;
        }
        let age = |told: &Instant| now.duration_since(*told);
        let lately = self
            .told
            .values()
            .filter(|told| age(told) < Duration::from_mins(1))
            .count();
        if lately >= PER_MINUTE {
            return false;
        }
        self.told.retain(|_, told| now.duration_since(*told) < REPEAT);
        self.told.insert(topic, now);
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
    fn the_same_is_told_again_after_a_while_only() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert!(throttle.admits(topic("a", "MeshNotFound"), start));
        assert!(!throttle.admits(topic("a", "MeshNotFound"), start + REPEAT / 2));
        assert!(throttle.admits(topic("a", "SameUid"), start), "another reason");
        assert!(
            throttle.admits(topic("b", "MeshNotFound"), start),
            "another owner"
        );
        assert!(throttle.admits(topic("a", "MeshNotFound"), start + REPEAT));
    }

    #[test]
    fn however_many_owners_there_are_events_and_memory_are_bounded() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let mut told = 0;
        for second in 0..3600_u64 {
            for owner in 0..20 {
                let now = start + Duration::from_secs(second);
                told += usize::from(throttle.admits(topic(&format!("{second}-{owner}"), "SameUid"), now));
                assert!(throttle.told.len() <= PER_MINUTE * 10);
            }
        }
        assert_eq!(told, 60 * PER_MINUTE);
    }

    fn pod(metadata: Value) -> Request {
        Request {
            object: json!({"metadata": metadata}),
            ..Request::default()
        }
    }

    #[test]
    fn the_controller_is_told_and_no_other_owner() {
        let owner = |name: &str, controller: bool| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "u", "controller": controller});
        let request = pod(json!({"ownerReferences": [owner("a", false), owner("b", true)]}));
        let found = controller(&request, "default").expect("a controller");
        assert_eq!(found.name.as_deref(), Some("b"));
        assert_eq!(found.api_version.as_deref(), Some("apps/v1"));
        assert_eq!(found.uid.as_deref(), Some("u"));
        assert_eq!(
            controller(&pod(json!({"ownerReferences": [owner("a", false)]})), "default"),
            None
        );
    }

    #[test]
    fn owners_that_cannot_exist_are_none() {
        let long = "x".repeat(LONGEST_NAME + 1);
        for owner in [
            json!({"controller": true}),
            json!({"controller": true, "apiVersion": "v1", "kind": "", "name": "a"}),
            json!({"controller": true, "apiVersion": "v1", "kind": "A", "name": long}),
            json!(1),
        ] {
            assert_eq!(
                controller(&pod(json!({"ownerReferences": [owner]})), "default"),
                None
            );
        }
        assert_eq!(controller(&pod(json!({"ownerReferences": "x"})), "default"), None);
    }

    #[test]
    fn an_exception_counts_only_where_injection_is_asked_for() {
        let record = |value: &str| NamespaceRecord {
            labels: [(SIDECAR_INJECTION.to_owned(), value.to_owned())].into(),
            ..NamespaceRecord::default()
        };
        let plain = pod(json!({}));
        assert!(!wants_sidecar(&plain, &NamespaceRecord::default()));
        assert!(!wants_sidecar(&plain, &record("disabled")));
        assert!(!wants_sidecar(&plain, &record("maybe")));
        assert!(wants_sidecar(&plain, &record("enabled")));
        assert!(wants_sidecar(
            &pod(json!({"labels": {SIDECAR_INJECTION: "true"}})),
            &record("disabled")
        ));
    }
}
