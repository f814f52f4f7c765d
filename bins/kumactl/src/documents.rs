//! Manifests from a file or the standard input: many YAML documents (JSON is YAML too), each with its own text, so
//! that what is not changed can be printed as it came.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// As written, without the line that separates it from the one before.
    pub(crate) text: String,
    /// What it says; null when it is empty.
    pub(crate) value: Value,
}

/// Reads the documents of a file; `-` is the standard input.
pub(crate) fn read(file: &Path) -> Result<Vec<Document>> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        read.context("cannot read the standard input")?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    parse(&text).with_context(|| file.display().to_string())
}

/// Reads documents from text.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for (line, text) in split(text) {
        let value = serde_saphyr::from_str(&text)
            .with_context(|| format!("the document from line {line} on is not valid YAML"))?;
        documents.push(Document { text, value });
    }
    Ok(documents)
}

/// The objects of documents, those in Lists one by one.
pub(crate) fn objects(documents: &[Document]) -> Vec<Value> {
    documents
        .iter()
        .flat_map(|document| members(&document.value))
        .collect()
}

fn members(object: &Value) -> Vec<Value> {
    match object.get("items").and_then(Value::as_array) {
        Some(items) if is_list(object) => items
            .iter()
            .map(|item| with_kind_of(object, item.clone()))
            .flat_map(|item| members(&item))
            .collect(),
        _ if object.is_null() => Vec::new(),
        _ => vec![object.clone()],
    }
}

/// Whether an object is a List of others, of any kind.
pub(crate) fn is_list(object: &Value) -> bool {
    object["items"].is_array() && object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
}

/// An item of a List of one kind does not repeat that kind.
pub(crate) fn with_kind_of(list: &Value, mut item: Value) -> Value {
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List"));
    if let (Some(members), Some(kind)) = (item.as_object_mut(), kind.filter(|kind| !kind.is_empty()))
        && !members.contains_key("kind")
    {
        members.insert("kind".to_owned(), kind.into());
        members.insert("apiVersion".to_owned(), list["apiVersion"].clone());
    }
    item
}

/// The texts of the documents with the lines where they start. A line that begins with three dashes is never part of
/// a document, nor are directives before one (YAML 1.2, sections 6.8 and 9.1).
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = Vec::new();
    let (mut start, mut current) = (1, String::new());
    for (index, line) in text.lines().enumerate() {
        let marker = |marker: &str| {
            let rest = line.strip_prefix(marker)?;
            (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some(rest.trim_start())
        };
        if let Some(rest) = marker("---") {
            documents.push((start, std::mem::take(&mut current)));
            start = index + 1;
            if !rest.is_empty() {
                current = format!("{rest}\n");
            }
        } else if marker("...").is_some() {
            documents.push((start, std::mem::take(&mut current)));
            start = index + 2;
        } else if !(line.starts_with('%') && current.trim().is_empty()) {
            current.push_str(line);
            current.push('\n');
        }
    }
    documents.push((start, current));
    documents.retain(|(_, text)| !text.trim().is_empty());
    documents
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_keep_their_text() {
        let text =
            "%YAML 1.2\n---\n# first\na: 1\n---\n\n--- # second\nb: |\n  ---\n  c\n...\n---\n{\"d\": 2}";
        let documents = parse(text).expect("YAML");
        let values: Vec<&Value> = documents.iter().map(|document| &document.value).collect();
        assert_eq!(
            values,
            [&json!({"a": 1}), &json!({"b": "---\nc\n"}), &json!({"d": 2})]
        );
        assert_eq!(documents[0].text, "# first\na: 1\n");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let error = parse("a: 1\n---\n\nb: [\n").expect_err("no YAML");
        assert!(format!("{error:#}").contains("from line 2 on"), "{error:#}");
    }

    #[test]
    fn lists_are_taken_apart() {
        let text = "{kind: PodList, apiVersion: v1, items: [{a: 1}, {kind: List, items: [{kind: X}]}]}";
        let objects = objects(&parse(text).expect("YAML"));
        assert_eq!(
            objects,
            [
                json!({"a": 1, "apiVersion": "v1", "kind": "Pod"}),
                json!({"kind": "X"})
            ]
        );
    }
}
