//! Templates of Kubernetes objects: JSON with expressions that depend on the options of an installation.
//!
//! A template has two readers, so that the manifests of `kumactl install` and of the Helm chart cannot differ:
//! [`evaluate`] replaces the expressions by their values, and `chart` prints them as expressions of Helm.

mod evaluation;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub(crate) use evaluation::{evaluate, is_met};

/// A part of a template that depends on the installation. In JSON, an expression is an object whose only key starts with
/// `$`. Options are named by their [path](crate::InstallOption::path).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Expression {
    /// Value of an option.
    #[serde(rename = "$option")]
    Option(String),
    /// Value of an option that is a text, without a slash at its end.
    #[serde(rename = "$withoutSlash")]
    WithoutSlash(String),
    /// Namespace of the control plane.
    #[serde(rename = "$namespace")]
    Namespace {},
    /// Text that consists of these parts: texts, and expressions that yield a text, number or boolean.
    #[serde(rename = "$text")]
    Text(Vec<Value>),
    /// `then` if the condition is met, else `otherwise`. Without `otherwise`, the member or item that the expression
    /// stands for is left out.
    #[serde(rename = "$if")]
    If {
        /// The condition.
        condition: Condition,
        /// Template for a condition that is met.
        then: Value,
        /// Template for a condition that is not met.
        otherwise: Option<Value>,
    },
    /// One item for each element of an option that is a list or map. The expression is an item of an array.
    #[serde(rename = "$each")]
    Each {
        /// Path of the option.
        option: String,
        /// Template of an item.
        item: Value,
    },
    /// In [`Expression::Each`] of a map: the key of the element.
    #[serde(rename = "$key")]
    Key {},
    /// In [`Expression::Each`]: the element of the list, or the value of the element of the map.
    #[serde(rename = "$item")]
    Item {},
    /// Text of the control plane's configuration file.
    #[serde(rename = "$configuration")]
    Configuration {},
    /// SHA-256 of the control plane's configuration file, in hexadecimal digits.
    #[serde(rename = "$checksum")]
    ConfigurationChecksum {},
}

/// A condition on options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Condition {
    /// The option is neither empty nor `false`.
    Set(String),
    /// The option has this text as value.
    Equals(String, String),
    /// The text of the option ends with this text.
    EndsWith(String, String),
    /// The number of the option is greater than this number.
    GreaterThan(String, i64),
    /// The number of the first option is less than the number of the second option.
    LessThan(String, String),
    /// The condition is not met.
    Not(Box<Self>),
    /// All conditions are met.
    All(Vec<Self>),
}

/// A template of one object, or of none if a condition is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectTemplate {
    /// Condition of the object; `None` if the object is always there.
    pub(crate) condition: Option<Condition>,
    /// Template of the object.
    pub(crate) object: Value,
}

// === impl Expression ===

impl Expression {
    /// Returns the expression that this part of a template is; `None` for all other JSON.
    pub(crate) fn of(template: &Value) -> Option<Self> {
        let members = template.as_object()?;
        let is_expression = members.len() == 1 && members.keys().all(|key| key.starts_with('$'));
        is_expression.then(|| Self::deserialize(template).ok()).flatten()
    }
}

impl From<Expression> for Value {
    fn from(expression: Expression) -> Self {
        serde_json::to_value(expression).unwrap_or_default()
    }
}

// === impl ObjectTemplate ===

impl ObjectTemplate {
    /// An object that is there if the condition is met.
    pub(crate) fn conditional(condition: Condition, object: Value) -> Self {
        Self {
            condition: Some(condition),
            object,
        }
    }
}

impl From<Value> for ObjectTemplate {
    fn from(object: Value) -> Self {
        Self {
            condition: None,
            object,
        }
    }
}

// === Constructors ===

/// Value of an option.
pub(crate) fn option(path: &str) -> Value {
    Expression::Option(path.to_owned()).into()
}

/// Value of an option that is a text, without a slash at its end.
pub(crate) fn without_slash(path: &str) -> Value {
    Expression::WithoutSlash(path.to_owned()).into()
}

/// Namespace of the control plane.
pub(crate) fn namespace() -> Value {
    Expression::Namespace {}.into()
}

/// Text that consists of these parts, some of which are expressions.
pub(crate) fn text<const N: usize>(parts: [Value; N]) -> Value {
    Expression::Text(parts.into()).into()
}

/// `then` if the condition is met, else nothing.
pub(crate) fn only_if(condition: Condition, then: Value) -> Value {
    Expression::If {
        condition,
        then,
        otherwise: None,
    }
    .into()
}

/// `then` if the condition is met, else `otherwise`.
pub(crate) fn either(condition: Condition, then: Value, otherwise: Value) -> Value {
    Expression::If {
        condition,
        then,
        otherwise: Some(otherwise),
    }
    .into()
}

/// One item for each element of an option.
pub(crate) fn each(path: &str, item: Value) -> Value {
    Expression::Each {
        option: path.to_owned(),
        item,
    }
    .into()
}

/// The element of [`each`].
pub(crate) fn item() -> Value {
    Expression::Item {}.into()
}

/// The key of the element of [`each`].
pub(crate) fn key() -> Value {
    Expression::Key {}.into()
}

/// The option is neither empty nor `false`.
pub(crate) fn is_set(path: &str) -> Condition {
    Condition::Set(path.to_owned())
}

/// The condition is not met.
pub(crate) fn not(condition: Condition) -> Condition {
    Condition::Not(Box::new(condition))
}

/// All conditions are met.
pub(crate) fn all<const N: usize>(conditions: [Condition; N]) -> Condition {
    Condition::All(conditions.into())
}

/// Full name of an image: registry, repository and tag, which are options below `path`. The common registry applies if
/// the image has none of its own.
pub(crate) fn image(path: &str) -> Value {
    let own_registry = format!("{path}.registry");
    let registry = either(
        is_set(&own_registry),
        without_slash(&own_registry),
        without_slash("global.image.registry"),
    );
    let repository = option(&format!("{path}.repository"));
    text([
        registry,
        "/".into(),
        repository,
        ":".into(),
        option(&format!("{path}.tag")),
    ])
}

/// Adds the members of `additions`, an object, to `object`.
pub(crate) fn extend(object: &mut Value, additions: Value) {
    if let (Value::Object(members), Value::Object(additions)) = (object, additions) {
        members.extend(additions);
    }
}

/// `imagePullSecrets` of a Pod, as a member of its specification.
pub(crate) fn image_pull_secrets() -> Value {
    let path = "global.imagePullSecrets";
    let secrets = json!([each(path, json!({"name": item()}))]);
    json!({"imagePullSecrets": only_if(is_set(path), secrets)})
}

/// Merges `changes` into `values`: maps are merged, `null` removes a key, and other values replace what is there.
pub(crate) fn merge(values: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (key, change) in changes {
        match (values.get_mut(key), change) {
            (_, Value::Null) => {
                values.remove(key);
            }
            (Some(Value::Object(existing)), Value::Object(change)) => merge(existing, change),
            _ => {
                values.insert(key.clone(), change.clone());
            }
        }
    }
}
