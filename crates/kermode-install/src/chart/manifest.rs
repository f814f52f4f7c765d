//! Prints templates of objects as YAML with expressions of Helm.
//!
//! Expressions are written in two ways: scalars as a pipeline on the line of their key, such as
//! `{{ toJson $.Values.controlPlane.replicas }}`, and all others as `if` or `range` around lines.

use std::fmt::Write;

use serde_json::Value;

use crate::Kind;
use crate::option::find;
use crate::template::{Condition, Expression};

/// Number of spaces by which the members of a map are indented.
const STEP: usize = 2;

/// Prints a template as a YAML document that is there if the condition is met.
pub(super) fn document(when: Option<&Condition>, object: &Value) -> String {
    let document = format!("---\n{}", members(object));
    match when {
        Some(when) => format!("{{{{- if {} }}}}\n{document}{{{{- end }}}}\n", condition(when)),
        None => document,
    }
}

/// Prints the members of a template that is a map.
pub(super) fn members(template: &Value) -> String {
    let mut printer = Printer::default();
    printer.members(0, template);
    printer.text
}

/// Prints a condition as a pipeline that yields a boolean.
pub(super) fn condition(when: &Condition) -> String {
    match when {
        Condition::Set(path) if is_boolean(path) => value(path),
        Condition::Set(path) => format!("not (empty {})", value(path)),
        Condition::Not(when) => match when.as_ref() {
            Condition::Set(path) if !is_boolean(path) => format!("empty {}", value(path)),
            when => format!("not {}", operand(when)),
        },
        Condition::Equals(path, text) => format!("eq {} {}", value(path), literal(text)),
        Condition::EndsWith(path, end) => format!("hasSuffix {} {}", literal(end), value(path)),
        Condition::GreaterThan(path, bound) => format!("gt (int {}) {bound}", value(path)),
        Condition::LessThan(path, bound) => format!("lt (int {}) (int {})", value(path), value(bound)),
        Condition::All(conditions) => {
            let conditions: Vec<String> = conditions.iter().map(operand).collect();
            format!("and {}", conditions.join(" "))
        }
    }
}

/// Prints a condition as an operand, in parentheses if it consists of several words.
fn operand(when: &Condition) -> String {
    let condition = condition(when);
    if condition.contains(' ') {
        format!("({condition})")
    } else {
        condition
    }
}

fn is_boolean(path: &str) -> bool {
    find(path).is_some_and(|option| option.kind == Kind::Boolean)
}

/// Returns a text as a literal of a template.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// Returns the reference to the value of an option.
fn value(path: &str) -> String {
    format!("$.Values.{path}")
}

