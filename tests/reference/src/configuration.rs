//! Table of the control plane's settings, from the definitions in `kermode-config`.

use kermode_config::{Config, settings};
use serde_json::Value;

use crate::{GeneratedTable, code, render_table};

pub(crate) fn tables() -> Vec<GeneratedTable> {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let rows = settings().into_iter().map(|setting| {
        let pointer = format!("/{}", setting.path.replace('.', "/"));
        let default = defaults.pointer(&pointer).map(format_default).unwrap_or_default();
        let variables: Vec<String> = setting.variables.iter().map(|name| code(name)).collect();
        [
            code(&setting.path),
            variables.join(", "),
            default,
            setting.meaning.to_owned(),
        ]
    });
    vec![GeneratedTable {
        file: "configuration.md",
        name: "settings".to_owned(),
        markdown: render_table(["key", "variable", "default", "meaning"], rows),
    }]
}

/// Formats a default value; null and empty values are left out.
fn format_default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => code(text),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::Object(members) if members.is_empty() => String::new(),
        other => code(&other.to_string()),
    }
}
