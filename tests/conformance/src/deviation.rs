//! Cases that contradict a decision of the design: which decision, and what we do instead, as data that is checked.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// One known deviation from the corpus.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// The suite.
    pub suite: String,
    /// The case's identifier; `*` for every case that `when` fits.
    pub case: String,
    /// For `*`: values by JSON pointer into `{case, ours}`, the case as written and what we do apart from this.
    #[serde(default)]
    pub when: BTreeMap<String, Value>,
    /// The decision of the design that the case contradicts.
    pub decision: String,
    /// Why, in a sentence.
    pub reason: String,
    /// What the patch starts from is not what this case expects but what we do in another case of the suite.
    #[serde(default)]
    pub like: Option<String>,
    /// What the patch starts from, in place of what the case expects.
    #[serde(default)]
    pub instead: Option<Value>,
    /// JSON patch that turns that into what we do.
    #[serde(default)]
    pub patch: Vec<Value>,
}

/// The known deviations, from `deviations.yaml`.
///
/// # Errors
/// When the file does not read.
pub fn known() -> Result<Vec<Deviation>> {
    parse(include_str!("../deviations.yaml"))
}

fn parse(text: &str) -> Result<Vec<Deviation>> {
    let list: Option<Vec<Deviation>> = serde_saphyr::from_str(text).context("deviations.yaml")?;
    let list = list.unwrap_or_default();
    for deviation in &list {
        ensure!(
            deviation.is_general() != deviation.when.is_empty(),
            "deviations.yaml: {} {}: `when` belongs to deviations of every case, and these need it",
            deviation.suite,
            deviation.case
        );
    }
    Ok(list)
}

// === impl Deviation ===

impl Deviation {
    /// Whether it is one of every case that fits, not of a single one.
    pub fn is_general(&self) -> bool {
        self.case == "*"
    }

    /// Whether a general deviation concerns a case in which we do `ours` apart from it.
    pub fn fits(&self, case: &Value, ours: &Value) -> bool {
        let whole = json!({"case": case, "ours": ours});
        let mut wanted = self.when.iter();
        wanted.all(|(pointer, value)| whole.pointer(pointer) == Some(value))
    }

    /// What we do, given what the corpus expects (of the case named in `like`, if there is one).
    ///
    /// # Errors
    /// When the patch does not apply.
    pub fn apply(&self, expected: &Value) -> Result<Value> {
        let mut expected = self.instead.clone().unwrap_or_else(|| expected.clone());
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(self.patch.clone()))
            .with_context(|| format!("patch of the deviation {} {}", self.suite, self.case))?;
        json_patch::patch(&mut expected, &patch)
            .with_context(|| format!("patch of the deviation {} {}", self.suite, self.case))?;
        Ok(expected)
    }
}
