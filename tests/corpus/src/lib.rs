//! Pods, Services, Namespaces and Meshes as people write them (`objects/*.yaml`), for tests. The README describes the
//! annotations of the objects.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Number of objects below which the corpus is incomplete, for example because a file was not found.
const MIN_OBJECTS: usize = 150;
/// Annotation of a Pod with the reason for which injection skips or denies the Pod.
pub const OUTCOME: &str = "example.com/outcome";
/// Annotation of a Pod with a part of the warning or denial.
pub const MESSAGE: &str = "example.com/message";
/// Annotation of a Pod with a part of the warning in classic mode, instead of [`MESSAGE`].
pub const MESSAGE_IN_CLASSIC_MODE: &str = "example.com/message-in-classic-mode";
/// Annotation of a Pod with the feature gate without which an API server does not accept it.
pub const FEATURE: &str = "example.com/feature";
/// Annotation of a Service with a part of the warning about a Service that yields no inbound.
pub const WITHOUT_INBOUND: &str = "example.com/without-inbound";
/// Annotation of a Mesh with the field that validation rejects.
pub const FIELD: &str = "example.com/field";

/// Fields of a container that hold a probe.
pub const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// Fields of `lifecycle` that hold a hook.
const HOOKS: [&str; 2] = ["postStart", "preStop"];
/// Lists of containers that a new Pod may have.
pub const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];
/// Annotations with a list to which injection appends an item.
const LISTS: [&str; 2] = [
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
    "k8s.v1.cni.cncf.io/networks",
];

/// The objects, by kind, in the order of their files.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Pods. A Pod has a name or the prefix of a generated name.
    pub pods: Vec<Value>,
    /// Services.
    pub services: Vec<Value>,
    /// Namespaces of all other objects.
    pub namespaces: Vec<Value>,
    /// Meshes.
    pub meshes: Vec<Value>,
}

impl Corpus {
    /// Reads the objects.
    ///
    /// # Errors
    /// When a file cannot be read, two objects have the same name, or the Namespace of an object is missing.
    pub fn read() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects");
        let entries = std::fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        let mut paths: Vec<_> = entries.iter().map(std::fs::DirEntry::path).collect();
        // The order of directory entries is not deterministic.
        paths.sort();
        let mut corpus = Self::default();
        for path in paths {
            let text = std::fs::read_to_string(&path)?;
            let objects: Vec<Value> =
                serde_saphyr::from_multiple(&text).with_context(|| path.display().to_string())?;
            for object in objects {
                corpus.list(&object)?.push(object);
            }
        }
        corpus.check()?;
        Ok(corpus)
    }

    /// Returns the Namespace of an object.
    pub fn namespace_of(&self, object: &Value) -> Option<&Value> {
        let mut namespaces = self.namespaces.iter();
        namespaces.find(|namespace| namespace["metadata"]["name"] == object["metadata"]["namespace"])
    }

    fn list(&mut self, object: &Value) -> Result<&mut Vec<Value>> {
        match object["kind"].as_str() {
            Some("Pod") => Ok(&mut self.pods),
            Some("Service") => Ok(&mut self.services),
            Some("Namespace") => Ok(&mut self.namespaces),
            Some("Mesh") => Ok(&mut self.meshes),
            other => anyhow::bail!("the corpus has no objects of kind {other:?}"),
        }
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for object in self.pods.iter().chain(&self.services) {
            ensure!(
                self.namespace_of(object).is_some(),
                "{}: no such Namespace",
                name(object)
            );
        }
        let namespaced = self.pods.iter().chain(&self.services);
        for object in namespaced.chain(&self.namespaces).chain(&self.meshes) {
            ensure!(names.insert(name(object)), "{} exists twice", name(object));
        }
        ensure!(names.len() >= MIN_OBJECTS, "only {} objects", names.len());
        Ok(())
    }
}

/// Returns kind, namespace and name of an object, for messages of tests.
pub fn name(object: &Value) -> String {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = match text(&metadata["name"]) {
        name if name.is_empty() => format!("{}*", text(&metadata["generateName"])),
        name => name,
    };
    format!(
        "{} {}/{name}",
        text(&object["kind"]),
        text(&metadata["namespace"])
    )
}

