//! Tables of the fields and of the `kubectl` columns of custom resources, from their CustomResourceDefinitions.

use kermode_crds::definition;
use serde_json::Value;

use crate::{GeneratedTable, code, render_table};

pub(crate) fn tables() -> Vec<GeneratedTable> {
    definition::all().iter().flat_map(tables_of).collect()
}

/// Returns the tables of one custom resource.
fn tables_of(definition: &Value) -> [GeneratedTable; 2] {
    let kind = definition["spec"]["names"]["kind"].as_str().unwrap_or_default();
    let version = &definition["spec"]["versions"][0];
    let mut field_rows = Vec::new();
    collect_fields(&version["schema"]["openAPIV3Schema"], "", false, &mut field_rows);
    let mk_table = |contents: &str, markdown| GeneratedTable {
        file: "resources.md",
        name: format!("{kind} {contents}"),
        markdown,
    };
    [
        mk_table(
            "fields",
            render_table(["field", "type", "required", "meaning"], field_rows),
        ),
        mk_table("columns", columns_table(&version["additionalPrinterColumns"])),
    ]
}

/// Appends a row for the field at `path`, then the rows of the fields that it contains. No row is appended for the root
/// of a schema, whose path is empty, nor for the fields that every Kubernetes object has.
fn collect_fields(schema: &Value, path: &str, is_required: bool, rows: &mut Vec<[String; 4]>) {
    if matches!(path, "apiVersion" | "kind" | "metadata") {
        return;
    }
    if !path.is_empty() {
        let required = if is_required { "yes" } else { "" };
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
        let is_required = schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|required| required == name));
        collect_fields(property, &path, is_required, rows);
    }
}

/// Returns the type of a field. If the schema lists the allowed values, returns these values instead.
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

fn columns_table(columns: &Value) -> String {
    let rows = columns.as_array().into_iter().flatten().map(|column| {
        // `kubectl` shows a column with a priority only with `-o wide`.
        let wide_only = if column["priority"].is_null() { "" } else { "yes" };
        let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
        [text("name"), code(&text("jsonPath")), wide_only.to_owned()]
    });
    render_table(["column", "path", "only with `-o wide`"], rows)
}
