//! Tables of labels, annotations and tags, from the keys in `kermode-model`.

use kermode_model::annotation::{self, Key};
use kermode_model::tag;

use crate::{GeneratedTable, code, render_table};

pub(crate) fn tables() -> Vec<GeneratedTable> {
    let file = "labels-and-annotations.md";
    let generated = |file, name: &str, markdown| GeneratedTable {
        file,
        name: name.to_owned(),
        markdown,
    };
    vec![
        generated(file, "settings", settings_table(annotation::SET_BY_USERS)),
        generated(
            file,
            "written",
            written_keys_table(annotation::WRITTEN_BY_KERMODE),
        ),
        generated("tags.md", "tags", tags_table(tag::GENERATED)),
    ]
}

/// Renders the table of the keys that users set.
fn settings_table(keys: &[Key]) -> String {
    let row = |key: &Key| {
        [
            name(key),
            key.objects.to_owned(),
            key.notation.to_string(),
            key.default.to_owned(),
            meaning(key),
        ]
    };
    render_table(["key", "on", "value", "default", "meaning"], keys.iter().map(row))
}

/// Renders the table of the keys that Kermode writes.
fn written_keys_table(keys: &[Key]) -> String {
    let row = |key: &Key| {
        [
            name(key),
            key.objects.to_owned(),
            key.notation.to_string(),
            meaning(key),
        ]
    };
    render_table(["key", "on", "value", "meaning"], keys.iter().map(row))
}

fn tags_table(keys: &[Key]) -> String {
    let row = |key: &Key| {
        [
            name(key),
            key.objects.to_owned(),
            key.notation.to_string(),
            key.default.to_owned(),
            meaning(key),
        ]
    };
    render_table(["tag", "of", "value", "default", "meaning"], keys.iter().map(row))
}

/// Returns the name of a key as code. A name that starts with a dot follows a port number, so the function adds the
/// placeholder `<port>`.
fn name(key: &Key) -> String {
    if key.name.starts_with('.') {
        format!("`<port>{}`", key.name)
    } else {
        code(key.name)
    }
}

fn meaning(key: &Key) -> String {
    let lines: Vec<&str> = key.documentation.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}
