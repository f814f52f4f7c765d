//! Tables of labels, annotations and tags, from the keys in `kermode-model`.

use kermode_model::annotation::{self, Key};
use kermode_model::tag;

use crate::{Part, code, table};

pub(crate) fn parts() -> Vec<Part> {
    let file = "labels-and-annotations.md";
    let part = |file, name: &str, text| Part {
        file,
        name: name.to_owned(),
        text,
    };
    vec![
        part(file, "settings", settings(annotation::SETTINGS)),
        part(
            file,
            "written",
            written_by_kermode(annotation::WRITTEN_BY_KERMODE),
        ),
        part("tags.md", "tags", tags(tag::GENERATED)),
    ]
}

fn settings(keys: &[Key]) -> String {
    let row = |key: &Key| {
        [
            name(key),
            key.objects.to_owned(),
            key.notation.to_string(),
            key.default.to_owned(),
            meaning(key),
        ]
    };
    table(["key", "on", "value", "default", "meaning"], keys.iter().map(row))
}

fn written_by_kermode(keys: &[Key]) -> String {
    let row = |key: &Key| {
        [
            name(key),
            key.objects.to_owned(),
            key.notation.to_string(),
            meaning(key),
        ]
    };
    table(["key", "on", "value", "meaning"], keys.iter().map(row))
}

fn tags(keys: &[Key]) -> String {
    let row = |key: &Key| {
        [
            name(key),
            key.objects.to_owned(),
            key.notation.to_string(),
            key.default.to_owned(),
            meaning(key),
        ]
    };
    table(["tag", "of", "value", "default", "meaning"], keys.iter().map(row))
}

/// Returns the name of the key. A suffix gets a placeholder for its variable part.
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
