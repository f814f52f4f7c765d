//! Writes Events about denied and skipped Pods. A Pod does not exist during its admission, so the Event is about the
//! controller of the Pod, or about the Namespace if the Pod has no controller.
//!
//! Every Pod can call the webhooks, so a review may be forged. Therefore, an Event is written only about an object that
//! exists, its text is limited in length and characters, and repetitions are suppressed. The rate is limited for each
//! namespace, so that forged reviews cannot suppress the Events of another namespace.

mod object;
mod pending;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kermode_crds::annotation::{SIDECAR_INJECTION, parse_bool};
use kermode_inject::{Denial, InjectionSource, SkipReason};
use kermode_k8s::controller::recorder::{EventRecorder, EventType};
use kermode_limit::rate::{KeyedRateLimit, Rate};
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::object::{EventObject, is_name};
use self::pending::PendingEvents;
use super::review::Request;
use crate::directory::NamespaceRecord;

/// Minimum interval between Events about the same object with the same reason.
const REPEAT_INTERVAL: Duration = Duration::from_mins(10);
/// Maximum rate of Events about the controllers of one namespace. Events about the Namespace itself have a separate
/// limit with the same rate. The burst is sufficient for the rollout of many workloads.
const EVENT_RATE: Rate = Rate {
    burst: 20.0,
    per_second: 10.0 / 60.0,
};
/// Pause after each lookup of a controller. The pause limits the load on the API server to 20 lookups per second.
const LOOKUP_PAUSE: Duration = Duration::from_millis(50);
/// Maximum length of the text of an Event, in characters. A longer text is cut off, and `...` is appended.
const MAX_TEXT_CHARS: usize = 512;

/// Value of the field `action` in the Events.
const ACTION: &str = "InjectSidecar";

/// Events about denied and skipped Pods: a queue, and the task that writes the queued Events. Dropping the value ends
/// the task.
#[derive(Debug)]
pub struct InjectionEvents {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

/// State that the webhooks share with the [`EventWriter`].
#[derive(Debug)]
struct Shared {
    pending: Mutex<PendingEvents<InjectionEvent>>,
    /// Notified after an Event is added to `pending`.
    added: Notify,
}

/// Queued Event.
#[derive(Debug, PartialEq)]
struct InjectionEvent {
    object: EventObject,
    namespace: String,
    is_warning: bool,
    reason: &'static str,
    text: String,
}

/// Task that takes Events from the queue, checks that their objects exist, and writes the Events.
struct EventWriter {
    shared: Arc<Shared>,
    recorder: EventRecorder,
    client: Client,
    throttle: EventThrottle,
}

/// Limits repetitions and the rate of Events.
#[derive(Debug)]
struct EventThrottle {
    /// Topics of the Events that were written within the last [`REPEAT_INTERVAL`], with the times of writing.
    written: HashMap<Topic, Instant>,
    /// Rate of Events, by namespace and by whether the Events are about the Namespace itself.
    rate: KeyedRateLimit<(String, bool)>,
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
    /// Starts the task. The task looks up the controllers of Pods with `client`, and writes Events with `recorder`.
    pub fn start(recorder: EventRecorder, client: Client) -> Self {
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            added: Notify::new(),
        });
        let writer = EventWriter {
            shared: shared.clone(),
            recorder,
            client,
            throttle: EventThrottle::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(writer.run());
        Self { shared, _task: task }
    }

    /// Queues an Event about a denied Pod, unless the review is a dry run.
    pub(super) fn report_denied(&self, request: &Request, namespace: &str, denial: &Denial) {
        let pod = pod_text(request, namespace);
        let text = format!("{pod} denied: {denial}");
        self.enqueue(request, namespace, true, denial.reason(), &text);
    }

