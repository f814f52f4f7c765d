//! Reader of manifests: a stream of YAML documents (JSON is a subset of YAML) from a file or the standard input.
//!
//! Each document keeps its text. `kumactl inject` prints this text if the document contains no injected Pod.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::ManifestError;

/// One document of a manifest file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Text of the document, without markers (`---`, `...`) and directives.
    pub text: String,
    /// Content of the document; null if the document contains only comments.
    pub value: Value,
}

/// Reads the documents of a file; `-` is the standard input.
///
/// # Errors
/// If the file cannot be read or is not YAML.
pub fn read(file: &Path) -> Result<Vec<Document>, ManifestError> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|source| ManifestError::Read {
        file: file.to_owned(),
        source,
    })?;
    parse(&text).map_err(|source| ManifestError::File {
        file: file.to_owned(),
        source: Box::new(source),
    })
}

/// Parses a stream of documents.
///
/// # Errors
/// If a document is not YAML.
pub fn parse(text: &str) -> Result<Vec<Document>, ManifestError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    for (line, text) in split(text) {
        let value = serde_saphyr::from_str(&text).map_err(|source| ManifestError::Yaml { line, source })?;
        documents.push(Document { text, value });
    }
    Ok(documents)
}

/// Returns the objects of the documents. A List is replaced by its items.
pub fn objects(documents: &[Document]) -> Vec<Value> {
    documents
        .iter()
        .flat_map(|document| flatten_list(&document.value))
        .collect()
}

/// Returns the items of a List, or the object itself. Nested Lists are replaced by their items; null yields nothing.
fn flatten_list(object: &Value) -> Vec<Value> {
    match object.get("items").and_then(Value::as_array) {
        Some(items) if is_list(object) => items
            .iter()
            .map(|item| with_kind_from_list(object, item.clone()))
            .flat_map(|item| flatten_list(&item))
            .collect(),
        _ if object.is_null() => Vec::new(),
        _ => vec![object.clone()],
    }
}

/// Whether the object is a List. Typed Lists such as a PodList are included.
pub fn is_list(object: &Value) -> bool {
    object["items"].is_array() && object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
}

/// Adds `kind` and `apiVersion` to an item of a typed List such as a PodList, if the item has no `kind`.
pub fn with_kind_from_list(list: &Value, mut item: Value) -> Value {
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List"));
    if let (Some(fields), Some(kind)) = (item.as_object_mut(), kind.filter(|kind| !kind.is_empty()))
        && !fields.contains_key("kind")
    {
        fields.insert("kind".to_owned(), kind.into());
        fields.insert("apiVersion".to_owned(), list["apiVersion"].clone());
    }
    item
}

/// Splits a stream into its documents. Returns for each document the number of its first line, which may be the marker
/// `---`, and its text without markers and directives (YAML 1.2, sections 6.8 and 9.1).
fn split(text: &str) -> Vec<(usize, String)> {
    let mut documents = Vec::new();
    let (mut first_line, mut current) = (1, String::new());
    for (index, line) in text.lines().enumerate() {
        let text_after_marker = |marker: &str| {
            let rest = line.strip_prefix(marker)?;
            (rest.is_empty() || rest.starts_with(char::is_whitespace)).then_some(rest.trim_start())
        };
        if let Some(rest) = text_after_marker("---") {
            documents.push((first_line, std::mem::take(&mut current)));
            first_line = index + 1;
            if !rest.is_empty() {
                current = format!("{rest}\n");
            }
        } else if text_after_marker("...").is_some() {
            documents.push((first_line, std::mem::take(&mut current)));
            first_line = index + 2;
        } else if !(line.starts_with('%') && current.trim().is_empty()) {
            current.push_str(line);
            current.push('\n');
        }
    }
    documents.push((first_line, current));
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
    fn invalid_yaml_is_reported_with_the_first_line_of_its_document() {
        let error = parse("a: 1\n---\n\nb: [\n").expect_err("the second document is not YAML");
        assert!(error.to_string().contains("from line 2 on"), "{error}");
    }

    #[test]
    fn lists_are_replaced_by_their_items() {
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