/// Returns an annotation of an object.
pub fn annotation<'o>(object: &'o Value, key: &str) -> Option<&'o str> {
    object["metadata"]["annotations"].get(key)?.as_str()
}

/// Returns the paths of what an injected Pod lacks of the Pod before injection. Injection may change the targets of probes
/// and hooks without a host of their own, if the new target names the old one; values of annotations of the mesh; and
/// annotations with a list, which keep all items.
pub fn lost_by_injection(pod: &Value, injected: &Value) -> Vec<String> {
    let mut expected = pod.clone();
    if let Some(annotations) = expected.pointer_mut("/metadata/annotations") {
        for (key, value) in annotations.as_object_mut().into_iter().flatten() {
            let new = &injected["metadata"]["annotations"][key];
            if key.contains("kuma.io/") || (LISTS.contains(&key.as_str()) && has_all_items(value, new)) {
                *value = new.clone();
            }
        }
    }
    for list in CONTAINER_LISTS {
        let new = injected["spec"][list].as_array().map_or(&[][..], Vec::as_slice);
        let containers = expected.pointer_mut(&format!("/spec/{list}"));
        let containers = containers.and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(new) = new.iter().find(|new| new["name"] == container["name"]) {
                expect_new_targets(container, new);
            }
        }
    }
    lost(&expected, injected)
}

/// Replaces the probes and hooks of a container by those of the container after injection, if these name the old ones.
fn expect_new_targets(container: &mut Value, injected: &Value) {
    for probe in PROBES {
        if let Some(handlers) = container.get_mut(probe) {
            expect_new_target(handlers, &injected[probe]);
        }
    }
    for hook in HOOKS {
        if let Some(handlers) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            expect_new_target(handlers, &injected["lifecycle"][hook]);
        }
    }
}

/// Replaces the target of a probe or hook by an HTTP request to the sidecar whose path names the old target.
fn expect_new_target(handlers: &mut Value, injected: &Value) {
    let new = &injected["httpGet"];
    let new_path = new["path"].as_str().unwrap_or_default();
    let Some(handlers) = handlers.as_object_mut() else {
        return;
    };
    if let Some(http) = handlers
        .get_mut("httpGet")
        .filter(|http| http.get("host").is_none())
    {
        let path = http["path"].as_str().unwrap_or_default();
        let target = new_path.strip_prefix("/https").unwrap_or(new_path);
        let (_, rest) = target.trim_start_matches('/').split_once('/').unwrap_or_default();
        if new["port"] != http["port"] && is_same_path(path, rest) {
            for field in ["path", "port", "scheme"] {
                http[field] = new[field].clone();
            }
        }
        return;
    }
    for (handler, prefix) in [("tcpSocket", "/tcp/"), ("grpc", "/grpc/")] {
        let has_host = handlers
            .get(handler)
            .is_some_and(|handler| handler.get("host").is_some());
        if new_path.starts_with(prefix) && !has_host {
            handlers.remove(handler);
        }
    }
}

/// Whether the kubelet requests the path `sent` for a probe with the path `written`. The kubelet drops a fragment and
/// encodes characters; it encodes all of a path that is no URL.
fn is_same_path(written: &str, sent: &str) -> bool {
    let (written, sent) = (written.trim_start_matches('/'), sent.trim_start_matches('/'));
    let without_fragment = written.split('#').next().unwrap_or_default();
    let sent = decoded(sent);
    sent == decoded(without_fragment) || sent == written.as_bytes()
}

/// Decodes the percent-encoded bytes of a text. Other percent signs stay.
fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = (byte == b'%').then(|| after.get(..2)).flatten();
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let encoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(encoded.unwrap_or(byte));
        rest = if encoded.is_some() { &after[2..] } else { after };
    }
    decoded
}

