//! Reads the fields of the incoming Pod that injection needs from raw JSON. If a field of [`Pod`] has the wrong type,
//! the error names the path of the field. Inside of a container, a field of the wrong type counts as absent.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::denial::Denial;

/// Maximum length of a list of the Pod, such as `containers`, far above that of any real Pod. It bounds the work for a
/// Pod from a file, whose size no API server has limited.
const MAX_ITEMS: usize = 100_000;
/// Node labels that hold the operating system. The second is the name before Kubernetes 1.14.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
/// Windows, as a value of [`OS_LABELS`] and of `spec.os.name`.
const WINDOWS: &str = "windows";

/// The fields of a Pod that injection reads.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent fields
pub(crate) struct Pod<'a> {
    /// `metadata.name`, or `metadata.generateName` followed by `*`.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) containers: Vec<Container<'a>>,
    pub(crate) init_containers: Vec<Container<'a>>,
    pub(crate) volumes: Vec<Volume<'a>>,
    /// Names in `spec.imagePullSecrets`.
    pub(crate) image_pull_secrets: Vec<&'a str>,
    /// `spec.terminationGracePeriodSeconds`. The API server sets its default of 30 before webhooks run.
    pub(crate) termination_grace_period_seconds: Option<u64>,
    /// Whether `spec.restartPolicy` is `Always`, the default.
    pub(crate) is_always_restarted: bool,
    /// `spec.securityContext.runAsUser`.
    pub(crate) run_as_user: Option<i64>,
    /// `spec.securityContext.runAsNonRoot`.
    pub(crate) run_as_non_root: bool,
    /// `spec.hostNetwork`.
    pub(crate) host_network: bool,
    /// Whether the Pod can run on Windows nodes only.
    pub(crate) is_windows: bool,
    /// `spec.resources`.
    pub(crate) resources: PodResources<'a>,
    /// Objects and lists that the Pod lacks.
    pub(crate) missing: Missing,
}

/// One volume of the Pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume<'a> {
    pub(crate) name: &'a str,
    pub(crate) json: &'a Value,
}

/// Pod-level resources (`spec.resources`), which the containers share.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PodResources<'a>(Option<&'a Map<String, Value>>);

/// Whether each of these objects and lists is absent from the Pod, or null. The patch then creates it together with its
/// members.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // independent fields
pub(crate) struct Missing {
    pub(crate) metadata: bool,
    pub(crate) annotations: bool,
    pub(crate) init_containers: bool,
    pub(crate) volumes: bool,
    pub(crate) image_pull_secrets: bool,
}

/// One container of the Pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container<'a> {
    pub(crate) name: &'a str,
    pub(crate) json: &'a Map<String, Value>,
}

// === impl Pod ===

impl<'a> Pod<'a> {
    pub(crate) fn read(pod: &'a Value) -> Result<Self, Denial> {
        let root = object("", pod)?;
        let empty = Map::new();
        let metadata = member("", root, "metadata", object)?.unwrap_or(&empty);
        let spec = member("", root, "spec", object)?.ok_or(Denial::InvalidPod {
            path: "/spec".to_owned(),
            expected: "an object",
        })?;
        let security_context = member("/spec", spec, "securityContext", object)?.unwrap_or(&empty);
        let containers = member("/spec", spec, "containers", list)?.ok_or(Denial::InvalidPod {
            path: "/spec/containers".to_owned(),
            expected: "a list of containers",
        })?;
        let init_containers = member("/spec", spec, "initContainers", list)?;
        let volumes = member("/spec", spec, "volumes", list)?;
        let image_pull_secrets = member("/spec", spec, "imagePullSecrets", list)?;
        Ok(Self {
            name: pod_name(metadata)?,
            labels: string_map(metadata, "labels")?,
            annotations: string_map(metadata, "annotations")?,
            containers: read_containers("/spec/containers", containers)?,
            init_containers: read_containers("/spec/initContainers", init_containers.unwrap_or_default())?,
            image_pull_secrets: secret_names(image_pull_secrets.unwrap_or_default())?,
            volumes: read_volumes(volumes.unwrap_or_default())?,
            termination_grace_period_seconds: member(
                "/spec",
                spec,
                "terminationGracePeriodSeconds",
                whole_number,
            )?
            .map(|seconds| u64::try_from(seconds).unwrap_or(0)),
            is_always_restarted: spec
                .get("restartPolicy")
                .is_none_or(|policy| policy.is_null() || policy == "Always"),
            run_as_user: member(
                "/spec/securityContext",
                security_context,
                "runAsUser",
                whole_number,
            )?,
            run_as_non_root: member("/spec/securityContext", security_context, "runAsNonRoot", boolean)?
                .unwrap_or(false),
            host_network: member("/spec", spec, "hostNetwork", boolean)?.unwrap_or(false),
            is_windows: is_windows(spec),
            resources: PodResources(member("/spec", spec, "resources", object)?),
            missing: Missing {
                metadata: !is_present(root, "metadata"),
                annotations: !is_present(metadata, "annotations"),
                init_containers: init_containers.is_none(),
                volumes: volumes.is_none(),
                image_pull_secrets: image_pull_secrets.is_none(),
            },
        })
    }
}

