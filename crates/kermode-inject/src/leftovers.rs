//! Results of an earlier injection in an incoming Pod (docs/design.md#repeatable-injection).
//!
//! A Pod comes back to injection when another webhook has changed it, or when it was restored from a backup or copied
//! from an injected Pod. The containers of the earlier injection are removed before the Pod is injected anew, so they
//! are neither duplicated nor trusted. An up-to-date container is put back as it was found, because other webhooks may
//! have changed it too.

use kermode_crds::annotation::{SIDECAR_INJECTED, marks_injected};
use serde_json::{Map, Value};

use crate::names::{INIT, INIT_PROGRAM, SIDECAR, VALIDATION};
use crate::stop;

/// Members of a container that an up-to-date container may have in addition to the rendered ones: the defaults of the
/// API server, and what other webhooks commonly add.
pub(crate) const ADDITIONAL_MEMBERS: [&str; 7] = [
    "env",
    "imagePullPolicy",
    "resources",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeDevices",
    "volumeMounts",
];
/// Members of a container that other webhooks may replace, because they size containers or rewrite images.
pub(crate) const REPLACEABLE_MEMBERS: [&str; 2] = ["imagePullPolicy", "resources"];
/// Numbers of a container that mean the same if they are 0 or absent.
const ZERO_BY_DEFAULT: [&str; 2] = ["hostPort", "initialDelaySeconds"];
/// Booleans of a container that mean the same if they are false or absent.
const FALSE_BY_DEFAULT: [&str; 4] = ["readOnly", "stdin", "stdinOnce", "tty"];
/// Prefix of the environment variables of the sidecar. A container with an additional variable of this prefix is
/// outdated.
pub(crate) const OWN_VARIABLE_PREFIX: &str = "KUMA_";

/// Containers of an earlier injection, which were removed from a Pod.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(Vec<Value>);

/// Whether the annotations of a Pod say that it was injected.
pub(crate) fn is_annotated(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(SIDECAR_INJECTED))
        .and_then(Value::as_str)
        .is_some_and(marks_injected)
}

/// Returns a copy of the Pod without the containers and preStop hooks of an earlier injection, and these containers. Returns `None` if
/// the Pod has no such containers and its annotations do not say that it was injected.
pub(crate) fn removed_from(pod: &Value) -> Option<(Value, Leftovers)> {
    let pod_is_annotated = is_annotated(pod);
    let is_leftover = |container: &Value| {
        container
            .as_object()
            .is_some_and(|container| is_injected(container, pod_is_annotated))
    };
    if !pod_is_annotated && !lists(pod).any(|list| list.iter().any(is_leftover)) {
        return None;
    }
    let (mut stripped, mut leftovers) = (pod.clone(), Leftovers::default());
    leftovers.remove(&mut stripped, is_leftover);
    stop::remove_recorded(&mut stripped);
    Some((stripped, leftovers))
}

/// Lists of containers in a Pod's spec.
const CONTAINER_LISTS: [&str; 2] = ["containers", "initContainers"];

fn lists(pod: &Value) -> impl Iterator<Item = &Vec<Value>> {
    CONTAINER_LISTS
        .iter()
        .filter_map(|name| pod.get("spec")?.get(name)?.as_array())
}

/// Whether a container is the result of an injection. A ContainerPatch may have renamed it, so the containers of a Pod
/// whose annotations say that it was injected are also recognized by their environment variables and their program.
fn is_injected(container: &Map<String, Value>, pod_is_annotated: bool) -> bool {
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
    if [SIDECAR, INIT, VALIDATION].contains(&name) {
        return true;
    }
    let has_variable = |name: &str| {
        let variables = container.get("env").and_then(Value::as_array);
        variables
            .into_iter()
            .flatten()
            .any(|variable| variable["name"] == name)
    };
    let program = container.get("command").and_then(|command| command.get(0));
    pod_is_annotated
        && (program.is_some_and(|program| program == INIT_PROGRAM)
            || (has_variable("KUMA_CONTROL_PLANE_URL") && has_variable("KUMA_DATAPLANE_MESH")))
}

// === impl Leftovers ===

impl Leftovers {
    /// Removes each container with the name and the image name of a rendered container. A ContainerPatch may have given
    /// this name. A container of the application with this name and another image stays, and the API server rejects the
    /// duplicate.
    pub(crate) fn remove_renamed(&mut self, pod: &mut Value, rendered: [&Value; 2]) {
        self.remove(pod, |container| {
            rendered.iter().any(|rendered| {
                container["name"] == rendered["name"]
                    && has_same_image_name(&container["image"], &rendered["image"])
            })
        });
    }

