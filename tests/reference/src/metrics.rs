//! The exported metrics with their labels, from the tables of `docs/reference/metrics.md`. A test of this crate compares
//! the names with those that the code registers, and an end-to-end test compares names and labels with a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// Labels of the scraped Pod, which Prometheus adds to every series.
pub const TARGET_LABELS: [&str; 3] = ["namespace", "pod", "mesh"];

/// Exported series, with the labels that they have.
#[derive(Clone, Debug, Default)]
pub struct ExportedSeries(BTreeMap<String, BTreeSet<String>>);

impl ExportedSeries {
    /// Reads the tables in a checkout.
    ///
    /// # Errors
    /// If the document cannot be read.
    pub fn read(repository: &Path) -> io::Result<Self> {
        let document = std::fs::read_to_string(repository.join("docs/reference/metrics.md"))?;
        Ok(Self::parse(&document))
    }

    /// Reads the tables of a document.
    pub fn parse(document: &str) -> Self {
        let code = |text: &str| Some(text.strip_prefix('`')?.strip_suffix('`')?.to_owned());
        let mut series = BTreeMap::new();
        for line in document.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let ["", metric, kind, labels, ..] = cells.as_slice() else {
                continue;
            };
            let labels: BTreeSet<String> = labels.split(", ").filter_map(code).collect();
            let Some(name) = code(metric) else { continue };
            match *kind {
                "counter" | "gauge" => _ = series.insert(name, labels),
                "histogram" => {
                    for suffix in ["sum", "count"] {
                        series.insert(format!("{name}_{suffix}"), labels.clone());
                    }
                    let mut labels = labels;
                    labels.insert("le".to_owned());
                    series.insert(format!("{name}_bucket"), labels);
                }
                _ => {}
            }
        }
        Self(series)
    }

    /// Returns the names of all series.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Returns the labels of a series; `None` if it is not exported.
    pub fn labels(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name)
    }
}