    /// Queues an Event about a skipped Pod. Queues no Event if nothing requests injection into the Pod, if the Pod
    /// already has a sidecar, or if the Namespace disables injection into all its Pods.
    pub(super) fn report_skipped(
        &self,
        request: &Request,
        namespace: &str,
        record: &NamespaceRecord,
        reason: SkipReason,
    ) {
        if let SkipReason::CannotCarrySidecar(obstacle) = reason {
            let text = format!("{} gets no sidecar: {obstacle}", pod_text(request, namespace));
            self.enqueue(request, namespace, true, reason.as_str(), &text);
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
        let text = format!("{} gets no sidecar: {cause}", pod_text(request, namespace));
        self.enqueue(request, namespace, false, reason.as_str(), &text);
    }

    fn enqueue(
        &self,
        request: &Request,
        namespace: &str,
        is_warning: bool,
        reason: &'static str,
        text: &str,
    ) {
        if request.dry_run {
            return;
        }
        let Some(object) = EventObject::of(request, namespace) else {
            return;
        };
        let event = InjectionEvent {
            object,
            namespace: namespace.to_owned(),
            is_warning,
            reason,
            text: bounded_text(text),
        };
        let mut pending = self.shared.pending.lock();
        // At a limit, `push` drops a random queued Event.
        pending.push(namespace, event, |end| fastrand::usize(..end));
        drop(pending);
        self.shared.added.notify_one();
    }
}

// === impl EventWriter ===

impl EventWriter {
    async fn run(mut self) {
        loop {
            let next = self.shared.pending.lock().pop();
            match next {
                Some(event) => self.write(event).await,
                None => self.shared.added.notified().await,
            }
        }
    }

    /// Writes an Event if the limits permit it and its object exists. Only a written Event counts against the limits.
    /// The warning in the log is limited like the Event, because controllers retry denied Pods.
    async fn write(&mut self, event: InjectionEvent) {
        let topic = event.topic();
        if !self.throttle.permits(&topic, Instant::now()) {
            tracing::debug!(
                namespace = event.namespace,
                reason = event.reason,
                "Event suppressed by the limits"
            );
            return;
        }
        if let EventObject::Controller(_) = &event.object {
            let exists = event.object.exists(&self.client).await;
            tokio::time::sleep(LOOKUP_PAUSE).await;
            if !exists {
                tracing::debug!(
                    ?topic,
                    "no Event: the controller in the Pod's owner reference was not found"
                );
                return;
            }
        }
        self.throttle.count(topic, Instant::now());
        let (namespace, reason) = (event.namespace.as_str(), event.reason);
        let event_type = if event.is_warning {
            tracing::warn!(namespace, reason, "{}", event.text);
            EventType::Warning
        } else {
            EventType::Normal
        };
        let reference = event.object.reference().clone();
        self.recorder
            .publish(reference, event_type, ACTION, reason, &event.text);
    }
}

// === impl InjectionEvent ===

impl InjectionEvent {
    fn topic(&self) -> Topic {
        let reference = self.object.reference();
        Topic {
            kind: reference.kind.clone().unwrap_or_default(),
            namespace: self.namespace.clone(),
            name: reference.name.clone().unwrap_or_default(),
            reason: self.reason,
        }
    }
}

/// Returns a text that identifies a Pod. The text does not contain the name if the name is not valid in Kubernetes.
fn pod_text(request: &Request, namespace: &str) -> String {
    match request.pod_name() {
        name if is_name(name) => format!("Pod {namespace}/{name}"),
        _ => format!("a Pod of Namespace {namespace}"),
    }
}

/// Limits the length of a text, and replaces control characters and other unprintable characters by `?`. The text may
/// contain arbitrary values of the Pod.
fn bounded_text(text: &str) -> String {
    let is_printable = |char: char| char == ' ' || char.is_ascii_graphic() || char.is_alphanumeric();
    let mut bounded: String = text
        .chars()
        .take(MAX_TEXT_CHARS)
        .map(|char| if is_printable(char) { char } else { '?' })
        .collect();
    if text.chars().nth(MAX_TEXT_CHARS).is_some() {
        bounded.push_str("...");
    }
    bounded
}

/// Returns whether a label or annotation of the Pod or of its Namespace enables injection.
fn is_injection_enabled(request: &Request, record: &NamespaceRecord) -> bool {
    let is_enabled = |value: &str| parse_bool(SIDECAR_INJECTION, value).unwrap_or(false);
    let mut pod = ["labels", "annotations"].iter().filter_map(|map| {
        request
            .object
            .get("metadata")?
            .get(map)?
            .get(SIDECAR_INJECTION)?
            .as_str()
    });
    pod.any(is_enabled) || record.enables_injection()
}

// === impl EventThrottle ===

impl EventThrottle {
    fn new() -> Self {
        Self {
            written: HashMap::new(),
            rate: KeyedRateLimit::new(EVENT_RATE),
        }
    }

    /// Returns whether an Event may be written now.
    fn permits(&mut self, topic: &Topic, now: Instant) -> bool {
        let is_repeated = self.written.get(topic).is_some_and(|at| is_recent(*at, now));
        !is_repeated && self.rate.has_token(&topic.rate_key(), now)
    }

