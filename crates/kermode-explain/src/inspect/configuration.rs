//! Configuration of Envoy, from `/config_dump`. Envoy replaces keys in this response; the report does it again, so that no
//! version of Envoy makes it print one.

use serde::Serialize;
use serde_json::{Value, json};

use super::{InspectError, elements, json as parse_json, text};
use crate::table::aligned;

/// Fields whose values are secret.
/// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/transport_sockets/tls/v3/secret.proto>
const SECRET_FIELDS: [&str; 5] = [
    "private_key",
    "private_key_provider",
    "password",
    "pkcs12",
    "session_ticket_keys",
];
/// Text in place of a secret.
const REDACTED: &str = "[redacted]";

/// Configuration of a sidecar, without keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Configuration(Value);

/// A resource of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredResource {
    /// Kind, such as `cluster`.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// Version that Envoy has accepted; empty for a static resource.
    pub version: String,
    /// Time of the last change.
    pub updated: String,
    /// Message of a rejected update; empty if there is none.
    pub rejection: String,
}

impl Configuration {
    /// Path of Envoy's admin interface.
    pub const PATH: &'static str = "/config_dump?include_eds";

    /// Reads Envoy's response.
    pub fn parse(response: &[u8]) -> Result<Self, InspectError> {
        let mut response = parse_json(Self::PATH, response)?;
        redact(&mut response);
        Ok(Self(response))
    }

    /// The resources of the configuration, in the order of Envoy's response.
    pub fn resources(&self) -> Vec<ConfiguredResource> {
        let kinds = [
            ("cluster", "static_clusters", "cluster"),
            ("cluster", "dynamic_active_clusters", "cluster"),
            ("cluster", "dynamic_warming_clusters", "cluster"),
            ("endpoints", "dynamic_endpoint_configs", "endpoint_config"),
            ("listener", "static_listeners", "listener"),
            ("listener", "dynamic_listeners", "listener"),
            ("secret", "dynamic_active_secrets", "secret"),
            ("secret", "dynamic_warming_secrets", "secret"),
        ];
        let mut resources = Vec::new();
        for dump in elements(&self.0, "configs") {
            for (kind, list, content) in kinds {
                resources.extend(elements(dump, list).map(|found| resource(kind, content, found)));
            }
        }
        resources
    }

    /// Formats the resources as a table.
    pub fn to_text(&self) -> String {
        let head = ["KIND", "NAME", "VERSION", "UPDATED", "STATE"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        lines.extend(self.resources().into_iter().map(|resource| {
            let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            let state = if resource.rejection.is_empty() {
                "accepted".to_owned()
            } else {
                let message = resource.rejection.replace(char::is_control, " ");
                format!("an update was rejected: {}", message.trim())
            };
            vec![
                resource.kind.to_owned(),
                resource.name,
                or_dash(resource.version),
                or_dash(resource.updated),
                state,
            ]
        }));
        aligned(&lines)
    }
}

fn resource(kind: &'static str, content: &str, found: &Value) -> ConfiguredResource {
    // A listener has its version in its state; the other resources have it beside their content.
    let state = ["active_state", "warming_state", "draining_state"]
        .iter()
        .find_map(|state| found.get(*state))
        .unwrap_or(found);
    let names = [
        text(found, "name"),
        text(&state[content], "name"),
        text(&state[content], "cluster_name"),
    ];
    ConfiguredResource {
        kind,
        name: names
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default(),
        version: text(state, "version_info"),
        updated: text(state, "last_updated"),
        rejection: text(&found["error_state"], "details"),
    }
}

/// Replaces the values of secret fields.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if SECRET_FIELDS.contains(&key.as_str()) {
                    *value = json!(REDACTED);
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_redacted_at_every_depth() {
        let secret = json!({"name": "identity", "tls_certificate": {
            "certificate_chain": {"inline_string": "CERTIFICATE"}, "private_key": {"inline_string": "KEY"},
        }});
        let response =
            json!({"configs": [{"dynamic_active_secrets": [{"name": "identity", "secret": secret}]}]});
        let report = Configuration::parse(response.to_string().as_bytes()).expect("a report");
        let text = serde_json::to_string(&report).expect("JSON");
        assert!(text.contains("CERTIFICATE") && !text.contains("KEY\""), "{text}");
    }

    #[test]
    fn resources_have_their_version_and_the_message_of_a_rejection() {
        let response = json!({"configs": [
            {"dynamic_active_clusters": [{"version_info": "v1", "last_updated": "T", "cluster": {"name": "web"}}]},
            {"dynamic_endpoint_configs": [{"version_info": "v2", "endpoint_config": {"cluster_name": "web"}}]},
            {"dynamic_listeners": [
                {"name": "inbound:10.0.0.1:80", "active_state": {"version_info": "v3", "last_updated": "U"},
                 "error_state": {"details": "bad\naddress"}},
            ]},
        ]});
        let report = Configuration::parse(response.to_string().as_bytes()).expect("a report");
        let expected = "\
KIND        NAME                  VERSION   UPDATED   STATE
cluster     web                   v1        T         accepted
endpoints   web                   v2        -         accepted
listener    inbound:10.0.0.1:80   v3        U         an update was rejected: bad address
";
        assert_eq!(report.to_text(), expected);
    }
}
