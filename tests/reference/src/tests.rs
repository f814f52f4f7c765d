//! Tests that `docs/reference` matches the code: the generated tables, and the list of metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::tables;

/// Command that writes the generated tables into the documents.
const UPDATE_COMMAND: &str = "UPDATE_REFERENCE=1 cargo test -p kermode-reference";

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the document with `table` between the comments that mark the start and end of the table `name`; `None` if
/// the document has no such comments.
fn with_table(document: &str, name: &str, table: &str) -> Option<String> {
    let start_marker = format!("<!-- generated: {name} -->\n");
    let start = document.find(&start_marker)? + start_marker.len();
    let end = start + document[start..].find("<!-- end -->")?;
    Some(format!("{}{table}{}", &document[..start], &document[end..]))
}

#[test]
fn generated_tables_match_the_code() {
    let is_update = std::env::var_os("UPDATE_REFERENCE").is_some();
    let mut outdated = BTreeSet::new();
    for table in tables() {
        let path = repository_root().join("docs/reference").join(table.file);
        let document = fs::read_to_string(&path).expect("the document can be read");
        let expected = with_table(&document, &table.name, &table.markdown)
            .unwrap_or_else(|| panic!("{} has no comment <!-- generated: {} -->", table.file, table.name));
        if document != expected {
            outdated.insert(table.file);
            if is_update {
                fs::write(&path, expected).expect("the document can be written");
            }
        }
    }
    assert!(
        is_update || outdated.is_empty(),
        "documents of docs/reference differ from the code: {outdated:?}; to update them, run {UPDATE_COMMAND}"
    );
}

/// Returns the names under which the product registers its metrics. The registries add the prefix `kuma_cp` or
/// `kuma_dp`, and the suffixes for units and counters.
fn registered_metrics() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut directories = vec![
        repository_root().join("crates"),
        repository_root().join("bins/kuma-cp/src"),
    ];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the source directory can be read") {
            let path = entry.expect("the directory entry can be read").path();
            if path.is_dir() {
                if !path.ends_with("tests") && !path.ends_with("target") {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the source file can be read");
                names.extend(registered_names(&text));
            }
        }
    }
    names
}

/// Returns the names of metrics that a source file registers: the string literals in the first arguments of `register`
/// and `register_with_unit`, and of `encode_descriptor`, by which a collector names its metrics.
fn registered_names(source: &str) -> Vec<String> {
    let calls = [
        "registry.register(",
        "registry.register_with_unit(",
        "encoder.encode_descriptor(",
    ];
    calls
        .iter()
        .flat_map(|call| source.split(call).skip(1))
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn reference_lists_exactly_the_registered_metrics() {
    let document = fs::read_to_string(repository_root().join("docs/reference/metrics.md"))
        .expect("the document can be read");
    let listed: BTreeSet<String> = document
        .lines()
        .filter_map(|line| {
            let name = line
                .strip_prefix("| `kuma_cp_")
                .or_else(|| line.strip_prefix("| `kuma_dp_"))?;
            name.split('`').next()
        })
        .map(|name| {
            let name = name.strip_suffix("_total").unwrap_or(name);
            let unit = ["_seconds", "_bytes"]
                .iter()
                .find_map(|unit| name.strip_suffix(unit));
            // Timestamp metrics are registered with their unit in the name.
            unit.filter(|_| !name.ends_with("timestamp_seconds"))
                .unwrap_or(name)
                .to_owned()
        })
        .collect();
    assert_eq!(
        listed,
        registered_metrics(),
        "docs/reference/metrics.md (left) must list exactly the metrics that the code registers (right)"
    );
}