/// Prints a template as a pipeline; `None` if it is neither a scalar nor the value of an option.
fn pipeline(template: &Value) -> Option<String> {
    let Some(expression) = Expression::of(template) else {
        return match template {
            Value::String(text) => Some(literal(text)),
            Value::Bool(_) | Value::Number(_) => Some(template.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        };
    };
    match expression {
        Expression::Option(path) => Some(value(&path)),
        Expression::WithoutSlash(path) => Some(format!("(trimSuffix \"/\" {})", value(&path))),
        Expression::Namespace {} => Some("$.Release.Namespace".to_owned()),
        Expression::Text(parts) => concatenation(&parts),
        Expression::If {
            condition: when,
            then,
            otherwise: Some(otherwise),
        } => {
            let (then, otherwise) = (pipeline(&then)?, pipeline(&otherwise)?);
            Some(format!("(ternary {then} {otherwise} {})", operand(&when)))
        }
        Expression::Key {} => Some("$key".to_owned()),
        Expression::Item {} => Some("$item".to_owned()),
        Expression::ConfigurationChecksum {} => {
            Some("(include \"kermode.configuration\" $ | sha256sum)".to_owned())
        }
        Expression::If { otherwise: None, .. } | Expression::Each { .. } | Expression::Configuration {} => {
            None
        }
    }
}

/// Prints the concatenation of texts and scalars.
fn concatenation(parts: &[Value]) -> Option<String> {
    let mut format = String::new();
    let mut arguments = String::new();
    for part in parts {
        if let Value::String(text) = part {
            format.push_str(&text.replace('%', "%%"));
        } else {
            format.push_str("%v");
            _ = write!(arguments, " {}", pipeline(part)?);
        }
    }
    Some(format!("(printf {}{arguments})", literal(&format)))
}

/// Writer of YAML.
#[derive(Default)]
struct Printer {
    text: String,
}

impl Printer {
    /// Writes the members of a map, each on lines of its own.
    fn members(&mut self, indent: usize, template: &Value) {
        let mut members: Vec<_> = template.as_object().into_iter().flatten().collect();
        members.sort_by_key(|(key, _)| key.as_str());
        for (key, member) in members {
            let key = format!("{}:", scalar(key));
            self.entry(indent, indent + STEP, &key, member);
        }
    }

    /// Writes a member of a map or an item of a list after its start: the key, or a dash. Nested lines are indented by
    /// `nested` spaces.
    fn entry(&mut self, indent: usize, nested: usize, start: &str, template: &Value) {
        if let Some(pipeline) = Expression::of(template).and_then(|_| pipeline(template)) {
            self.line(indent, &format!("{start} {{{{ toJson {pipeline} }}}}"));
            return;
        }
        match Expression::of(template) {
            Some(Expression::If {
                condition: when,
                then,
                otherwise,
            }) => {
                self.directive(indent, &format!("if {}", condition(&when)));
                self.entry(indent, nested, start, &then);
                if let Some(otherwise) = otherwise {
                    self.directive(indent, "else");
                    self.entry(indent, nested, start, &otherwise);
                }
                self.directive(indent, "end");
            }
            Some(Expression::Each { option, item }) => {
                self.directive(indent, &format!("range $key, $item := {}", value(&option)));
                self.entry(indent, nested, start, &item);
                self.directive(indent, "end");
            }
            Some(Expression::Configuration {}) => {
                let text = format!("{{{{- include \"kermode.configuration\" $ | nindent {nested} }}}}");
                self.line(indent, &format!("{start} |-\n{text}"));
            }
            _ => self.literal_entry(indent, nested, start, template),
        }
    }

    fn literal_entry(&mut self, indent: usize, nested: usize, start: &str, template: &Value) {
        match template {
            Value::Object(members) if !members.is_empty() && start == "-" => self.map_item(indent, template),
            Value::Object(members) if !members.is_empty() => {
                self.line(indent, start);
                self.members(nested, template);
            }
            Value::Array(items) if !items.is_empty() => {
                self.line(indent, start);
                // As kubectl does, lists are not indented more than their key.
                let of_items = if start == "-" { nested } else { indent };
                for item in items {
                    self.entry(of_items, of_items + STEP, "-", item);
                }
            }
            Value::String(text) => self.line(indent, &format!("{start} {}", scalar(text))),
            other => self.line(indent, &format!("{start} {other}")),
        }
    }

    /// Writes an item of a list that is a map. Its first line starts with the dash, if no condition applies to this line.
    fn map_item(&mut self, indent: usize, template: &Value) {
        let start = self.text.len();
        self.members(indent + STEP, template);
        let first = start + indent;
        if self.text[start..].trim_start().starts_with("{{") {
            self.text.insert_str(start, &format!("{}-\n", " ".repeat(indent)));
        } else {
            self.text.replace_range(first..=first, "-");
        }
    }

    fn line(&mut self, indent: usize, text: &str) {
        _ = writeln!(self.text, "{}{text}", " ".repeat(indent));
    }

    /// Writes a directive that leaves no empty line.
    fn directive(&mut self, indent: usize, text: &str) {
        self.line(indent, &format!("{{{{- {text} }}}}"));
    }
}

/// Writes a literal text as a scalar of YAML: without quotes if it can only be read as a text, else as JSON.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-_./".contains(character));
    // Words that YAML 1.1 reads as a boolean or null.
    let is_reserved = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
        .contains(&text.to_ascii_lowercase().as_str());
    if is_plain && !is_reserved {
        text.to_owned()
    } else {
        literal(text).replace("{{", "{{ \"{{\" }}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::template::{each, either, is_set, item, namespace, not, only_if, option, text};

    #[test]
    fn literal_objects_are_printed_as_yaml() {
        let object = json!({
            "a": {"b": [1, "x y", "yes", {"c": [], "d": {"e": null}}, ["f"]]},
            "g": "{{ x }}", "h": "/x/y.z",
        });
        let expected = "a:\n  b:\n  - 1\n  - \"x y\"\n  - \"yes\"\n  - c: []\n    d:\n      e: null\n  -\n    - f\n\
                        g: \"{{ \"{{\" }} x }}\"\nh: /x/y.z\n";
        assert_eq!(members(&object), expected);
    }

    #[test]
    fn expressions_are_printed_as_directives_and_pipelines() {
        let object = json!({
            "a": option("x.y"),
            "b": text(["100%".into(), namespace()]),
            "c": either(is_set("x"), "1".into(), option("y")),
            "d": only_if(is_set("x"), json!({"e": 1})),
            "f": [each("z", json!({"g": item()}))],
            "h": either(not(is_set("x")), json!({"i": 1}), json!([2])),
            "j": only_if(not(is_set("cni.enabled")), json!([])),
        });
        let expected = "\
a: {{ toJson $.Values.x.y }}
b: {{ toJson (printf \"100%%%v\" $.Release.Namespace) }}
c: {{ toJson (ternary \"1\" $.Values.y (not (empty $.Values.x))) }}
{{- if not (empty $.Values.x) }}
d:
  e: 1
{{- end }}
f:
{{- range $key, $item := $.Values.z }}
- g: {{ toJson $item }}
{{- end }}
{{- if empty $.Values.x }}
h:
  i: 1
{{- else }}
h:
- 2
{{- end }}
{{- if not $.Values.cni.enabled }}
j: []
{{- end }}
";
        assert_eq!(members(&object), expected);
    }
}
