//! Known deviations: cases of the corpus whose expected result contradicts a documented decision of Kermode.
//! `deviations.yaml` defines the result that Kermode must have for each deviation. A case fails if Kermode has a
//! different result.

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
    /// Identifier of the case. `*` stands for every case of the suite that fulfils `when`: a general deviation.
    pub case: String,
    /// Condition of a general deviation: values by JSON pointer into `{case, expected}`. `case` is the case as in
    /// `cases.json`. `expected` is the expected result before this deviation is applied.
    #[serde(default)]
    pub when: BTreeMap<String, Value>,
    /// Documented decision that the case contradicts, as file and anchor of its heading: `docs/design.md#tests`.
    pub decision: String,
    /// Reason for the deviation, in one sentence.
    pub reason: String,
    /// Identifier of another case of the suite. If set, the patch applies to the expected result of this other case.
    #[serde(default)]
    pub base_case: Option<String>,
    /// If set, the patch applies to this value instead of an expected result.
    #[serde(default)]
    pub base_value: Option<Value>,
    /// JSON patch whose result is the result that Kermode must have.
    #[serde(default)]
    pub patch: Vec<Value>,
}

/// Returns the deviations of `deviations.yaml`.
///
/// # Errors
/// The file cannot be decoded, or a deviation cites a heading that does not exist.
pub fn read_all() -> Result<Vec<Deviation>> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let deviations = parse(include_str!("../deviations.yaml"))?;
    for deviation in &deviations {
        check_citation(&deviation.decision, &repository)
            .with_context(|| format!("deviations.yaml: {} {}", deviation.suite, deviation.case))?;
    }
    Ok(deviations)
}

/// Checks that the value of `decision`, such as `docs/design.md#tests`, names an existing heading.
fn check_citation(citation: &str, repository: &Path) -> Result<()> {
    let (file, anchor) = citation
        .split_once('#')
        .filter(|(file, _)| file.starts_with("docs/"))
        .with_context(|| {
            format!(
                "`decision` is {citation:?}: it must name a heading in docs/, such as docs/design.md#tests"
            )
        })?;
    let text =
        std::fs::read_to_string(repository.join(file)).with_context(|| format!("cannot read {file}"))?;
    ensure!(
        text.lines()
            .filter_map(anchor_of_heading)
            .any(|found| found == anchor),
        "{file} has no heading #{anchor}"
    );
    Ok(())
}

/// Returns the anchor that GitHub generates for the heading in a line of Markdown; `None` if the line is not a heading.
fn anchor_of_heading(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ')?;
    let title = title.to_lowercase();
    let anchor = title
        .chars()
        .filter(|char| char.is_alphanumeric() || "-_ ".contains(*char))
        .map(|char| if char == ' ' { '-' } else { char });
    line.starts_with('#').then(|| anchor.collect())
}

fn parse(text: &str) -> Result<Vec<Deviation>> {
    let list: Option<Vec<Deviation>> =
        serde_saphyr::from_str(text).context("cannot decode deviations.yaml")?;
    let list = list.unwrap_or_default();
    for deviation in &list {
        ensure!(
            deviation.is_general() != deviation.when.is_empty(),
            "deviations.yaml: {} {}: `when` is required with case `*`, and not allowed with another case",
            deviation.suite,
            deviation.case
        );
    }
    Ok(list)
}

// === impl Deviation ===

impl Deviation {
    /// Returns whether the deviation applies to every case that fulfils `when`, instead of to a single case.
    pub fn is_general(&self) -> bool {
        self.case == "*"
    }

    /// Returns whether a case fulfils `when`. `expected` is the expected result before this deviation is applied.
    pub fn applies_to(&self, case: &Value, expected: &Value) -> bool {
        let document = json!({"case": case, "expected": expected});
        let mut conditions = self.when.iter();
        conditions.all(|(pointer, value)| document.pointer(pointer) == Some(value))
    }

    /// Returns the result that Kermode must have. `base` is the expected result of the case or of `base_case`. If
    /// `base_value` is set, `base` is ignored.
    ///
    /// # Errors
    /// The patch does not apply.
    pub fn apply(&self, base: &Value) -> Result<Value> {
        let mut result = self.base_value.clone().unwrap_or_else(|| base.clone());
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(self.patch.clone()))
            .with_context(|| {
                format!(
                    "cannot decode the patch of deviation {} {}",
                    self.suite, self.case
                )
            })?;
        json_patch::patch(&mut result, &patch)
            .with_context(|| format!("cannot apply the patch of deviation {} {}", self.suite, self.case))?;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citation_without_an_existing_heading_is_an_error() {
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