    /// Counts an Event against the limits.
    fn count(&mut self, topic: Topic, now: Instant) {
        self.rate.try_take(topic.rate_key(), now);
        self.written.retain(|_, at| is_recent(*at, now));
        self.written.insert(topic, now);
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.duration_since(at) < REPEAT_INTERVAL
}

impl Topic {
    fn rate_key(&self) -> (String, bool) {
        (self.namespace.clone(), self.kind == "Namespace")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn topic(name: &str, reason: &'static str) -> Topic {
        Topic {
            kind: "ReplicaSet".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            reason,
        }
    }

    /// Counts an Event if the limits permit it. Returns whether the Event was counted.
    fn count_if_permitted(throttle: &mut EventThrottle, topic: Topic, now: Instant) -> bool {
        let is_permitted = throttle.permits(&topic, now);
        if is_permitted {
            throttle.count(topic, now);
        }
        is_permitted
    }

    #[test]
    fn repeated_event_is_not_written_before_the_interval_has_passed() {
        let (mut throttle, start) = (EventThrottle::new(), Instant::now());
        let mut count = |topic, at| count_if_permitted(&mut throttle, topic, at);
        assert!(count(topic("a", "MeshNotFound"), start));
        assert!(!count(topic("a", "MeshNotFound"), start + REPEAT_INTERVAL / 2));
        assert!(count(topic("a", "SameUid"), start), "another reason");
        assert!(count(topic("b", "MeshNotFound"), start), "another controller");
        assert!(count(topic("a", "MeshNotFound"), start + REPEAT_INTERVAL));
    }

    #[test]
    fn rate_and_memory_are_limited_for_each_namespace() {
        let (mut throttle, start) = (EventThrottle::new(), Instant::now());
        let mut written = 0_u32;
        for second in 0..3600_u64 {
            let now = start + Duration::from_secs(second);
            for controller in 0..20 {
                let topic = topic(&format!("{second}-{controller}"), "SameUid");
                written += u32::from(count_if_permitted(&mut throttle, topic, now));
                // 10 per minute in the repeat interval of 10 minutes, the burst of 20, and the new topic.
                assert!(throttle.written.len() <= 10 * 10 + 20 + 1);
            }
        }
        // 10 per minute for 60 minutes, and the burst of 20.
        assert!((600..=620).contains(&written), "{written}");
        let now = start + Duration::from_hours(1);
        let other = Topic {
            namespace: "other".to_owned(),
            ..topic("a", "SameUid")
        };
        assert!(count_if_permitted(&mut throttle, other, now), "another namespace");
        let about_namespace = Topic {
            kind: "Namespace".to_owned(),
            ..topic("default", "SameUid")
        };
        assert!(
            count_if_permitted(&mut throttle, about_namespace, now),
            "Events about controllers do not limit Events about the Namespace"
        );
    }

    #[test]
    fn text_is_limited_in_length_and_contains_no_control_characters_and_no_invalid_name() {
        let text = bounded_text("Mesh \"a\u{202e}b\n\u{1b}[31mc\" not found: Größe");
        assert_eq!(text, "Mesh \"a?b??[31mc\" not found: Größe");
        let long = bounded_text(&"x".repeat(100_000));
        assert_eq!(long.len(), MAX_TEXT_CHARS + 3);
        assert!(long.ends_with("x..."));
        let named = |name: &str| {
            let request = Request {
                name: name.to_owned(),
                ..Request::default()
            };
            pod_text(&request, "shop")
        };
        assert_eq!(named("web-1"), "Pod shop/web-1");
        assert_eq!(named("all is well; ignore this"), "a Pod of Namespace shop");
    }

    fn mk_request(metadata: Value) -> Request {
        Request {
            object: json!({"metadata": metadata}),
            ..Request::default()
        }
    }

    #[test]
    fn injection_is_enabled_by_a_label_of_the_pod_or_of_its_namespace() {
        let record = |value: &str| NamespaceRecord {
            labels: [(SIDECAR_INJECTION.to_owned(), value.to_owned())].into(),
            ..NamespaceRecord::default()
        };
        let no_label = mk_request(json!({}));
        assert!(!is_injection_enabled(&no_label, &NamespaceRecord::default()));
        assert!(!is_injection_enabled(&no_label, &record("disabled")));
        assert!(!is_injection_enabled(&no_label, &record("maybe")));
        assert!(is_injection_enabled(&no_label, &record("enabled")));
        assert!(is_injection_enabled(
            &mk_request(json!({"labels": {SIDECAR_INJECTION: "true"}})),
            &record("disabled")
        ));
    }
}
