//! Report of a run: a table as text and as HTML, and all numbers as JSON.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::case::{Protocol, name};
use crate::plot::{escape, svg};
use crate::row::{Row, SideResult};

/// Titles of the columns.
const COLUMNS: [&str; 14] = [
    "scenario",
    "protocol",
    "application",
    "variant",
    "requests",
    "failed",
    "in progress",
    "plain: requests",
    "failed",
    "in progress",
    "p99 ms",
    "plain: p99 ms",
    "skipped",
    "connections",
];
/// Widths of the columns of the text table.
const WIDTHS: [usize; 14] = [13, 8, 11, 26, 8, 8, 11, 15, 8, 11, 8, 13, 15, 30];

/// Returns the head of the text table.
pub fn text_head() -> String {
    text_line(COLUMNS.map(str::to_owned))
}

/// Returns a row of the text table, with a second line for the reasons of the failures.
pub fn text_row(row: &Row) -> String {
    let mut text = text_line(cells(row));
    for (side, result) in [("mesh", &row.mesh), ("plain", &row.plain)] {
        if !result.reasons.is_empty() {
            let _ = write!(text, "\n    {side}: {}", reasons(result));
        }
    }
    text
}

fn text_line(cells: [String; 14]) -> String {
    let padded = cells
        .iter()
        .zip(WIDTHS)
        .map(|(cell, width)| format!("{cell:<width$}"));
    padded.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

fn cells(row: &Row) -> [String; 14] {
    let p99 = |side: &SideResult| {
        side.p99_milliseconds
            .map_or("-".to_owned(), |value| format!("{value:.1}"))
    };
    [
        name(row.scenario),
        name(row.protocol),
        name(row.application),
        row.variant.clone(),
        row.mesh.requests.to_string(),
        row.mesh.failed.to_string(),
        row.mesh.in_progress_at_end.to_string(),
        row.plain.requests.to_string(),
        row.plain.failed.to_string(),
        row.plain.in_progress_at_end.to_string(),
        p99(&row.mesh),
        p99(&row.plain),
        format!("{}; plain: {}", row.mesh.skipped, row.plain.skipped),
        connections(row),
    ]
}

/// Returns, for TCP, how many connections ended, and the shortest time from the deletion of a Pod to the end of one.
fn connections(row: &Row) -> String {
    let of_side = |side: &SideResult| {
        let life = side.shortest_life_seconds;
        let life = life.map_or(String::new(), |life| format!(" after {life:.1} s"));
        format!("{}{life}", side.ended_connections)
    };
    match row.protocol {
        Protocol::Tcp => format!("{}; plain: {}", of_side(&row.mesh), of_side(&row.plain)),
        _ => String::new(),
    }
}

fn reasons(side: &SideResult) -> String {
    let reasons = side
        .reasons
        .iter()
        .map(|(reason, count)| format!("{reason}: {count}"));
    reasons.collect::<Vec<_>>().join(", ")
}

/// Writes `report.json`, `report.html` and `failures.svg`.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    let files = [
        (
            folder.join("report.json"),
            serde_json::to_string_pretty(rows)? + "\n",
        ),
        (folder.join("failures.svg"), svg(rows)),
        (folder.join("report.html"), html(rows)),
    ];
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (path, text) in files {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn html(rows: &[Row]) -> String {
    let head = html_cells("th", &COLUMNS);
    let body: String = rows.iter().map(html_row).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Lifecycle scenarios</title>\n\
         <style>\n\
         body {{ font: 14px sans-serif; margin: 2em; }}\n\
         table {{ border-collapse: collapse; }}\n\
         th, td {{ border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; }}\n\
         tr.failed td {{ background: #fee2e2; }}\n\
         </style>\n\
         <h1>Lifecycle scenarios</h1>\n\
         <p>Failed requests while servers start and end, in the mesh and without it (plain), at the same time on the \
         same cluster. <i>In progress</i> is the number of requests that servers were answering when they ended, \
         <i>skipped</i> the number of requests that a client has not sent, because its process was paused. With TCP, \
         requests are lines on open connections, and a connection fails if it ends before the application of its \
         server.</p>\n\
         <table>\n<tr>{head}<th>reasons</th></tr>\n{body}</table>\n{}</html>\n",
        svg(rows)
    )
}

fn html_cells(tag: &str, texts: &[impl AsRef<str>]) -> String {
    let mut cells = String::new();
    for text in texts {
        // Writing to a String cannot fail.
        let _ = write!(cells, "<{tag}>{}</{tag}>", escape(text.as_ref()));
    }
    cells
}

fn html_row(row: &Row) -> String {
    let class = if row.is_clean() { "" } else { " class=\"failed\"" };
    let cells = html_cells("td", &cells(row));
    let mut all_reasons = Vec::new();
    for (side, result) in [("mesh", &row.mesh), ("plain", &row.plain)] {
        if !result.reasons.is_empty() {
            all_reasons.push(escape(&format!("{side}: {}", reasons(result))));
        }
    }
    format!("<tr{class}>{cells}<td>{}</td></tr>\n", all_reasons.join("<br>"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::{Application, Case, Scenario};
    use crate::settings::Variant;

    #[test]
    fn row_shows_failures_of_both_sides_and_the_reasons() {
        let case = Case {
            scenario: Scenario::Restart,
            application: Application::Exit,
            variant: Variant {
                name: "default".to_owned(),
                ..Variant::default()
            },
        };
        let side = |failed: u64| SideResult {
            requests: 100,
            failed,
            in_progress_at_end: 2,
            reasons: [("status <503>".to_owned(), failed)].into(),
            ..SideResult::default()
        };
        let row = Row::new(&case, Protocol::Http1, 10.0, side(3), side(1));
        let text = text_row(&row);
        assert!(
            text.contains("mesh: status <503>: 3") && text.contains("plain: status <503>: 1"),
            "{text}"
        );
        let page = html_row(&row);
        assert!(
            page.contains("class=\"failed\"") && page.contains("status &lt;503&gt;: 3"),
            "{page}"
        );
        assert!(Row::new(&case, Protocol::Http1, 10.0, side(2), side(1)).is_clean());
    }
}
