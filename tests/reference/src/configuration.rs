//! Table of the control plane's settings, from `kermode-config`.

use kermode_config::{Config, settings};
use serde_json::Value;

use crate::{Part, code, table};

pub(crate) fn parts() -> Vec<Part> {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let rows = settings().into_iter().map(|setting| {
        let pointer = format!("/{}", setting.path.replace('.', "/"));
        let default = defaults.pointer(&pointer).map(default).unwrap_or_default();
        let variables: Vec<String> = setting.variables.iter().map(|name| code(name)).collect();
        [
            code(&setting.path),
            variables.join(", "),
            default,
            setting.meaning.to_owned(),
        ]
    });
    vec![Part {
        file: "configuration.md",
        name: "settings".to_owned(),
        text: table(["key", "variable", "default", "meaning"], rows),
    }]
}

fn default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => code(text),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::Object(members) if members.is_empty() => String::new(),
        other => code(&other.to_string()),
    }
}
