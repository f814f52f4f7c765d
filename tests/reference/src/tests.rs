//! Comparison of the documents with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::parts;

const UPDATE: &str = "UPDATE_REFERENCE=1 cargo test -p kermode-reference";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Replaces a generated part. Returns `None` if its markers are missing.
fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let start_marker = format!("<!-- generated: {name} -->\n");
    let start = document.find(&start_marker)? + start_marker.len();
    let end = start + document[start..].find("<!-- end -->")?;
    Some(format!("{}{text}{}", &document[..start], &document[end..]))
}

#[test]
fn generated_tables_equal_the_code() {
    let update = std::env::var_os("UPDATE_REFERENCE").is_some();
    let mut outdated = BTreeSet::new();
    for part in parts() {
        let path = root().join("docs/reference").join(part.file);
        let document = fs::read_to_string(&path).expect("the document");
        let expected = replaced(&document, &part.name, &part.text)
            .unwrap_or_else(|| panic!("{}: no marker <!-- generated: {} -->", part.file, part.name));
        if document != expected {
            outdated.insert(part.file);
            if update {
                fs::write(&path, expected).expect("the document is written");
            }
        }
    }
    assert!(
        update || outdated.is_empty(),
        "docs/reference differs from the code in {outdated:?}: run {UPDATE}"
    );
}

/// Returns the names of the metrics that the product registers, without the prefix of the registry.
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut directories = vec![root().join("crates"), root().join("bins/kuma-cp/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !path.ends_with("tests") && !path.ends_with("target") {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                names.extend(registrations(&text));
            }
        }
    }
    names
}

/// Returns the string literals that are the first argument of `register` and `register_with_unit`.
fn registrations(source: &str) -> Vec<String> {
    ["registry.register(", "registry.register_with_unit("]
        .iter()
        .flat_map(|call| source.split(call).skip(1))
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_is_listed_and_no_other() {
    let document = fs::read_to_string(root().join("docs/reference/metrics.md")).expect("the document");
    let listed: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `kuma_cp_")?.split('`').next())
        .map(|name| {
            let name = name.strip_suffix("_total").unwrap_or(name);
            let unit = ["_seconds", "_bytes"]
                .iter()
                .find_map(|unit| name.strip_suffix(unit));
            // The name of a timestamp contains its unit.
            unit.filter(|_| !name.ends_with("timestamp_seconds"))
                .unwrap_or(name)
                .to_owned()
        })
        .collect();
    assert_eq!(
        listed,
        registered(),
        "docs/reference/metrics.md (left) lists other metrics than the code registers (right)"
    );
}