    fn remove(&mut self, pod: &mut Value, is_leftover: impl Fn(&Value) -> bool) {
        for name in CONTAINER_LISTS {
            let list = pod
                .get_mut("spec")
                .and_then(|spec| spec.get_mut(name)?.as_array_mut());
            if let Some(list) = list {
                self.0
                    .extend(list.extract_if(.., |container| is_leftover(container)));
            }
        }
    }

    /// Returns the removed container with the name of `rendered` if that container is up to date. Returns `rendered`
    /// otherwise.
    pub(crate) fn up_to_date_or(&self, rendered: Value) -> Value {
        let mut containers = self.0.iter();
        let found = containers.find(|container| container["name"] == rendered["name"]);
        match found.filter(|found| is_up_to_date(found, &rendered)) {
            Some(found) => found.clone(),
            None => rendered,
        }
    }
}

/// Whether a container is what injection renders now, apart from changes that other webhooks commonly make.
fn is_up_to_date(found: &Value, rendered: &Value) -> bool {
    let (Some(found), Some(rendered)) = (found.as_object(), rendered.as_object()) else {
        return false;
    };
    let is_expected = |key: &String| rendered.contains_key(key) || ADDITIONAL_MEMBERS.contains(&key.as_str());
    found.keys().all(is_expected)
        && has_only_rendered_own_variables(found.get("env"), rendered.get("env"))
        && rendered
            .iter()
            .all(|(key, value)| match (key.as_str(), found.get(key)) {
                (key, _) if REPLACEABLE_MEMBERS.contains(&key) => true,
                (key, None) => is_left_out(key, value),
                ("image", Some(found)) => is_same_image(found, value),
                (_, Some(found)) => contains(found, value),
            })
}

/// Whether two images have the same name and tag. A webhook may have replaced everything before the name, such as the
/// registry, or have added a digest.
pub(crate) fn is_same_image(found: &Value, rendered: &Value) -> bool {
    let (Some(found), Some(rendered)) = (found.as_str(), rendered.as_str()) else {
        return false;
    };
    let without_registry = |image: &str| image.rsplit('/').next().unwrap_or_default().to_owned();
    let (found, rendered) = (without_registry(found), without_registry(rendered));
    found == rendered
        || found
            .split_once('@')
            .is_some_and(|(without_digest, _)| without_digest == rendered)
}

/// Whether two images have the same name, whatever their registries, tags and digests.
fn has_same_image_name(found: &Value, rendered: &Value) -> bool {
    let name = |image: &str| -> Option<String> {
        let name = image.rsplit('/').next()?;
        name.split(['@', ':']).next().map(str::to_owned)
    };
    let name_of = |image: &Value| image.as_str().and_then(name);
    name_of(found).is_some_and(|found| name_of(rendered) == Some(found))
}

/// Whether the list `found` has as many own variables as the list `rendered` has variables. An own variable has the
/// name of a rendered variable or the prefix [`OWN_VARIABLE_PREFIX`]. A second entry for a variable would replace the
/// rendered value.
fn has_only_rendered_own_variables(found: Option<&Value>, rendered: Option<&Value>) -> bool {
    let variables = |list: Option<&Value>| list.and_then(Value::as_array).cloned().unwrap_or_default();
    let rendered = variables(rendered);
    let is_own = |variable: &Value| {
        let name = &variable["name"];
        rendered.iter().any(|rendered| rendered["name"] == *name)
            || name
                .as_str()
                .is_some_and(|name| name.starts_with(OWN_VARIABLE_PREFIX))
    };
    let own = variables(found)
        .iter()
        .filter(|variable| is_own(variable))
        .count();
    own == rendered.len()
}

/// Whether the API server leaves a member of a container out of the Pods that it shows to webhooks and users, because
/// an absent member means the same. For most numbers and booleans, absent means something else than 0 or false.
pub(crate) fn is_left_out(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0) && ZERO_BY_DEFAULT.contains(&key),
        Value::Bool(is_true) => !is_true && FALSE_BY_DEFAULT.contains(&key),
        Value::Object(_) => false,
    }
}

