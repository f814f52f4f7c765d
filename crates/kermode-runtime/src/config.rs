//! Configuration from a YAML file and the environment, the environment winning.
//!
//! The serialised defaults are the schema: a key that they do not have is unknown, and what stands at a path says
//! how the text of an environment variable is read. Every override is tried on its own against the defaults, so
//! that one start reports all mistakes at once.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One environment variable and the configuration path it sets, dots between the keys.
pub type Variable = (&'static str, &'static str);

/// What a binary can be configured by.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The environment variables, in as many tables as there are parts with settings of their own.
    pub variables: &'static [&'static [Variable]],
    /// Paths that hold maps with keys of the user's own.
    pub maps: &'static [&'static str],
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct InvalidConfig {
    problems: Vec<String>,
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration: {}", self.problems.join("; "))
    }
}

impl std::error::Error for InvalidConfig {}

struct Override {
    /// Where the user wrote it: a file and path, or a variable.
    origin: String,
    path: Vec<String>,
    value: Value,
}

/// Reads the configuration: defaults, then the file, then the variables that `environment` knows.
///
/// # Errors
/// With every problem found: an unreadable file, unknown keys, values of the wrong type.
pub fn load<T>(
    schema: Schema,
    file: Option<&Path>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<T, InvalidConfig>
where
    T: Default + Serialize + DeserializeOwned,
{
    let defaults = serde_json::to_value(T::default()).map_err(|error| InvalidConfig {
        problems: vec![format!("defaults: {error}")],
    })?;
    let mut problems = Vec::new();
    let mut overrides = Vec::new();
    if let Some(file) = file {
        match read_file(file) {
            Ok(value) => collect(
                schema,
                file,
                &defaults,
                &value,
                &mut Vec::new(),
                &mut overrides,
                &mut problems,
            ),
            Err(problem) => problems.push(problem),
        }
    }
    for (variable, path) in schema.variables.iter().copied().flatten() {
        if let Some(text) = environment(variable) {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            match read_variable(at(&defaults, &path), &text) {
                Ok(value) => overrides.push(Override {
                    origin: format!("${variable}"),
                    path,
                    value,
                }),
                Err(problem) => problems.push(format!("${variable}: {problem}")),
            }
        }
    }
    let mut merged = defaults.clone();
    for change in overrides {
        let mut alone = defaults.clone();
        set(&mut alone, &change.path, change.value.clone());
        match serde_json::from_value::<T>(alone) {
            Ok(_) => set(&mut merged, &change.path, change.value),
            Err(error) => problems.push(format!("{}: {error}", change.origin)),
        }
    }
    if problems.is_empty() {
        serde_json::from_value(merged).map_err(|error| InvalidConfig {
            problems: vec![error.to_string()],
        })
    } else {
        Err(InvalidConfig { problems })
    }
}

fn read_file(file: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{}: cannot be read: {error}; check --config-file", file.display()))?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: is not valid YAML: {error}", file.display()))
}

/// Flattens the file's tree to its leaves, telling unknown keys.
fn collect(
    schema: Schema,
    file: &Path,
    known: &Value,
    value: &Value,
    path: &mut Vec<String>,
    overrides: &mut Vec<Override>,
    problems: &mut Vec<String>,
) {
    let dotted = path.join(".");
    match (known, value) {
        (_, Value::Null) => {}
        (Value::Object(known), Value::Object(entries)) if !schema.maps.contains(&dotted.as_str()) => {
            for (key, value) in entries {
                path.push(key.clone());
                match known.get(key) {
                    Some(known) => collect(schema, file, known, value, path, overrides, problems),
                    None => problems.push(format!("{}: unknown key {}", file.display(), path.join("."))),
                }
                path.pop();
            }
        }
        _ => overrides.push(Override {
            origin: format!("{}: {dotted}", file.display()),
            path: path.clone(),
            value: value.clone(),
        }),
    }
}

/// Reads a variable's text as what its path holds by default.
fn read_variable(default: Option<&Value>, text: &str) -> Result<Value, String> {
    match default {
        Some(Value::Bool(_)) => text
            .parse()
            .map(Value::Bool)
            .map_err(|_| format!("{text:?} is not true or false")),
        Some(Value::Number(_)) => serde_json::from_str::<serde_json::Number>(text)
            .map(Value::Number)
            .map_err(|_| format!("{text:?} is not a number")),
        Some(Value::Array(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(items
                .map(|item| {
                    serde_json::from_str(item)
                        .ok()
                        .filter(Value::is_number)
                        .unwrap_or(item.into())
                })
                .collect())
        }
        Some(Value::Object(_)) => text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once(':') {
                Some((key, value)) => Ok((key.trim().to_owned(), Value::from(value.trim()))),
                None => Err(format!("{pair:?} is not a pair: write key:value,key:value")),
            })
            .collect::<Result<serde_json::Map<_, _>, _>>()
            .map(Value::Object),
        _ => Ok(text.into()),
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

fn set(target: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        *target = value;
        return;
    };
    let mut parent = target;
    for key in parents {
        if !parent.is_object() {
            *parent = Value::Object(serde_json::Map::new());
        }
        let Value::Object(entries) = parent else { return };
        parent = entries.entry(key.clone()).or_insert(Value::Null);
    }
    if !parent.is_object() {
        *parent = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(entries) = parent {
        entries.insert(last.clone(), value);
    }
}

#[cfg(test)]
mod tests;