impl<'a> Pod<'a> {
    /// Returns the volume with a name.
    pub(crate) fn volume(&self, name: &str) -> Option<Volume<'a>> {
        self.volumes.iter().find(|volume| volume.name == name).copied()
    }
}

// === impl PodResources ===

impl<'a> PodResources<'a> {
    /// Whether the Pod-level resources have a request or limit of a resource (`cpu`, `memory`).
    pub(crate) fn contains(self, resource: &str) -> bool {
        ["requests", "limits"]
            .iter()
            .any(|kind| self.amount(kind, resource).is_some())
    }

    /// Returns the limit of a resource.
    pub(crate) fn limit(self, resource: &str) -> Option<&'a Value> {
        self.amount("limits", resource)
    }

    /// Returns the amount of a resource. `kind`: `requests` or `limits`.
    fn amount(self, kind: &str, resource: &str) -> Option<&'a Value> {
        self.0?
            .get(kind)?
            .get(resource)
            .filter(|amount| !amount.is_null())
    }
}

// === impl Container ===

impl<'a> Container<'a> {
    /// Returns a member that is an object; `None` if it is absent or of another type.
    pub(crate) fn object(&self, key: &str) -> Option<&'a Map<String, Value>> {
        self.json.get(key)?.as_object()
    }

    /// Returns a member that is a list; empty if it is absent or of another type.
    pub(crate) fn list(&self, key: &str) -> &'a [Value] {
        self.json
            .get(key)
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Whether the kubelet always restarts this container of `pod`: by its own restart policy, which an ordinary container
    /// has only with the feature gate `ContainerRestartRules`, or by that of the Pod.
    pub(crate) fn is_always_restarted(&self, pod: &Pod<'_>) -> bool {
        match self.json.get("restartPolicy") {
            None | Some(Value::Null) => pod.is_always_restarted,
            Some(policy) => policy == "Always",
        }
    }

    /// Returns `securityContext.runAsUser`.
    pub(crate) fn run_as_user(&self) -> Option<i64> {
        self.object("securityContext")?.get("runAsUser")?.as_i64()
    }
}

/// Whether a Pod requires Windows: by `spec.os`, by a node selector, or by a required node affinity in which every term
/// selects Windows.
fn is_windows(spec: &Map<String, Value>) -> bool {
    let os = spec.get("os").and_then(|os| os.get("name"));
    let selected_os = OS_LABELS
        .iter()
        .find_map(|label| spec.get("nodeSelector")?.get(label));
    if [os, selected_os].into_iter().flatten().any(|os| os == WINDOWS) {
        return true;
    }
    let terms = spec.get("affinity").and_then(|affinity| {
        affinity.pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
    });
    let terms = terms
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    !terms.is_empty() && terms.iter().all(selects_windows)
}

