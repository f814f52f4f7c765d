//! Loader of a configuration: defaults, then a YAML file, then environment variables.
//!
//! The serialized defaults are the schema. A key that the defaults do not contain is unknown, and the default at a path
//! decides how the text of an environment variable is parsed. Each override is deserialized on its own, on top of the
//! defaults, so that one run reports all problems.

use std::fmt;
use std::path::Path;

use kermode_model::notation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An environment variable and the dotted path of the setting that it overrides.
pub(crate) type Variable = (&'static str, &'static str);

/// Rules for overrides, in addition to the serialized defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OverrideRules<'a> {
    /// Accepted environment variables.
    pub(crate) variables: &'a [Variable],
    /// Paths of maps whose keys are chosen by the user. The file or a variable replaces such a map as a whole.
    pub(crate) user_keyed_maps: &'a [&'a str],
}

/// Configuration file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConfigFile<'a> {
    /// A file that is read.
    Path(&'a Path),
    /// The content of a file that is not written yet, and the name that stands for it in problems.
    Content { name: &'a str, content: &'a Value },
}

/// An invalid configuration, with all its problems. Each problem names the file, the key or the environment
/// variable.
#[derive(Debug)]
pub struct InvalidConfig {
    pub(crate) problems: Vec<String>,
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration: {}", self.problems.join("; "))
    }
}

impl std::error::Error for InvalidConfig {}

impl InvalidConfig {
    /// Returns all problems.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// One setting from the file or the environment.
struct Override {
    /// File and path of the setting, or the environment variable, for error messages.
    origin: String,
    /// Keys from the root to the setting.
    path: Vec<String>,
    value: Value,
}

/// Overrides collected so far, and their problems.
struct Collector<'a> {
    rules: OverrideRules<'a>,
    defaults: &'a Value,
    overrides: Vec<Override>,
    problems: Vec<String>,
}

/// Loads a configuration: defaults, then the file, then environment variables. `environment` returns the value of a
/// variable.
///
/// # Errors
/// When the configuration is invalid. The error lists every problem: an unreadable file, unknown keys, values of the
/// wrong type.
pub(crate) fn load<T>(
    rules: OverrideRules<'_>,
    file: Option<ConfigFile<'_>>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<T, InvalidConfig>
where
    T: Default + Serialize + DeserializeOwned,
{
    let defaults = serde_json::to_value(T::default()).map_err(|error| InvalidConfig {
        problems: vec![format!("defaults: {error}")],
    })?;
    let mut collector = Collector {
        rules,
        defaults: &defaults,
        overrides: Vec::new(),
        problems: Vec::new(),
    };
    if let Some(file) = file {
        collector.collect_file(file);
    }
    collector.collect_environment(environment);
    collector.merge()
}

// === impl Collector ===

impl Collector<'_> {
    fn collect_file(&mut self, file: ConfigFile<'_>) {
        match file {
            ConfigFile::Path(path) => match read_file(path) {
                Ok(value) => {
                    let name = path.display().to_string();
                    self.collect_tree(&name, self.defaults, &value, &mut Vec::new());
                }
                Err(problem) => self.problems.push(problem),
            },
            ConfigFile::Content { name, content } => {
                self.collect_tree(name, self.defaults, content, &mut Vec::new());
            }
        }
    }

    /// Collects the leaves of the file's tree as overrides, and reports unknown keys. `defaults` is the part of the
    /// defaults at `path`.
    fn collect_tree(&mut self, file: &str, defaults: &Value, value: &Value, path: &mut Vec<String>) {
        let dotted_path = path.join(".");
        match (defaults, value) {
            // A key without a value keeps its default.
            (_, Value::Null) => {}
            (Value::Object(defaults), Value::Object(entries))
                if !self.rules.user_keyed_maps.contains(&dotted_path.as_str()) =>
            {
                for (key, value) in entries {
                    path.push(key.clone());
                    if let Some(default) = defaults.get(key) {
                        self.collect_tree(file, default, value, path);
                    } else {
                        let problem = format!("{file}: unknown key {}", path.join("."));
                        self.problems.push(problem);
                    }
                    path.pop();
                }
            }
            _ => self.overrides.push(Override {
                origin: format!("{file}: {dotted_path}"),
                path: path.clone(),
                value: value.clone(),
            }),
        }
    }

    fn collect_environment(&mut self, environment: impl Fn(&str) -> Option<String>) {
        for (variable, dotted_path) in self.rules.variables {
            let Some(text) = environment(variable) else {
                continue;
            };
            let path: Vec<String> = dotted_path.split('.').map(str::to_owned).collect();
            match parse_variable(value_at(self.defaults, &path), &text) {
                Ok(value) => self.overrides.push(Override {
                    origin: format!("${variable}"),
                    path,
                    value,
                }),
                Err(problem) => self.problems.push(format!("${variable}: {problem}")),
            }
        }
    }

    /// Applies all overrides to the defaults, in order, and deserializes the result. Fails if there are problems, for
    /// example an override that cannot be deserialized.
    fn merge<T: DeserializeOwned>(self) -> Result<T, InvalidConfig> {
        let mut problems = self.problems;
        let mut merged = self.defaults.clone();
        for setting in self.overrides {
            let mut with_only_this_setting = self.defaults.clone();
            set_value_at(&mut with_only_this_setting, &setting.path, setting.value.clone());
            match serde_json::from_value::<T>(with_only_this_setting) {
                Ok(_) => set_value_at(&mut merged, &setting.path, setting.value),
                Err(error) => problems.push(format!("{}: {error}", setting.origin)),
            }
        }
        if !problems.is_empty() {
            return Err(InvalidConfig { problems });
        }
        serde_json::from_value(merged).map_err(|error| InvalidConfig {
            problems: vec![error.to_string()],
        })
    }
}

fn read_file(file: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{}: cannot be read: {error}; check the path", file.display()))?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: is not valid YAML: {error}", file.display()))
}

/// Parses the text of a variable as the type of the default at its path.
fn parse_variable(default: Option<&Value>, text: &str) -> Result<Value, String> {
    match default {
        Some(Value::Bool(_)) => text
            .parse()
            .map(Value::Bool)
            .map_err(|_| format!("{text:?} is not true or false")),
        Some(Value::Number(_)) => serde_json::from_str::<serde_json::Number>(text)
            .map(Value::Number)
            .map_err(|_| format!("{text:?} is not a number")),
        Some(Value::Array(_)) => {
            let number_or_text = |item: &str| {
                let number = serde_json::from_str(item).ok().filter(Value::is_number);
                number.unwrap_or_else(|| item.into())
            };
            Ok(notation::list(text).map(number_or_text).collect())
        }
        Some(Value::Object(_)) => notation::list(text)
            .map(|pair| match pair.split_once(':') {
                Some((key, value)) => Ok((key.trim().to_owned(), Value::from(value.trim()))),
                None => Err(format!("{pair:?} is not a pair: write key:value,key:value")),
            })
            .collect::<Result<serde_json::Map<_, _>, _>>()
            .map(Value::Object),
        _ => Ok(text.into()),
    }
}

fn value_at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Sets the value at a path. A parent that is not a map is replaced by a map.
fn set_value_at(target: &mut Value, path: &[String], value: Value) {
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
