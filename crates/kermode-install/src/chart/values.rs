//! `values.yaml`: the default values, each with its meaning as a comment.

use std::fmt::Write;

use super::NOTICE;
use crate::{InstallOption, Names, options};

/// Greatest length of a line of a comment.
const WIDTH: usize = 110;

/// Returns the text of the file.
pub(super) fn file() -> String {
    let mut text = format!("# {NOTICE}\n");
    let options: Vec<&InstallOption> = options().iter().collect();
    section(&mut text, 0, "", &options);
    text
}

/// Writes the options below a path. Options with the same next key form a section.
fn section(text: &mut String, indent: usize, parent: &str, options: &[&InstallOption]) {
    let next_key = |option: &InstallOption| {
        let rest = &option.path[parent.len()..];
        rest.split('.').next().unwrap_or_default().to_owned()
    };
    let mut keys = Vec::new();
    for option in options {
        let key = next_key(option);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    for key in keys {
        let below: Vec<&InstallOption> = options
            .iter()
            .filter(|option| next_key(option) == key)
            .copied()
            .collect();
        let space = " ".repeat(indent);
        match below[..] {
            [option] if option.path == format!("{parent}{key}") => {
                let default = option.chart_default.as_ref().unwrap_or(&option.default);
                comment(text, indent, &Names::Values.text(option.meaning));
                _ = writeln!(text, "{space}{key}: {default}");
            }
            _ => {
                _ = writeln!(text, "{space}{key}:");
                section(text, indent + 2, &format!("{parent}{key}."), &below);
            }
        }
    }
}

/// Writes a comment, wrapped at [`WIDTH`].
fn comment(text: &mut String, indent: usize, comment: &str) {
    let start = format!("{}#", " ".repeat(indent));
    let mut line = start.clone();
    for word in comment.split(' ') {
        if line.len() + word.len() >= WIDTH {
            _ = writeln!(text, "{line}");
            line.clone_from(&start);
        }
        line.push(' ');
        line.push_str(word);
    }
    _ = writeln!(text, "{line}");
}
