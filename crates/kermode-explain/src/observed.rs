//! Objects of a cluster, from its API server or from files, and accessors to their fields.

use kermode_config::Config;
use serde_json::Value;

/// Objects that an explanation reads, with the configuration of the control plane.
#[derive(Clone, Debug, Default)]
pub struct ObservedCluster {
    /// Objects with `apiVersion` and `kind`, in any order. Namespaced objects have a namespace.
    pub objects: Vec<Value>,
    /// Configuration of the control plane. The version of the API server is set in the injector's settings.
    pub config: Config,
    /// Whether [`Self::config`] is the configuration of the control plane. Otherwise it consists of defaults, and a
    /// sidecar is not compared with what would be injected today.
    pub config_is_known: bool,
    /// Roots with which sidecars verify the control plane, in PEM; `None` if they are unknown.
    pub control_plane_roots: Option<String>,
    /// Pods of the control plane; `None` if they are unknown, or if the control plane runs outside of the cluster.
    pub control_plane_pods: Option<Vec<Value>>,
    /// Whether the objects come from the API server. Objects that are missing in files may exist in the cluster.
    pub is_live: bool,
    /// Kinds that could not be read, and the reasons.
    pub unread: Vec<Unread>,
}

/// Kind whose objects could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Kind.
    pub kind: &'static str,
    /// The reason, for example the missing permission.
    pub reason: String,
}

/// Reference to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Kind.
    pub kind: &'a str,
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// UID; empty if it is unknown.
    pub uid: &'a str,
}

// === impl ObservedCluster ===

impl ObservedCluster {
    /// Returns an object by kind, namespace (empty for a cluster-scoped object) and name.
    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| {
            object["kind"] == kind
                && name_of(object) == name
                && text(object, "/metadata/namespace") == namespace
        })
    }

    /// Iterates over the objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// Iterates over the objects of a kind in a namespace.
    pub fn in_namespace<'a>(&'a self, kind: &'a str, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
        self.of_kind(kind)
            .filter(move |object| text(object, "/metadata/namespace") == namespace)
    }

    /// Iterates over the objects of a kind whose controller is `owner`.
    pub(crate) fn controlled_by<'a>(
        &'a self,
        kind: &'a str,
        owner: &'a Value,
    ) -> impl Iterator<Item = &'a Value> {
        let owner = Reference::to(owner);
        self.in_namespace(kind, owner.namespace).filter(move |object| {
            controller(object).is_some_and(|found| {
                found.kind == owner.kind
                    && found.name == owner.name
                    && (owner.uid.is_empty() || found.uid == owner.uid)
            })
        })
    }

    /// Whether an object of a kind that is not among the objects is missing in the cluster, too.
    pub fn can_miss(&self, kind: &str) -> bool {
        self.is_live && self.unread.iter().all(|unread| unread.kind != kind)
    }

    /// Whether no replica of the control plane is ready.
    pub(crate) fn lacks_ready_replica(&self) -> bool {
        let is_ready = |pod: &Value| condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True");
        self.control_plane_pods
            .as_ref()
            .is_some_and(|pods| !pods.iter().any(is_ready))
    }

    /// Whether a replica of the control plane no longer exists, so that the status that it has written is stale.
    pub(crate) fn has_lost_replica(&self, name: &str) -> bool {
        let pods = self.control_plane_pods.as_ref();
        !name.is_empty() && pods.is_some_and(|pods| !pods.iter().any(|pod| name_of(pod) == name))
    }

    /// Returns the assumptions in place of objects and configuration that could not be read.
    pub(crate) fn assumptions(&self) -> Vec<String> {
        let unread = self.unread.iter();
        let unread =
            unread.map(|unread| format!("objects of kind {} were not read: {}", unread.kind, unread.reason));
        let defaults = (!self.config_is_known).then(|| {
            "the configuration of the control plane is not known: its defaults are assumed".to_owned()
        });
        unread.chain(defaults).collect()
    }

    /// Iterates over the Events about an object, from the oldest to the newest.
    pub(crate) fn events_about(&self, object: &Reference<'_>) -> Vec<&Value> {
        let is_about = |event: &&Value| {
            let about = &event["involvedObject"];
            let uid = text(about, "/uid");
            about["kind"] == object.kind
                && about["name"] == object.name
                && (object.namespace.is_empty() || text(about, "/namespace") == object.namespace)
                && (uid.is_empty() || object.uid.is_empty() || uid == object.uid)
        };
        let mut events: Vec<&Value> = self.of_kind("Event").filter(is_about).collect();
        events.sort_by_key(|event| event_time(event));
        events
    }
}

// === impl Reference ===

impl<'a> Reference<'a> {
    /// Returns the reference to an object.
    pub fn to(object: &'a Value) -> Self {
        Self {
            kind: text(object, "/kind"),
            namespace: text(object, "/metadata/namespace"),
            name: name_of(object),
            uid: text(object, "/metadata/uid"),
        }
    }
}

impl std::fmt::Display for Reference<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(formatter, "{} {}", self.kind, self.name)
        } else {
            write!(formatter, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Returns the controller in the owner references of an object.
pub fn controller(object: &Value) -> Option<Reference<'_>> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some(Reference {
        kind: text(owner, "/kind"),
        namespace: text(object, "/metadata/namespace"),
        name: text(owner, "/name"),
        uid: text(owner, "/uid"),
    })
}

/// Returns the name of an object.
pub fn name_of(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// Returns the text at a JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Returns the items of the list at a JSON pointer; none if there is no list.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    let items = object.pointer(pointer).and_then(Value::as_array);
    items.map(Vec::as_slice).unwrap_or_default()
}

/// Returns a condition of an object's status by its type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(object, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// Returns the reason and the message of a condition or of a state, as far as they exist.
pub fn reason_and_message(object: &Value) -> String {
    let (reason, message) = (text(object, "/reason"), text(object, "/message").trim());
    match (reason.is_empty(), message.is_empty()) {
        (false, false) => format!("{reason}: {message}"),
        (false, true) => reason.to_owned(),
        (true, false) => message.to_owned(),
        (true, true) => "no reason is given".to_owned(),
    }
}

/// Returns the time of the last occurrence of an Event. The texts are RFC 3339 in UTC, so their order is that of the
/// times.
pub(crate) fn event_time(event: &Value) -> &str {
    let times = [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ];
    let mut texts = times.iter().map(|pointer| text(event, pointer));
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}
