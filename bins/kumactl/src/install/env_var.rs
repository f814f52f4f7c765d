//! Parses the values of `--env-var` like Kuma, so that the commands in Kuma's documentation work unchanged.

use std::collections::BTreeMap;

use kermode_install::POD_FIELD_VARIABLES;

/// A value of `--env-var` that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidEnvVar {
    /// The text has no `=`, or no name before it.
    #[error("--env-var {0:?}: write it as KEY=VALUE")]
    NotKeyValue(String),
    /// The Deployment already sets this variable.
    #[error("--env-var {0}: the manifests already set this variable from a field of the Pod; omit it")]
    Reserved(String),
}

/// Parses one value into `variables`. A later value replaces an earlier one.
pub(super) fn parse(value: &str, variables: &mut BTreeMap<String, String>) -> Result<(), InvalidEnvVar> {
    // If the text contains one "=", commas are part of the value: PATCHES=a,b is one variable.
    let pairs = match value.matches('=').count() {
        0 => return Err(InvalidEnvVar::NotKeyValue(value.to_owned())),
        1 => vec![value.trim_matches('"').to_owned()],
        _ => split_at_commas(value),
    };
    for pair in pairs {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(InvalidEnvVar::NotKeyValue(pair));
        };
        if POD_FIELD_VARIABLES.iter().any(|(reserved, _)| *reserved == name) {
            return Err(InvalidEnvVar::Reserved(name.to_owned()));
        }
        variables.insert(name.to_owned(), value.to_owned());
    }
    Ok(())
}

/// Splits comma-separated values. An item in double quotes may contain commas, and double quotes that are written as
/// `""`.
fn split_at_commas(line: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let last = items.len() - 1;
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                items[last].push('"');
            }
            '"' if is_quoted || items[last].is_empty() => is_quoted = !is_quoted,
            ',' if !is_quoted => items.push(String::new()),
            other => items[last].push(other),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(values: &[&str]) -> Result<Vec<(String, String)>, InvalidEnvVar> {
        let mut variables = BTreeMap::new();
        for value in values {
            parse(value, &mut variables)?;
        }
        Ok(variables.into_iter().collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn commas_belong_to_the_value_of_a_single_variable() {
        let name = "KUMA_RUNTIME_KUBERNETES_INJECTOR_CONTAINER_PATCHES";
        let value = format!("{name}=container-patch-1,container-patch-2");
        assert_eq!(
            parse_all(&[&value]),
            Ok(pairs(&[(name, "container-patch-1,container-patch-2")]))
        );
    }

    #[test]
    fn text_with_several_equals_signs_is_a_list() {
        assert_eq!(parse_all(&["A=1,B=2"]), Ok(pairs(&[("A", "1"), ("B", "2")])));
        assert_eq!(parse_all(&["A=x=y,B="]), Ok(pairs(&[("A", "x=y"), ("B", "")])));
        assert_eq!(
            parse_all(&["\"A=1,2\",B=3"]),
            Ok(pairs(&[("A", "1,2"), ("B", "3")]))
        );
    }

    #[test]
    fn last_value_replaces_earlier_values() {
        assert_eq!(parse_all(&["A=1", "A=2"]), Ok(pairs(&[("A", "2")])));
    }

    #[test]
    fn values_without_name_or_equals_sign_are_rejected() {
        for value in ["A", "", "=1", "A=1,B,C=3"] {
            assert!(
                matches!(parse_all(&[value]), Err(InvalidEnvVar::NotKeyValue(_))),
                "{value:?} is not rejected"
            );
        }
    }

    #[test]
    fn variables_that_the_manifests_set_from_pod_fields_are_rejected() {
        assert_eq!(
            parse_all(&["POD_NAME=x"]),
            Err(InvalidEnvVar::Reserved("POD_NAME".to_owned()))
        );
    }
}
