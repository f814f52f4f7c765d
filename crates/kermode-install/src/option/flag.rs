//! Arguments of flags → values of options.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{InstallOption, Kind, assignment, env_var};

impl InstallOption {
    /// Placeholder of an argument in the help of the flag.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Boolean => "BOOLEAN",
            Kind::Integer { .. } => "NUMBER",
            Kind::Choice(_) => "CHOICE",
            Kind::Text(_) | Kind::OptionalText(_) | Kind::Texts(_) => "VALUE",
            Kind::Map { .. } | Kind::EnvironmentVariables | Kind::Choices { .. } => "KEY=VALUE",
            Kind::Configuration => "PATH=VALUE",
            Kind::Tolerations => "KEY[=VALUE][:EFFECT]",
        }
    }

    /// Notation of the argument, for the help of the flag; empty if the placeholder says enough.
    pub fn notation(&self) -> &'static str {
        match self.kind {
            Kind::EnvironmentVariables => {
                "Repeatable. A text with one \"=\" is a single variable, whose value may contain commas. A text with \
                 several \"=\" is a comma-separated list of KEY=VALUE."
            }
            Kind::Configuration => {
                "Repeatable. The value is YAML, for example runtime.kubernetes.injector.containerPatches=[a,b]. A dot that \
                 belongs to a key is written \"\\.\"."
            }
            Kind::Tolerations => {
                "Repeatable. Without VALUE, any value is tolerated; without EFFECT, any effect, otherwise NoSchedule, \
                 PreferNoSchedule or NoExecute."
            }
            Kind::Choices { .. } | Kind::Map { .. } | Kind::Texts(_) => "Repeatable.",
            _ => "",
        }
    }

    /// Whether the flag may be repeated, with a list or map as value.
    pub fn is_repeatable(&self) -> bool {
        self.default.is_array() || self.default.is_object()
    }

    /// Returns the value for the arguments of the flag, which are not empty.
    ///
    /// # Errors
    /// If an argument cannot be read. The form of the value is not checked; [`InstallOption::check`] does so.
    pub fn parse(&self, arguments: &[String]) -> Result<Value, Vec<String>> {
        let last = arguments.last().map_or("", String::as_str);
        match self.kind {
            Kind::Boolean => self.parse_json(last, "use true or false"),
            Kind::Integer { .. } => self.parse_json(last, "use a number"),
            Kind::Choice(_) | Kind::Text(_) | Kind::OptionalText(_) => Ok(last.into()),
            Kind::Texts(_) => Ok(json!(arguments)),
            Kind::Map { .. } | Kind::Choices { .. } => {
                let pairs = parse_each(arguments, |argument| {
                    argument
                        .split_once('=')
                        .ok_or_else(|| self.problem(argument, "write it as KEY=VALUE"))
                })?;
                let pairs = pairs.into_iter();
                Ok(pairs.map(|(key, value)| (key.to_owned(), json!(value))).collect())
            }
            Kind::EnvironmentVariables => {
                let mut variables = BTreeMap::new();
                parse_each(arguments, |argument| {
                    env_var::parse(argument, &mut variables).map_err(|error| error.to_string())
                })?;
                Ok(json!(variables))
            }
            Kind::Configuration => {
                let mut config = Map::new();
                parse_each(arguments, |argument| {
                    assignment::apply(argument, &mut config).map_err(|error| error.to_string())
                })?;
                Ok(config.into())
            }
            Kind::Tolerations => {
                let tolerations = arguments.iter().map(|argument| toleration(argument));
                Ok(tolerations.collect())
            }
        }
    }

    fn parse_json(&self, argument: &str, remedy: &str) -> Result<Value, Vec<String>> {
        serde_json::from_str(argument).map_err(|_| vec![self.problem(argument, remedy)])
    }

    /// Formats a problem of a value.
    pub(super) fn problem(&self, value: &str, remedy: &str) -> String {
        format!("--{} {value:?}: {remedy}", self.flag)
    }
}

/// Parses each argument. If some cannot be read, returns all problems.
fn parse_each<'a, T>(
    arguments: &'a [String],
    mut parse: impl FnMut(&'a str) -> Result<T, String>,
) -> Result<Vec<T>, Vec<String>> {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    for argument in arguments {
        match parse(argument) {
            Ok(value) => values.push(value),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(values)
    } else {
        Err(problems)
    }
}

/// Returns the toleration of a taint that is written as `kubectl taint` does.
fn toleration(argument: &str) -> Value {
    let (taint, effect) = match argument.rsplit_once(':') {
        Some((taint, effect)) => (taint, Some(effect)),
        None => (argument, None),
    };
    let mut toleration = match taint.split_once('=') {
        Some((key, value)) => json!({"key": key, "operator": "Equal", "value": value}),
        None => json!({"key": taint, "operator": "Exists"}),
    };
    if let Some(effect) = effect {
        toleration["effect"] = effect.into();
    }
    toleration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_read_as_kubectl_writes_taints() {
        for (argument, expected) in [
            ("a", json!({"key": "a", "operator": "Exists"})),
            (
                "example.com/a:NoSchedule",
                json!({"key": "example.com/a", "operator": "Exists", "effect": "NoSchedule"}),
            ),
            (
                "a=b:NoExecute",
                json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"}),
            ),
            ("a=", json!({"key": "a", "operator": "Equal", "value": ""})),
        ] {
            assert_eq!(toleration(argument), expected, "{argument}");
        }
    }
}
