//! Objects of `kumactl migrate report --file`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kermode_manifests::documents;

use super::Objects;

/// Endings of the files of a folder that are read.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];
/// Maximum depth of subfolders, which bounds the search where a link leads back to a folder above.
const MAX_DEPTH: usize = 16;

/// Reads the objects of files and folders.
pub(super) fn read(paths: &[PathBuf]) -> Result<Objects> {
    let mut found = Objects::default();
    for path in paths {
        for file in files_of(path, MAX_DEPTH)? {
            found.objects.extend(documents::objects(&documents::read(&file)?));
        }
    }
    Ok(found)
}

/// Returns the file itself, or the files of a folder in the order of their names.
fn files_of(path: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let name = || path.display().to_string();
    ensure!(
        depth > 0,
        "{}: more than {MAX_DEPTH} subfolders; name the folder below",
        name()
    );
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).with_context(name)? {
        entries.push(entry.with_context(name)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        let ending = entry
            .extension()
            .and_then(|ending| ending.to_str())
            .unwrap_or_default();
        if entry.is_dir() || ENDINGS.contains(&ending) {
            files.extend(files_of(&entry, depth - 1)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_a_folder_are_read_in_order_and_other_files_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("b")).expect("a subfolder");
        for (name, text) in [
            ("c.yaml", "kind: C"),
            ("a.yml", "kind: A\n---\nkind: A2"),
            ("b/b.json", "{\"kind\": \"B\"}"),
            ("README.md", "[not: yaml"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        let found = read(&[folder.path().to_owned()]).expect("objects");
        let kinds: Vec<&str> = found
            .objects
            .iter()
            .filter_map(|object| object["kind"].as_str())
            .collect();
        assert_eq!(kinds, ["A", "A2", "B", "C"]);
    }

    #[test]
    fn error_names_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("broken.yaml"), "a: [").expect("a file");
        let error = read(&[folder.path().to_owned()]).expect_err("the file is not YAML");
        assert!(format!("{error:#}").contains("broken.yaml"), "{error:#}");
    }
}
