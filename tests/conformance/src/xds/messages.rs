//! Resources as messages to compare: an object with one member for each resource. The key consists of the type and the
//! name; the value is the resource as protobuf JSON.

use anyhow::{Context, Result};
use kermode_envoy::Resource;
use kermode_envoy_json::{decode, normalize};
use serde_json::{Map, Value};

/// Filters of policies that Kermode does not have.
const FILTERS_OF_OTHER_POLICIES: [&str; 2] =
    ["envoy.filters.http.fault", "envoy.filters.http.local_ratelimit"];
/// Header by which Kuma's sidecars tell the tags of the caller. Routes that match it belong to policies that Kermode does
/// not have.
const KUMA_TAGS_HEADER: &str = "x-kuma-tags";

/// Returns the messages of a file with resources, without incidental parts.
pub(super) fn expected(document: &Value) -> Result<Value> {
    let mut messages = Map::new();
    for entry in document["resources"].as_array().into_iter().flatten() {
        let mut resource = entry["resource"].clone();
        let type_url = resource
            .as_object_mut()
            .and_then(|members| members.remove("@type"))
            .context("a resource of the case has no @type")?;
        let type_url = type_url.as_str().context("@type is not a string")?;
        remove_incidental(&mut resource);
        let name = entry["name"].as_str().unwrap_or_default();
        messages.insert(key(type_url, name), normalize(type_url, &resource)?);
    }
    Ok(Value::Object(messages))
}

/// Returns the messages of generated resources. Of two resources with the same type and name, the last one remains, as
/// in Kuma.
pub(super) fn actual(resources: &[Resource]) -> Result<Value> {
    let mut messages = Map::new();
    for resource in resources {
        let type_url = resource.kind.type_url();
        messages.insert(key(type_url, &resource.name), decode(type_url, &resource.body)?);
    }
    Ok(Value::Object(messages))
}

/// Returns the key of a resource, such as `Listener inbound:192.168.0.1:80`.
fn key(type_url: &str, name: &str) -> String {
    let short_type = type_url.rsplit('.').next().unwrap_or_default();
    format!("{short_type} {name}")
}

/// Removes `googleRe2`, and the filters and routes of policies that Kermode does not have.
pub(super) fn remove_incidental(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("googleRe2");
            members.values_mut().for_each(remove_incidental);
        }
        Value::Array(items) => {
            items.retain(|item| !is_of_other_policy(item));
            items.iter_mut().for_each(remove_incidental);
        }
        _ => {}
    }
}

fn is_of_other_policy(item: &Value) -> bool {
    let has_name = |value: &Value, name: &str| value["name"] == name;
    let mut headers = item["match"]["headers"].as_array().into_iter().flatten();
    FILTERS_OF_OTHER_POLICIES
        .iter()
        .any(|filter| has_name(item, filter))
        || headers.any(|header| has_name(header, KUMA_TAGS_HEADER))
}

/// Replaces the service port of an inbound by its port, in names of clusters and in addresses.
///
/// Inbounds of Kuma outside of Kubernetes have a `servicePort`: the port of the application. In Kubernetes, this is
/// always the port of the inbound.
pub(super) fn replace_service_port(messages: &mut Value, service_port: &Value, port: &Value) {
    match messages {
        Value::Object(members) => {
            if members.get("portValue") == Some(service_port) {
                members.insert("portValue".to_owned(), port.clone());
            }
            let renamed = std::mem::take(members).into_iter().map(|(key, mut member)| {
                replace_service_port(&mut member, service_port, port);
                (with_port(&key, service_port, port), member)
            });
            *members = renamed.collect();
        }
        Value::Array(items) => {
            for item in items {
                replace_service_port(item, service_port, port);
            }
        }
        Value::String(text) => *text = with_port(text, service_port, port),
        _ => {}
    }
}

/// Replaces the service port in the name of a local cluster, and in the key of its message.
fn with_port(text: &str, service_port: &Value, port: &Value) -> String {
    for name in ["localhost:", "localhost_", "Cluster localhost:"] {
        if *text == format!("{name}{service_port}") {
            return format!("{name}{port}");
        }
    }
    text.to_owned()
}
