//! The alert rules.

use serde_json::Value;

use crate::ObservabilityError;

/// File with the alert rules, as Prometheus reads it.
pub const RULES: &str = include_str!("../rules/kermode.rules.yaml");

/// Returns the rules. With the URL of the runbooks, each alert has the annotation `runbook_url`, whose fragment is the
/// alert's section.
pub(crate) fn with_runbooks(url: Option<&str>) -> Result<Value, ObservabilityError> {
    let mut rules: Value =
        serde_saphyr::from_str(RULES).map_err(|error| ObservabilityError::Rules(error.to_string()))?;
    let Some(url) = url else { return Ok(rules) };
    let groups = rules["groups"].as_array_mut().into_iter().flatten();
    for rule in groups.flat_map(|group| group["rules"].as_array_mut().into_iter().flatten()) {
        let anchor = rule["alert"].as_str().unwrap_or_default().to_ascii_lowercase();
        rule["annotations"]["runbook_url"] = format!("{url}#{anchor}").into();
    }
    Ok(rules)
}
