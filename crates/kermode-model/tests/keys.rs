//! Checks that every label, annotation and tag key is declared once, in `kermode-model`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use kermode_model::{annotation, tag};

/// Returns the name of every declared key.
fn keys() -> Vec<&'static str> {
    [
        annotation::SET_BY_USERS,
        annotation::WRITTEN_BY_KERMODE,
        tag::GENERATED,
    ]
    .into_iter()
    .flatten()
    .map(|key| key.name)
    .collect()
}

/// Returns the files of product code: `src` of every crate and binary, without test modules and without the files that
/// declare the keys.
fn product_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = Vec::new();
    for parent in ["crates", "bins"] {
        for entry in fs::read_dir(root.join(parent))? {
            directories.push(entry?.path().join("src"));
        }
    }
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                if name != "tests" {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !TEST_FILES.contains(&name)
            {
                files.push(path);
            }
        }
    }
    files.retain(|path| !DECLARATIONS.iter().any(|declaration| path.ends_with(declaration)));
    Ok(files)
}

/// Names of files that are compiled only for tests.
const TEST_FILES: [&str; 3] = ["tests.rs", "property.rs", "builders.rs"];
/// Files that declare the keys.
const DECLARATIONS: [&str; 2] = ["kermode-model/src/annotation.rs", "kermode-model/src/tags.rs"];

#[test]
fn keys_are_unique() {
    let mut seen = BTreeSet::new();
    for key in keys() {
        assert!(seen.insert(key), "{key} is declared twice");
    }
}

#[test]
fn product_code_contains_no_key_as_a_literal() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for file in product_files(&root).expect("the sources") {
        let text = fs::read_to_string(&file).expect("a source file");
        // A test module is the last item of a file.
        let product = text
            .rsplit_once("\n#[cfg(test)]\n")
            .map_or(&*text, |(product, _)| product);
        for key in keys() {
            if product.contains(&format!("\"{key}\"")) {
                found.push(format!("{}: {key:?}", file.display()));
            }
        }
    }
    assert!(
        found.is_empty(),
        "use the constants of kermode_model::annotation and kermode_model::tag:\n{}",
        found.join("\n")
    );
}
