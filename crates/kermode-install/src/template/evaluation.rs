//! Evaluates templates for one installation.

use serde_json::Value;

use super::{Condition, Expression};
use crate::{Installation, configuration};

/// The installation and the list element to which the expressions of a template refer.
#[derive(Clone, Copy, Debug)]
struct Scope<'a> {
    /// The installation.
    installation: &'a Installation,
    /// Inside [`Expression::Each`]: key and element.
    element: Option<(&'a str, &'a Value)>,
}

/// Evaluates a template for an installation. `None` if the template stands for nothing.
pub(crate) fn evaluate(template: &Value, installation: &Installation) -> Option<Value> {
    let scope = Scope {
        installation,
        element: None,
    };
    scope.evaluate(template)
}

impl Scope<'_> {
    fn evaluate(&self, template: &Value) -> Option<Value> {
        if let Some(expression) = Expression::of(template) {
            return self.evaluate_expression(expression);
        }
        Some(match template {
            Value::Object(members) => members
                .iter()
                .filter_map(|(key, member)| Some((key.clone(), self.evaluate(member)?)))
                .collect(),
            Value::Array(items) => items.iter().flat_map(|item| self.evaluate_item(item)).collect(),
            scalar => scalar.clone(),
        })
    }

    /// Evaluates an item of an array, which may stand for several items.
    fn evaluate_item(&self, item: &Value) -> Vec<Value> {
        let Some(Expression::Each { option, item }) = Expression::of(item) else {
            return self.evaluate(item).into_iter().collect();
        };
        let evaluate_element = |key, element| {
            let scope = Scope {
                element: Some((key, element)),
                ..*self
            };
            scope.evaluate(&item)
        };
        match self.installation.value(&option) {
            Value::Array(elements) => elements
                .iter()
                .filter_map(|element| evaluate_element("", element))
                .collect(),
            Value::Object(elements) => {
                let mut elements: Vec<_> = elements.iter().collect();
                elements.sort_by_key(|(key, _)| key.as_str());
                elements
                    .into_iter()
                    .filter_map(|(key, element)| evaluate_element(key, element))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn evaluate_expression(&self, expression: Expression) -> Option<Value> {
        match expression {
            Expression::Option(path) => Some(self.installation.value(&path).clone()),
            Expression::WithoutSlash(path) => {
                let text = self.installation.text(&path);
                Some(text.strip_suffix('/').unwrap_or(text).into())
            }
            Expression::Namespace {} => Some(self.installation.namespace.as_str().into()),
            Expression::Text(parts) => {
                let parts = parts.iter().filter_map(|part| self.evaluate(part));
                let texts: Vec<String> = parts.map(|part| text_of(&part)).collect();
                Some(texts.concat().into())
            }
            Expression::If {
                condition,
                then,
                otherwise,
            } => {
                if is_met(&condition, self.installation) {
                    self.evaluate(&then)
                } else {
                    self.evaluate(&otherwise?)
                }
            }
            // Only arrays contain this expression.
            Expression::Each { .. } => None,
            Expression::Key {} => self.element.map(|(key, _)| key.into()),
            Expression::Item {} => self.element.map(|(_, element)| element.clone()),
            Expression::Configuration {} => Some(configuration::text(self.installation).into()),
            Expression::ConfigurationChecksum {} => Some(configuration::checksum(self.installation).into()),
        }
    }
}

/// Whether an installation meets a condition.
pub(crate) fn is_met(condition: &Condition, installation: &Installation) -> bool {
    let number = |path: &str| installation.value(path).as_i64().unwrap_or_default();
    match condition {
        Condition::Set(path) => match installation.value(path) {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
        },
        Condition::Equals(path, text) => installation.text(path) == text,
        Condition::EndsWith(path, end) => installation.text(path).ends_with(end.as_str()),
        Condition::GreaterThan(path, bound) => number(path) > *bound,
        Condition::LessThan(path, bound) => number(path) < number(bound),
        Condition::Not(condition) => !is_met(condition, installation),
        Condition::All(conditions) => conditions.iter().all(|condition| is_met(condition, installation)),
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
