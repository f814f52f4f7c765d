//! Tables of the custom resources, from their CustomResourceDefinitions: fields of the schema, and columns of kubectl.

use kermode_crds::definition;
use serde_json::Value;

use crate::{Part, code, table};

pub(crate) fn parts() -> Vec<Part> {
    definition::all().iter().flat_map(parts_of).collect()
}

fn parts_of(definition: &Value) -> [Part; 2] {
    let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default();
    let version = &definition["spec"]["versions"][0];
    let mut fields = Vec::new();
    collect(&version["schema"]["openAPIV3Schema"], "", false, &mut fields);
    let part = |table: &str, text| Part {
        file: "resources.md",
        name: format!("{kind} {table}"),
        text,
    };
    [
        part("fields", table(["field", "type", "required", "meaning"], fields)),
        part("columns", columns(&version["additionalPrinterColumns"])),
    ]
}

/// Collects the fields of a schema, depth first. Fields that every object has are skipped.
fn collect(schema: &Value, path: &str, required: bool, rows: &mut Vec<[String; 4]>) {
    if matches!(path, "apiVersion" | "kind" | "metadata") {
        return;
    }
    if !path.is_empty() {
        let required = if required { "yes" } else { "" };
        let meaning = schema["description"].as_str().unwrap_or_default();
        rows.push([
            code(path),
            type_name(schema),
            required.to_owned(),
            meaning.to_owned(),
        ]);
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

fn type_name(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .filter(|value| !value.is_empty())
            .map(code)
            .collect();
        return values.join(", ");
    }
    if !schema["additionalProperties"].is_null() {
        return "map".to_owned();
    }
    let name = schema["type"].as_str().unwrap_or("any");
    match (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        (Some(minimum), Some(maximum)) => format!("{name}, {minimum} to {maximum}"),
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