/// Whether a list in an annotation, in JSON or separated by commas, has all items of another.
fn has_all_items(before: &Value, after: &Value) -> bool {
    let items = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        let separated = || text.split(',').map(|item| Value::from(item.trim())).collect();
        serde_json::from_str::<Vec<Value>>(text).unwrap_or_else(|_| separated())
    };
    let after = items(after);
    items(before).iter().all(|item| after.contains(item))
}

/// Returns the paths of the values of `before` that `after` lacks or changes. The items of a list are matched by their
/// names if all of them have different names, else by their order; `after` may have further members and items.
pub fn lost(before: &Value, after: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect_lost(String::new(), before, after, &mut paths);
    paths
}

fn collect_lost(path: String, before: &Value, after: &Value, paths: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, member) in before {
                collect_lost(
                    format!("{path}/{key}"),
                    member,
                    after.get(key).unwrap_or(&Value::Null),
                    paths,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            let named = have_different_names(before);
            for (index, item) in before.iter().enumerate() {
                let has_same_name = |other: &&Value| other["name"] == item["name"];
                let kept = if named {
                    after.iter().find(has_same_name)
                } else {
                    after.get(index)
                };
                collect_lost(
                    format!("{path}/{index}"),
                    item,
                    kept.unwrap_or(&Value::Null),
                    paths,
                );
            }
        }
        _ if before == after => {}
        _ => paths.push(path),
    }
}

fn have_different_names(items: &[Value]) -> bool {
    let names: BTreeSet<&str> = items.iter().filter_map(|item| item["name"].as_str()).collect();
    names.len() == items.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lost_members_and_items_are_named_and_added_ones_are_not() {
        let before = json!({"a": {"b": 1, "c": [1, 2]}, "list": [{"name": "x", "v": 1}, {"name": "y"}]});
        let after = json!({
            "a": {"b": 2, "c": [1], "d": 1},
            "list": [{"name": "new"}, {"name": "y"}, {"name": "x", "v": 1, "w": 2}],
        });
        assert_eq!(lost(&before, &after), ["/a/b", "/a/c/1"]);
        assert_eq!(lost(&before, &before), Vec::<String>::new());
    }

    #[test]
    fn target_of_a_probe_may_change_if_the_new_one_names_it() {
        let pod = |probe: &Value| json!({"spec": {"containers": [{"name": "a", "livenessProbe": probe}]}});
        let http = |path: &str, port: u16| json!({"httpGet": {"path": path, "port": port}});
        let other_host = json!({"httpGet": {"host": "x", "path": "/live", "port": 1}});
        for (before, after, is_kept) in [
            (http("/live", 8080), http("/8080/live", 9000), true),
            (http("/live", 8080), http("/https/8080/live", 9000), true),
            (http("/a b%2f?c%#d", 1), http("/1/a%20b%2f?c%", 9000), true),
            (http("/%zz#", 1), http("/1/%25zz%23", 9000), true),
            (http("/a%20b", 1), http("/1/a+b", 9000), false),
            (http("/a#b", 1), http("/1/", 9000), false),
            (http("/live", 8080), http("/8080/", 9000), false),
            (http("/live", 8080), json!({}), false),
            (json!({"tcpSocket": {"port": 1}}), http("/tcp/1", 9000), true),
            (json!({"tcpSocket": {"port": 1}}), http("/1/", 9000), false),
            (json!({"grpc": {"port": 1}}), http("/grpc/1", 9000), true),
            (other_host, http("/1/live", 9000), false),
        ] {
            let lost = lost_by_injection(&pod(&before), &pod(&after));
            assert_eq!(lost.is_empty(), is_kept, "{before} {after}");
        }
    }

    #[test]
    fn annotation_with_a_list_may_get_further_items() {
        let pod =
            |networks: &str| json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": networks}}});
        for (before, after, kept) in [
            ("a, b", "a,b,c", true),
            ("a,b", "a,c", false),
            (r#"[{"name":"a"}]"#, r#"[{"name":"a"},{"name":"c"}]"#, true),
            (r#"[{"name":"a"}]"#, r#"[{"name":"a"}],c"#, false),
        ] {
            let lost = lost_by_injection(&pod(before), &pod(after));
            assert_eq!(lost.is_empty(), kept, "{before} {after}");
        }
    }
}
