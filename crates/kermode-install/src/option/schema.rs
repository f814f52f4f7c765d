//! Forms of values as JSON schemas. The Helm chart contains them, and [`InstallOption::check`] checks the values of
//! `kumactl` against them, so that both accept the same values.

use kermode_config::settings;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::format::{LABEL_KEY, LABEL_VALUE, VARIABLE};
use super::{Format, InstallOption, Kind, set};
use crate::POD_FIELD_VARIABLES;

/// Keyword with a text that says what the user should write instead of a value that a schema rejects.
const REMEDY: &str = "$comment";

impl InstallOption {
    /// Returns the schema of the value.
    pub(crate) fn schema(&self) -> Value {
        match self.kind {
            Kind::Boolean => json!({"type": "boolean", REMEDY: "use true or false"}),
            Kind::Integer { minimum, maximum } => json!({
                "type": "integer", "minimum": minimum, "maximum": maximum,
                REMEDY: format!("use a number from {minimum} to {maximum}"),
            }),
            Kind::Choice(choices) => choice(choices),
            Kind::Text(format) => text(format),
            Kind::OptionalText(format) => {
                let mut schema = text(format);
                schema["pattern"] = format!("^$|{}", format.pattern).into();
                schema
            }
            Kind::Texts(format) => list(text(format)),
            Kind::Map { key, value } => map(text(key), text(value)),
            Kind::Choices { key, choices } => map(text(key), choice(choices)),
            Kind::EnvironmentVariables => environment_variables(),
            Kind::Configuration => configuration(),
            Kind::Tolerations => list(toleration()),
        }
    }

    /// Returns the problems of a value, each with a remedy.
    pub(crate) fn check(&self, value: &Value) -> Vec<String> {
        // The control plane's own code checks its settings.
        if self.kind == Kind::Configuration {
            return Vec::new();
        }
        let mut rejections = Vec::new();
        validate(&self.schema(), value, &mut rejections);
        rejections
            .into_iter()
            .map(|(value, remedy)| self.problem(&value, &remedy))
            .collect()
    }
}

fn text(format: Format) -> Value {
    json!({
        "type": "string", "pattern": format.pattern, "maxLength": format.max_length, REMEDY: format.remedy,
    })
}

fn choice(choices: &[&str]) -> Value {
    json!({"type": "string", "enum": choices, REMEDY: format!("use {}", choices.join(" or "))})
}

fn list(item: Value) -> Value {
    json!({"type": "array", "items": item, REMEDY: "use a list"})
}

fn map(key: Value, value: Value) -> Value {
    json!({
        "type": "object", "propertyNames": key, "additionalProperties": value, REMEDY: "use a map",
    })
}

fn environment_variables() -> Value {
    let reserved: Vec<&str> = POD_FIELD_VARIABLES.iter().map(|(name, _)| *name).collect();
    let mut name = text(VARIABLE);
    name["not"] = json!({"enum": reserved});
    map(name, json!({"type": "string", REMEDY: "use a text"}))
}

fn toleration() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "key": text(LABEL_KEY),
            "operator": choice(&["Equal", "Exists"]),
            "value": text(LABEL_VALUE),
            "effect": choice(&["NoExecute", "NoSchedule", "PreferNoSchedule"]),
            "tolerationSeconds": {"type": "integer", REMEDY: "use a number"},
        },
        REMEDY: "use a toleration with key, operator, value and effect",
    })
}

/// Schema of the configuration file: the keys that the control plane knows. The control plane checks the values.
fn configuration() -> Value {
    let mut keys = json!({});
    for setting in settings() {
        set(&mut keys, &setting.path, Value::Null);
    }
    section(&keys)
}

/// Schema of a section of the configuration file, from its keys.
fn section(keys: &Value) -> Value {
    match keys {
        Value::Object(keys) => {
            let properties: Map<String, Value> = keys
                .iter()
                .map(|(key, below)| (key.clone(), section(below)))
                .collect();
            json!({"type": "object", "additionalProperties": false, "properties": properties})
        }
        _ => json!({}),
    }
}

/// Validates a value against a schema, with the keywords that this module uses. Adds the rejected values, as text, and
/// their remedies to `rejections`.
fn validate(schema: &Value, value: &Value, rejections: &mut Vec<(String, String)>) {
    if !is_accepted(schema, value) {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let remedy = schema[REMEDY].as_str().unwrap_or("use another value");
        rejections.push((shown, remedy.to_owned()));
        return;
    }
    for item in value.as_array().into_iter().flatten() {
        validate(&schema["items"], item, rejections);
    }
    for (key, member) in value.as_object().into_iter().flatten() {
        validate(&schema["propertyNames"], &key.as_str().into(), rejections);
        match schema["properties"].get(key) {
            Some(of_member) => validate(of_member, member, rejections),
            None => validate(&schema["additionalProperties"], member, rejections),
        }
    }
}