/// Whether `found` has all members of `rendered`. A list of objects may have further items in `found`; other lists must
/// be equal.
pub(crate) fn contains(found: &Value, rendered: &Value) -> bool {
    match (found, rendered) {
        (Value::Object(found), Value::Object(rendered)) => {
            rendered.iter().all(|(key, value)| match found.get(key) {
                Some(found) => contains(found, value),
                None => is_left_out(key, value),
            })
        }
        (Value::Array(found), Value::Array(rendered))
            if found.iter().chain(rendered).all(Value::is_object) =>
        {
            rendered
                .iter()
                .all(|item| found.iter().any(|found| contains(found, item)))
        }
        _ => found == rendered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_sidecar() -> Value {
        json!({
            "name": "kuma-sidecar",
            "image": "docker.io/kuma/kuma-dp:2",
            "imagePullPolicy": "IfNotPresent",
            "args": ["run"],
            "env": [{"name": "KUMA_DATAPLANE_MESH", "value": "default"}],
            "resources": {"limits": {"cpu": "1"}},
            "volumeMounts": [{"name": "t", "mountPath": "/tmp"}],
        })
    }

    #[test]
    fn container_with_defaults_and_additions_of_other_webhooks_is_up_to_date() {
        let rendered = mk_sidecar();
        for (pointer, value) in [
            ("/image", json!("mirror.local/hub/kuma-dp:2")),
            ("/image", json!("docker.io/kuma/kuma-dp:2@sha256:0a")),
            ("/imagePullPolicy", json!("Always")),
            ("/resources", json!({"requests": {"cpu": "2"}})),
            ("/terminationMessagePath", json!("/dev/termination-log")),
            ("/env/1", json!({"name": "HTTP_PROXY", "value": "p"})),
            ("/volumeMounts/1", json!({"name": "ca", "mountPath": "/etc/ssl"})),
            ("/volumeMounts/0/recursiveReadOnly", json!("Disabled")),
        ] {
            let mut found = rendered.clone();
            set(&mut found, pointer, value);
            assert!(is_up_to_date(&found, &rendered), "{pointer}: {found}");
        }
    }

    #[test]
    fn container_that_differs_from_the_rendered_one_is_outdated() {
        let rendered = mk_sidecar();
        for (pointer, value) in [
            ("/image", json!("docker.io/kuma/kuma-dp:1")),
            ("/image", json!("docker.io/kuma/other:2")),
            ("/args/0", json!("sleep")),
            ("/args/1", json!("--log-level=debug")),
            ("/command", json!(["sh"])),
            ("/lifecycle", json!({})),
            ("/securityContext", json!({"privileged": true})),
            ("/envFrom", json!([{"secretRef": {"name": "s"}}])),
            ("/env/0/value", json!("other")),
            ("/env/1", json!({"name": "KUMA_DATAPLANE_MESH", "value": "other"})),
            (
                "/env/1",
                json!({"name": "KUMA_DATAPLANE_ADMIN_PORT", "value": "1"}),
            ),
            ("/volumeMounts/0/name", json!("foreign")),
        ] {
            let mut found = rendered.clone();
            set(&mut found, pointer, value);
            assert!(!is_up_to_date(&found, &rendered), "{pointer}: {found}");
        }
        for key in ["args", "env", "image", "volumeMounts"] {
            let mut found = rendered.clone();
            found.as_object_mut().expect("an object").remove(key);
            assert!(!is_up_to_date(&found, &rendered), "{key}");
        }
    }

    /// Sets the value at a pointer, whose parent exists.
    fn set(target: &mut Value, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        match target.pointer_mut(parent).expect("a parent") {
            Value::Array(items) if key.parse() == Ok(items.len()) => items.push(value),
            Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
            parent => parent[key] = value,
        }
    }

    #[test]
    fn members_that_the_api_server_leaves_out_may_be_absent() {
        for (member, value, expected) in [
            (
                "startupProbe",
                json!({"initialDelaySeconds": 0, "periodSeconds": 1}),
                true,
            ),
            (
                "startupProbe",
                json!({"initialDelaySeconds": 2, "periodSeconds": 1}),
                false,
            ),
            ("env", json!([{"name": "A", "value": ""}]), true),
            ("env", json!([{"name": "A", "value": "1"}]), false),
            ("command", json!([]), true),
            ("tty", json!(false), true),
            (
                "securityContext",
                json!({"allowPrivilegeEscalation": false}),
                false,
            ),
            ("securityContext", json!({"runAsUser": 0}), false),
        ] {
            let (mut found, mut rendered) = (mk_sidecar(), mk_sidecar());
            rendered[member] = value.clone();
            match member {
                "startupProbe" => found[member] = json!({"periodSeconds": 1}),
                "securityContext" => found[member] = json!({}),
                "env" => found[member] = json!([{"name": "A"}]),
                _ => {}
            }
            assert_eq!(is_up_to_date(&found, &rendered), expected, "{member} {value}");
        }
    }
}
