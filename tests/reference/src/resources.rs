//! Tables of the custom resources, from their CustomResourceDefinitions: fields of the schema, and columns of kubectl.

use kermode_crds::definition;
use serde_json::Value;

use crate::{Part, code, table};

pub(crate) fn parts() -> Vec<Part> {
    definition::all().iter().flat_map(of_resource).collect()
}

fn of_resource(definition: &Value) -> [Part; 2] {
    let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default();
    let version = &definition["spec"]["versions"][0];
    let mut fields = Vec::new();
    collect(&version["schema"]["openAPIV3Schema"], "", false, &mut fields);
    let part = |what: &str, text| Part {
        file: "resources.md",
        name: format!("{kind} {what}"),
        text,
    };
    [
        part("fields", table(["field", "type", "required", "meaning"], fields)),
        part("columns", columns(&version["additionalPrinterColumns"])),
    ]
}

/// Collects the described fields of a schema, depth first. `metadata` and the type are those of every object.
fn collect(schema: &Value, path: &str, required: bool, rows: &mut Vec<[String; 4]>) {
    if matches!(path, "apiVersion" | "kind" | "metadata") {
        return;
    }
    if !path.is_empty() {
        let required = if required { "yes" } else { "" };
        let meaning = schema["description"].as_str().unwrap_or_default();
        rows.push([code(path), kind(schema), required.to_owned(), meaning.to_owned()]);
    }
    let (schema, path) = match schema.get("items") {
        Some(items) => (items, format!("{path}[]")),
        None => (schema, path.to_owned()),
    };
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    for (name, property) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let required = schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|required| required == name));
        collect(property, &path, required, rows);
    }
}

fn kind(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter_map(Value::as_str)
            .filter(|word| !word.is_empty())
            .map(code)
            .collect();
        return words.join(", ");
    }
    if !schema["additionalProperties"].is_null() {
        return "map".to_owned();
    }
    let name = schema["type"].as_str().unwrap_or("any");
    match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        (Some(least), Some(most)) => format!("{name}, {least} to {most}"),
        _ => name.to_owned(),
    }
}

fn columns(columns: &Value) -> String {
    let rows = columns.as_array().into_iter().flatten().map(|column| {
        let wide = if column["priority"].is_null() { "" } else { "yes" };
        let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
        [text("name"), code(&text("jsonPath")), wide.to_owned()]
    });
    table(["column", "path", "only with `-o wide`"], rows)
}