/// Whether a schema accepts a value, apart from the items or members of the value.
fn is_accepted(schema: &Value, value: &Value) -> bool {
    let has_type = match schema["type"].as_str() {
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => schema != &Value::Bool(false),
    };
    let lists = |values: &Value| values.as_array().is_some_and(|values| values.contains(value));
    let is_listed = schema["enum"].is_null() || lists(&schema["enum"]);
    let is_excluded = lists(&schema["not"]["enum"]);
    let text = value.as_str().unwrap_or_default();
    let has_form = schema["pattern"]
        .as_str()
        .is_none_or(|pattern| Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)));
    let length = text.chars().count() as u64;
    let has_length = schema["maxLength"]
        .as_u64()
        .is_none_or(|maximum| length <= maximum);
    let number = value.as_i64().unwrap_or_default();
    let is_within = schema["minimum"].as_i64().is_none_or(|minimum| number >= minimum)
        && schema["maximum"].as_i64().is_none_or(|maximum| number <= maximum);
    has_type && is_listed && !is_excluded && has_form && has_length && is_within
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::{find, options};

    fn problems(path: &str, value: Value) -> Vec<String> {
        find(path).expect("the option").check(&value)
    }

    #[test]
    fn defaults_are_accepted() {
        for option in options() {
            for default in [Some(&option.default), option.chart_default.as_ref()] {
                let default = default.unwrap_or(&option.default);
                assert_eq!(option.check(default), [""; 0], "{}", option.path);
            }
        }
    }

    #[test]
    fn rejected_values_are_named_with_flag_and_remedy() {
        assert_eq!(
            problems("controlPlane.replicas", json!(0)),
            ["--replicas \"0\": use a number from 1 to 100"]
        );
        assert_eq!(
            problems(
                "controlPlane.topologySpread",
                json!({"a": "Never", "-": "DoNotSchedule"})
            ),
            [
                "--control-plane-topology-spread \"-\": use a key of a label, for example topology.kubernetes.io/zone",
                "--control-plane-topology-spread \"Never\": use DoNotSchedule or ScheduleAnyway",
            ]
        );
        assert_eq!(
            problems(
                "controlPlane.tolerations",
                json!([{"key": "a", "operator": "Has"}])
            ),
            ["--control-plane-toleration \"Has\": use Equal or Exists"]
        );
        assert_eq!(
            problems("controlPlane.tolerations", json!([{"keys": "a"}])).len(),
            1
        );
        assert_eq!(
            problems("controlPlane.envVars", json!({"POD_NAME": "a"})).len(),
            1
        );
        assert_eq!(problems("controlPlane.envVars", json!({"A": 1})).len(), 1);
    }

    #[test]
    fn forms_accept_valid_and_reject_invalid_texts() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            (
                "networkPolicies.apiServerCIDRs",
                &["192.0.2.1/32", "10.0.0.0/8", "2001:db8::/64", "::/0"],
                &["192.0.2.1", "10.0.0.0/33", "host/8", "2001:db8::/129", ""],
            ),
            (
                "global.imagePullSecrets",
                &["a", "a.b-c"],
                &["", "A", "a..b", "-a", "a b"],
            ),
            (
                "controlPlane.nodeSelector",
                &["x.example/a_B.c", "a"],
                &["", "/a", "a/b/c", "a b", "X/a"],
            ),
            (
                "cni.netDir",
                &["", "/etc/cni", "/var/.cni/", "/a+b"],
                &["etc", "/", "//", "/./", "/opt/../bin", "/a:b", "/a//b"],
            ),
            (
                "controlPlane.webhookUrl",
                &["", "https://192.0.2.1:5443/", "https://[2001:db8::1]:1"],
                &[
                    "http://x",
                    "https://",
                    "https://:1",
                    "https://a@b",
                    "https://a?b",
                    "https://a b",
                ],
            ),
            (
                "global.image.registry",
                &["localhost/kermode", "registry.example:5000/a/b/"],
                &["", "a b", "a//b", "/a"],
            ),
            (
                "controlPlane.resources.limits.memory",
                &["1", "512Mi", "1.5Gi", "500m"],
                &["", "lots", "1 Gi", "-1"],
            ),
        ];
        for (path, valid, invalid) in cases {
            let value_of = |text: &str| match find(path).expect("the option").kind {
                Kind::Texts(_) => json!([text]),
                Kind::Map { .. } => json!({text: "x"}),
                _ => json!(text),
            };
            for text in valid {
                assert_eq!(problems(path, value_of(text)), [""; 0], "{path}");
            }
            for text in invalid {
                assert_eq!(problems(path, value_of(text)).len(), 1, "{path}: {text:?}");
            }
        }
    }
}
