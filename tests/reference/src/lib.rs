//! Generates the tables of `docs/reference` from the code.
//!
//! In a document, a generated table is between `<!-- generated: NAME -->` and `<!-- end -->`; the text around it is
//! written by hand. The tests of this crate compare every table with the code. If `UPDATE_REFERENCE` is set, the tests
//! write the tables.

mod configuration;
mod installation;
mod keys;
pub mod metrics;
mod migration;
mod ports;
mod resources;

#[cfg(test)]
mod tests;

use std::fmt::Write;

/// A generated table of a document.
#[derive(Clone, Debug)]
pub struct GeneratedTable {
    /// Name of the document in `docs/reference`.
    pub file: &'static str,
    /// Name of the table in the comment before it.
    pub name: String,
    /// The table as Markdown.
    pub markdown: String,
}

/// Returns all generated tables.
pub fn tables() -> Vec<GeneratedTable> {
    let mut tables = keys::tables();
    tables.extend(configuration::tables());
    tables.extend(installation::tables());
    tables.extend(migration::tables());
    tables.extend(ports::tables());
    tables.extend(resources::tables());
    tables
}

/// Renders a table as Markdown. Vertical bars in cells are escaped.
fn render_table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(N));
    for row in rows {
        let cells = row.map(|cell| cell.replace('|', "\\|"));
        _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Formats a text as code; an empty text stays empty.
fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}
