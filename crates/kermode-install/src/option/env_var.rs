//! Parses the arguments of `--env-var` like Kuma, so that the commands in Kuma's documentation work unchanged.

use std::collections::BTreeMap;

use crate::POD_FIELD_VARIABLES;

/// Reason why an argument of `--env-var` cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidEnvVar {
    /// The text has no `=`, or no name before it.
    #[error("--env-var {0:?}: write it as KEY=VALUE")]
    NotKeyValue(String),
    /// The Deployment already sets this variable.
    #[error("--env-var {0}: the manifests already set this variable from a field of the Pod; omit it")]
    Reserved(String),
}

/// Parses one argument and adds its variables to `variables`. The value of a variable that is set again replaces the
/// earlier value.
pub(super) fn parse(argument: &str, variables: &mut BTreeMap<String, String>) -> Result<(), InvalidEnvVar> {
    // An argument with one "=" is one variable. Commas are part of its value: PATCHES=a,b.
    let pairs = match argument.matches('=').count() {
        0 => return Err(InvalidEnvVar::NotKeyValue(argument.to_owned())),
        1 => vec![argument.trim_matches('"').to_owned()],
        _ => split_at_commas(argument),
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

/// Splits an argument at its commas. An item in double quotes may contain commas, and double quotes that are written as
/// `""`.
fn split_at_commas(argument: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = argument.chars().peekable();
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

    fn parse_all(arguments: &[&str]) -> Result<Vec<(String, String)>, InvalidEnvVar> {
        let mut variables = BTreeMap::new();
        for argument in arguments {
            parse(argument, &mut variables)?;
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
    fn argument_with_several_equals_signs_is_a_list_of_variables() {
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
    fn arguments_without_name_or_equals_sign_are_rejected() {
        for argument in ["A", "", "=1", "A=1,B,C=3"] {
            assert!(
                matches!(parse_all(&[argument]), Err(InvalidEnvVar::NotKeyValue(_))),
                "{argument:?} is not rejected"
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
