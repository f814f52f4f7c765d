//! Known deviations: cases of the corpus that contradict a documented decision, with the behaviour of Kermode as data
//! that the runner checks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// One known deviation from the corpus.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// Name of the suite.
    pub suite: String,
    /// Identifier of the case; `*` for every case that `when` fits.
    pub case: String,
    /// For `*`: values by JSON pointer into `{case, ours}`: the case, and Kermode's result without this deviation.
    #[serde(default)]
    pub when: BTreeMap<String, Value>,
    /// Heading of the documentation that the case contradicts, such as `docs/design.md#tests`.
    pub decision: String,
    /// Reason, in one sentence.
    pub reason: String,
    /// Case of the suite whose result the patch applies to, instead of the expectation of this case.
    #[serde(default)]
    pub like: Option<String>,
    /// Value that the patch applies to, instead of the expectation of this case.
    #[serde(default)]
    pub instead: Option<Value>,
    /// JSON patch that yields Kermode's result.
    #[serde(default)]
    pub patch: Vec<Value>,
}

/// Reads the known deviations from `deviations.yaml`.
///
/// # Errors
/// The file cannot be decoded, or a deviation cites a heading that does not exist.
pub fn known() -> Result<Vec<Deviation>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let deviations = parse(include_str!("../deviations.yaml"))?;
    for deviation in &deviations {
        check_citation(&deviation.decision, &repository)
            .with_context(|| format!("deviations.yaml: {} {}", deviation.suite, deviation.case))?;
    }
    Ok(deviations)
}

/// Checks that a citation such as `docs/design.md#tests` names an existing heading.
fn check_citation(citation: &str, repository: &Path) -> Result<()> {
    let (file, heading) = citation
        .split_once('#')
        .filter(|(file, _)| file.starts_with("docs/"))
        .with_context(|| format!("`decision` is {citation:?}, not a heading in docs/"))?;
    let text = std::fs::read_to_string(repository.join(file)).with_context(|| file.to_owned())?;
    ensure!(
        text.lines().filter_map(anchor).any(|anchor| anchor == heading),
        "{file} has no heading #{heading}"
    );
    Ok(())
}

/// Returns the anchor that GitHub gives a heading of a Markdown file.
fn anchor(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ')?;
    let title = title.to_lowercase();
    let kept = title
        .chars()
        .filter(|char| char.is_alphanumeric() || "-_ ".contains(*char))
        .map(|char| if char == ' ' { '-' } else { char });
    line.starts_with('#').then(|| kept.collect())
}

fn parse(text: &str) -> Result<Vec<Deviation>> {
    let list: Option<Vec<Deviation>> = serde_saphyr::from_str(text).context("deviations.yaml")?;
    let list = list.unwrap_or_default();
    for deviation in &list {
        ensure!(
            deviation.is_general() != deviation.when.is_empty(),
            "deviations.yaml: {} {}: `when` is required with case `*`, and only allowed there",
            deviation.suite,
            deviation.case
        );
    }
    Ok(list)
}

// === impl Deviation ===

impl Deviation {
    /// Whether the deviation applies to every case that `when` fits, instead of a single one.
    pub fn is_general(&self) -> bool {
        self.case == "*"
    }

    /// Whether a general deviation applies to a case. `ours` is the result without the deviation.
    pub fn fits(&self, case: &Value, ours: &Value) -> bool {
        let whole = json!({"case": case, "ours": ours});
        let mut conditions = self.when.iter();
        conditions.all(|(pointer, value)| whole.pointer(pointer) == Some(value))
    }

    /// Returns Kermode's result, given the expectation of the corpus, or of the case in `like`.
    ///
    /// # Errors
    /// The patch does not apply.
    pub fn apply(&self, expected: &Value) -> Result<Value> {
        let mut expected = self.instead.clone().unwrap_or_else(|| expected.clone());
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(self.patch.clone()))
            .with_context(|| format!("patch of the deviation {} {}", self.suite, self.case))?;
        json_patch::patch(&mut expected, &patch)
            .with_context(|| format!("patch of the deviation {} {}", self.suite, self.case))?;
        Ok(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citation_of_a_missing_heading_is_an_error() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let check = |citation: &str| check_citation(citation, &repository);
        check("docs/design.md#safe-retries").expect("the heading exists");
        let file = "docs/design.md";
        for bad in [
            &format!("{file}#no-such-heading"),
            "docs/no-such-file#safe-retries",
            file,
            "a decision",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
