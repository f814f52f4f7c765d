//! Differences between an injected container and the container that would be injected now, without those that keep the
//! container up to date: defaults of the API server, and changes that other webhooks commonly make.

use serde_json::{Map, Value};

use crate::changes;
use crate::leftovers::{
    ADDITIONAL_MEMBERS, OWN_VARIABLE_PREFIX, REPLACEABLE_MEMBERS, contains, is_left_out, is_same_image,
};

/// Returns one line for each difference that makes the container `found` outdated, with the JSON pointer of the
/// difference below `path`. Empty if the container is up to date.
pub fn container_differences(path: &str, found: &Value, rendered: &Value) -> Vec<String> {
    let (Some(found_members), Some(rendered_members)) = (found.as_object(), rendered.as_object()) else {
        return changes::between(found, rendered);
    };
    let mut updated = found.clone();
    if let Some(updated) = updated.as_object_mut() {
        for (key, value) in rendered_members {
            update_member(updated, key, value);
        }
        for key in found_members.keys() {
            if !rendered_members.contains_key(key) && !ADDITIONAL_MEMBERS.contains(&key.as_str()) {
                updated.remove(key);
            }
        }
    }
    let lines = changes::between(found, &updated);
    lines.into_iter().map(|line| format!("{path}{line}")).collect()
}

/// Updates a member of a container.
fn update_member(container: &mut Map<String, Value>, key: &str, rendered: &Value) {
    if REPLACEABLE_MEMBERS.contains(&key) {
        return;
    }
    match container.get_mut(key) {
        None if is_left_out(key, rendered) => {}
        None => {
            container.insert(key.to_owned(), rendered.clone());
        }
        Some(found) if key == "image" && is_same_image(found, rendered) => {}
        Some(found) => update(found, rendered),
    }
    if key == "env"
        && let Some(Value::Array(variables)) = container.get_mut(key)
    {
        let is_rendered = |name: &Value| {
            rendered
                .as_array()
                .is_some_and(|items| items.iter().any(|item| item["name"] == *name))
        };
        variables.retain(|variable| {
            let is_own = variable["name"]
                .as_str()
                .is_some_and(|name| name.starts_with(OWN_VARIABLE_PREFIX));
            !is_own || is_rendered(&variable["name"])
        });
    }
}

/// Updates a value so that it contains the rendered one.
fn update(found: &mut Value, rendered: &Value) {
    if contains(found, rendered) {
        return;
    }
    match (found, rendered) {
        (Value::Object(found), Value::Object(rendered)) => {
            for (key, value) in rendered {
                match found.get_mut(key) {
                    Some(found) => update(found, value),
                    None if is_left_out(key, value) => {}
                    None => {
                        found.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(found), Value::Array(rendered))
            if found.iter().chain(rendered).all(Value::is_object) =>
        {
            for item in rendered {
                if found.iter().any(|found| contains(found, item)) {
                    continue;
                }
                match found.iter_mut().find(|found| found["name"] == item["name"]) {
                    Some(found) => *found = item.clone(),
                    None => found.push(item.clone()),
                }
            }
        }
        (found, rendered) => *found = rendered.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_differences_that_make_the_container_outdated_are_listed() {
        let rendered = json!({
            "image": "docker.io/kuma/kuma-dp:2",
            "args": ["run"],
            "env": [{"name": "KUMA_A", "value": "1"}, {"name": "KUMA_B", "value": "2"}],
            "resources": {"limits": {"cpu": "1000m"}},
            "startupProbe": {"initialDelaySeconds": 0, "periodSeconds": 1},
        });
        let mut found = json!({
            "image": "mirror.local/kuma-dp:2",
            "args": ["run"],
            "env": [{"name": "KUMA_A", "value": "1"}, {"name": "HTTP_PROXY", "value": "p"}, {"name": "KUMA_B", "value": "2"}],
            "resources": {"limits": {"cpu": "1"}},
            "startupProbe": {"periodSeconds": 1, "successThreshold": 1},
            "terminationMessagePath": "/dev/termination-log",
        });
        assert!(container_differences("/c", &found, &rendered).is_empty());
        found["image"] = "mirror.local/kuma-dp:1".into();
        found["env"][0]["value"] = "0".into();
        found["startupProbe"]["periodSeconds"] = 5.into();
        found["command"] = json!(["sh"]);
        assert_eq!(
            container_differences("/c", &found, &rendered),
            [
                "/c/command was [\"sh\"], is removed",
                "/c/env/0/value was \"0\", is \"1\"",
                "/c/image was \"mirror.local/kuma-dp:1\", is \"docker.io/kuma/kuma-dp:2\"",
                "/c/startupProbe/periodSeconds was 5, is 1",
            ]
        );
        let with_old_variable =
            json!({"env": [{"name": "KUMA_OLD", "value": "1"}, {"name": "KUMA_A", "value": "1"}]});
        let rendered = json!({"env": [{"name": "KUMA_A", "value": "1"}]});
        let lines = container_differences("", &with_old_variable, &rendered);
        assert_eq!(
            lines,
            ["/env/0 was {\"name\":\"KUMA_OLD\",\"value\":\"1\"}, is removed"]
        );
    }
}
