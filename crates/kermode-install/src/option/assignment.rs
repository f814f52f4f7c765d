//! Applies the values of `--set`, which are assignments `path=value`, to the configuration file.

use serde_json::{Map, Value};

/// An assignment that cannot be applied. The first field of each variant is the assignment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAssignment {
    /// The assignment has no `=`.
    #[error("--set {0:?}: write it as PATH=VALUE, for example defaults.skipMeshCreation=true")]
    NoEqualsSign(String),
    /// A part of the path is empty.
    #[error("--set {0:?}: the path has an empty part; a dot that belongs to a key is written \"\\.\"")]
    EmptyPart(String),
    /// The value is not YAML. The second field is the error.
    #[error("--set {0:?}: the value is not YAML: {1}")]
    InvalidValue(String, String),
    /// A key on the path has a value that is not a map. The second field is the path of that key.
    #[error("--set {0:?}: {1} already has a value and cannot have settings below it")]
    NotAMap(String, String),
}

/// Applies one assignment `path=value` to `config`. Missing maps are created, and an existing value is replaced.
pub(crate) fn apply(assignment: &str, config: &mut Map<String, Value>) -> Result<(), InvalidAssignment> {
    let Some((path, value)) = assignment.split_once('=') else {
        return Err(InvalidAssignment::NoEqualsSign(assignment.to_owned()));
    };
    let keys = split_path(path);
    if keys.iter().any(String::is_empty) {
        return Err(InvalidAssignment::EmptyPart(assignment.to_owned()));
    }
    let Some((last, parents)) = keys.split_last() else {
        // This cannot occur, because a path has at least one key.
        return Err(InvalidAssignment::NoEqualsSign(assignment.to_owned()));
    };
    let value = parse_value(value)
        .map_err(|error| InvalidAssignment::InvalidValue(assignment.to_owned(), error.to_string()))?;
    let mut map = config;
    for (depth, key) in parents.iter().enumerate() {
        let entry = map
            .entry(key.as_str())
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = entry else {
            let path_of_value = keys[..=depth].join(".");
            return Err(InvalidAssignment::NotAMap(assignment.to_owned(), path_of_value));
        };
        map = inner;
    }
    map.insert(last.clone(), value);
    Ok(())
}

/// Parses a value as YAML. Only `true` and `false` are booleans, because other booleans of YAML 1.1, such as `no`, may
/// be meant as a string, for example as a name. An empty value is an empty string.
fn parse_value(text: &str) -> Result<Value, serde_saphyr::Error> {
    if text.is_empty() {
        return Ok(Value::String(String::new()));
    }
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

/// Splits a path at its dots. `\.` is a dot that belongs to a key.
fn split_path(path: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut characters = path.chars().peekable();
    while let Some(character) = characters.next() {
        let last = keys.len() - 1;
        match character {
            '\\' if characters.peek() == Some(&'.') => {
                characters.next();
                keys[last].push('.');
            }
            '.' => keys.push(String::new()),
            other => keys[last].push(other),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn apply_all(assignments: &[&str]) -> Result<Value, InvalidAssignment> {
        let mut config = Map::new();
        for assignment in assignments {
            apply(assignment, &mut config)?;
        }
        Ok(Value::Object(config))
    }

    #[test]
    fn missing_maps_are_created_and_existing_maps_are_extended() {
        let assignments = ["a.b.c=1", "a.b.d=true", "a.e=text"];
        assert_eq!(
            apply_all(&assignments),
            Ok(json!({"a": {"b": {"c": 1, "d": true}, "e": "text"}}))
        );
    }

    #[test]
    fn values_are_yaml() {
        assert_eq!(
            apply_all(&["a=[x, y]", "b={k: v}", "c=", "d=\"1\"", "e=30s", "f=no"]),
            Ok(json!({"a": ["x", "y"], "b": {"k": "v"}, "c": "", "d": "1", "e": "30s", "f": "no"}))
        );
    }

    #[test]
    fn escaped_dot_belongs_to_its_key() {
        assert_eq!(
            apply_all(&["labels.openshift\\.io/build='*'"]),
            Ok(json!({"labels": {"openshift.io/build": "*"}}))
        );
    }

    #[test]
    fn assignment_below_a_setting_that_is_not_a_map_is_rejected() {
        let error = apply_all(&["a.b=1", "a.b.c=2"]).expect_err("a.b is not a map");
        assert_eq!(
            error.to_string(),
            "--set \"a.b.c=2\": a.b already has a value and cannot have settings below it"
        );
    }

    #[test]
    fn text_that_is_not_an_assignment_is_rejected() {
        assert!(matches!(
            apply_all(&["a.b"]),
            Err(InvalidAssignment::NoEqualsSign(_))
        ));
        assert!(matches!(apply_all(&["=1"]), Err(InvalidAssignment::EmptyPart(_))));
        assert!(matches!(
            apply_all(&["a..b=1"]),
            Err(InvalidAssignment::EmptyPart(_))
        ));
        assert!(matches!(
            apply_all(&["a=[1"]),
            Err(InvalidAssignment::InvalidValue(..))
        ));
        assert_eq!(
            apply_all(&["labels.openshift\\.io/build=*x"])
                .map_err(|error| matches!(error, InvalidAssignment::InvalidValue(..))),
            Err(true),
            "an undefined alias is not valid YAML"
        );
    }
}
