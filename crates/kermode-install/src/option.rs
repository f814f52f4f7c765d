//! Options of an installation. Each is declared once, in [`list`]; the flag of `kumactl install control-plane`, the value
//! of the Helm chart with its schema, and the reference follow from the declaration.

mod assignment;
mod env_var;
mod flag;
mod format;
mod list;
mod schema;
mod text;

use std::sync::LazyLock;

use serde_json::{Value, json};

pub use assignment::InvalidAssignment;
pub use format::Format;
pub use text::Names;

/// An option.
#[derive(Clone, Debug)]
pub struct InstallOption {
    /// Path of the Helm value, with dots between the levels. A value that Kuma's chart also has keeps Kuma's path.
    pub path: &'static str,
    /// Flag of `kumactl`, without dashes. A flag that Kuma also has keeps Kuma's name.
    pub flag: &'static str,
    /// Group of options with the same subject.
    pub group: &'static str,
    /// Type and form of the value.
    pub kind: Kind,
    /// Default value.
    pub default: Value,
    /// Default value of the chart, if it differs.
    pub chart_default: Option<Value>,
    /// Meaning of the option. `{path}` stands for another option.
    pub meaning: &'static str,
}

/// Type and form of the value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A number.
    Integer {
        /// Least value.
        minimum: i64,
        /// Greatest value.
        maximum: i64,
    },
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A text.
    Text(Format),
    /// A text, or an empty text.
    OptionalText(Format),
    /// A list of texts.
    Texts(Format),
    /// A map of texts.
    Map {
        /// Form of the keys.
        key: Format,
        /// Form of the values.
        value: Format,
    },
    /// A map of texts to one of these texts.
    Choices {
        /// Form of the keys.
        key: Format,
        /// Allowed values.
        choices: &'static [&'static str],
    },
    /// Environment variables: a map of names to texts.
    EnvironmentVariables,
    /// Settings of the control plane's configuration file.
    Configuration,
    /// Tolerations of a Pod, as in its specification.
    Tolerations,
}

static OPTIONS: LazyLock<Vec<InstallOption>> = LazyLock::new(list::all);

/// Returns all options, in the order of the reference.
pub fn options() -> &'static [InstallOption] {
    &OPTIONS
}

/// Returns the option with this path.
pub(crate) fn find(path: &str) -> Option<&'static InstallOption> {
    options().iter().find(|option| option.path == path)
}

/// Returns the values of all options for `kumactl`, nested by their paths.
pub(crate) fn defaults() -> Value {
    let mut values = json!({});
    for option in options() {
        set(&mut values, option.path, option.default.clone());
    }
    values
}

/// Sets the value at a path. Missing maps are created.
pub(crate) fn set(values: &mut Value, path: &str, value: Value) {
    let mut place = values;
    for key in path.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[key];
    }
    *place = value;
}

/// Returns the JSON pointer of a path.
pub(crate) fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}
