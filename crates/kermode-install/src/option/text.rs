//! Texts about options, for users of flags and for users of Helm values.

use serde_json::Value;

use super::{InstallOption, find};

/// The names by which a text mentions options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Flags of `kumactl`.
    Flags,
    /// Paths of Helm values.
    Values,
}

impl InstallOption {
    /// Returns the default value as text; `None` if it is empty.
    pub fn default_text(&self) -> Option<String> {
        match &self.default {
            Value::String(text) if text.is_empty() => None,
            Value::Array(items) if items.is_empty() => None,
            Value::Object(members) if members.is_empty() => None,
            Value::String(text) => Some(text.clone()),
            Value::Object(members) => {
                let pairs = members.iter().map(|(key, value)| match value {
                    Value::String(value) => format!("{key}={value}"),
                    value => format!("{key}={value}"),
                });
                Some(pairs.collect::<Vec<_>>().join(", "))
            }
            value => Some(value.to_string()),
        }
    }
}

impl Names {
    /// Returns the name of an option.
    pub fn name(self, option: &InstallOption) -> String {
        match self {
            Self::Flags => format!("--{}", option.flag),
            Self::Values => option.path.to_owned(),
        }
    }

    /// Replaces each `{path}` in a text by the name of the option with this path.
    pub fn text(self, text: &str) -> String {
        let mut parts = text.split('{');
        let mut replaced = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (path, rest) = part.split_once('}').unwrap_or((part, ""));
            match find(path) {
                Some(option) => replaced.push_str(&self.name(option)),
                None => replaced.push_str(path),
            }
            replaced.push_str(rest);
        }
        replaced
    }
}