fn selects_windows(term: &Value) -> bool {
    let expressions = term.get("matchExpressions").and_then(Value::as_array);
    expressions.into_iter().flatten().any(|expression| {
        let is_os = OS_LABELS.iter().any(|label| expression["key"] == *label);
        is_os && expression["operator"] == "In" && expression["values"] == json!([WINDOWS])
    })
}

fn is_present(parent: &Map<String, Value>, key: &str) -> bool {
    parent.get(key).is_some_and(|value| !value.is_null())
}

fn object<'a>(path: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Denial> {
    value.as_object().ok_or_else(|| invalid(path, "an object"))
}

fn list<'a>(path: &str, value: &'a Value) -> Result<&'a [Value], Denial> {
    match value.as_array() {
        Some(items) if items.len() <= MAX_ITEMS => Ok(items),
        Some(_) => Err(invalid(path, "a list of at most 100000 items")),
        None => Err(invalid(path, "a list")),
    }
}

fn text<'a>(path: &str, value: &'a Value) -> Result<&'a str, Denial> {
    value.as_str().ok_or_else(|| invalid(path, "a string"))
}

fn boolean(path: &str, value: &Value) -> Result<bool, Denial> {
    value.as_bool().ok_or_else(|| invalid(path, "true or false"))
}

fn whole_number(path: &str, value: &Value) -> Result<i64, Denial> {
    value.as_i64().ok_or_else(|| invalid(path, "a whole number"))
}

fn invalid(path: &str, expected: &'static str) -> Denial {
    let path = if path.is_empty() { "/" } else { path };
    Denial::InvalidPod {
        path: path.to_owned(),
        expected,
    }
}

/// Reads the member `key` of `parent` with `read`. Returns `None` if the member is absent or null.
fn member<'a, T>(
    parent_path: &str,
    parent: &'a Map<String, Value>,
    key: &str,
    read: impl Fn(&str, &'a Value) -> Result<T, Denial>,
) -> Result<Option<T>, Denial> {
    match parent.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(&format!("{parent_path}/{key}"), value).map(Some),
    }
}

fn pod_name(metadata: &Map<String, Value>) -> Result<String, Denial> {
    if let Some(name) = member("/metadata", metadata, "name", text)? {
        return Ok(name.to_owned());
    }
    Ok(match member("/metadata", metadata, "generateName", text)? {
        Some(prefix) => format!("{prefix}*"),
        None => "(unnamed)".to_owned(),
    })
}

fn string_map(metadata: &Map<String, Value>, key: &str) -> Result<BTreeMap<String, String>, Denial> {
    let Some(members) = member("/metadata", metadata, key, object)? else {
        return Ok(BTreeMap::new());
    };
    members
        .iter()
        .map(|(name, value)| {
            let path = format!("/metadata/{key}/{}", crate::pointer::escape(name));
            Ok((name.clone(), text(&path, value)?.to_owned()))
        })
        .collect()
}

fn read_containers<'a>(path: &str, items: &'a [Value]) -> Result<Vec<Container<'a>>, Denial> {
    let read = |(index, item): (usize, &'a Value)| {
        let path = format!("{path}/{index}");
        let json = object(&path, item)?;
        let name = member(&path, json, "name", text)?.unwrap_or_default();
        Ok(Container { name, json })
    };
    items.iter().enumerate().map(read).collect()
}

fn secret_names(items: &[Value]) -> Result<Vec<&str>, Denial> {
    let read = |(index, json)| {
        let path = format!("/spec/imagePullSecrets/{index}");
        Ok(member(&path, object(&path, json)?, "name", text)?.unwrap_or_default())
    };
    items.iter().enumerate().map(read).collect()
}

fn read_volumes(items: &[Value]) -> Result<Vec<Volume<'_>>, Denial> {
    let read = |(index, json)| {
        let path = format!("/spec/volumes/{index}");
        let name = member(&path, object(&path, json)?, "name", text)?.unwrap_or_default();
        Ok(Volume { name, json })
    };
    items.iter().enumerate().map(read).collect()
}
