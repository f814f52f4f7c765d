//! Tables of `docs/reference`, generated from the code.
//!
//! A generated table stands between `<!-- generated: NAME -->` and `<!-- end -->`; the prose around it is written by
//! hand. The tests compare every table, and write it if `UPDATE_REFERENCE` is set.

mod configuration;
mod keys;
mod ports;
mod resources;

#[cfg(test)]
mod tests;

use std::fmt::Write;

/// A generated part of a document.
#[derive(Clone, Debug)]
pub struct Part {
    /// File below `docs/reference`.
    pub file: &'static str,
    /// Name in the marker comment.
    pub name: String,
    /// Markdown between the markers.
    pub text: String,
}

/// Returns all generated parts.
pub fn parts() -> Vec<Part> {
    let mut parts = keys::parts();
    parts.extend(configuration::parts());
    parts.extend(ports::parts());
    parts.extend(resources::parts());
    parts
}

/// Renders a table. Bars in cells are escaped.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(N));
    for row in rows {
        let cells = row.map(|cell| cell.replace('|', "\\|"));
        _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}
