//! `values.schema.json`: the forms of all values, which Helm checks.

use serde_json::{Map, Value, json};

use crate::option::{find, set};
use crate::{InstallOption, Names, options};

/// Returns the text of the file.
pub(super) fn file() -> String {
    let mut of_options = json!({});
    for option in options() {
        set(&mut of_options, option.path, Value::Null);
    }
    let mut schema = section("", &of_options);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    // Helm adds `global` values of parent charts.
    schema["properties"]["global"]["additionalProperties"] = true.into();
    format!("{schema:#}\n")
}

/// Returns the schema of the values below a path. Unknown values are refused.
fn section(parent: &str, below: &Value) -> Value {
    let mut properties = Map::new();
    for (key, below) in below.as_object().into_iter().flatten() {
        let path = format!("{parent}{key}");
        let schema = match find(&path) {
            Some(option) => of_option(option),
            None => section(&format!("{path}."), below),
        };
        properties.insert(key.clone(), schema);
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn of_option(option: &InstallOption) -> Value {
    let mut schema = option.schema();
    schema["description"] = Names::Values.text(option.meaning).into();
    schema
}
