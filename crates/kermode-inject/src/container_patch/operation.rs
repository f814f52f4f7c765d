//! Applies one JSON patch operation (RFC 6902) to raw JSON. As extensions, `add` creates missing parents, and negative
//! indices count from the end.
//!
//! Size and depth of the result are bounded, because repeated `copy` operations grow a document exponentially.

use kermode_crds::{JsonPatchBlock, JsonPatchOp};
use serde_json::{Map, Value};

use crate::pointer;

/// Maximum number of JSON values in a container; a typical container has about a hundred.
const MAX_VALUES: usize = 10_000;
/// Maximum nesting depth of a container; Kubernetes' own types need about ten levels.
const MAX_DEPTH: usize = 48;
/// Maximum number of tokens in a path; a longer path would create values deeper than [`MAX_DEPTH`].
const MAX_PATH_TOKENS: usize = MAX_DEPTH;

/// Applies one operation to `document`, the JSON of a container. After an error, the document may be partly changed.
pub(super) fn apply(document: &mut Value, operation: &JsonPatchBlock) -> Result<(), String> {
    let path = parse_path(&operation.path)?;
    match operation.op {
        JsonPatchOp::Add => add(document, &path, parse_value(operation)?, MissingParents::Create)?,
        JsonPatchOp::Replace => *value_at(document, &path)? = parse_value(operation)?,
        JsonPatchOp::Remove => drop(remove(document, &path)?),
        JsonPatchOp::Move => {
            let from = parse_source(operation)?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(format!("cannot move {} into itself", pointer::join(&from)));
            }
            let value = remove(document, &from)?;
            add(document, &path, value, MissingParents::Reject)?;
        }
        JsonPatchOp::Copy => {
            let value = value_at(document, &parse_source(operation)?)?.clone();
            add(document, &path, value, MissingParents::Reject)?;
        }
    }
    check_bounds(document)
}

/// Parses the value of `add` and `replace`, which is JSON in a string.
pub(super) fn parse_value(operation: &JsonPatchBlock) -> Result<Value, String> {
    let Some(text) = &operation.value else {
        return Err("value is missing; it must be a string that contains JSON".to_owned());
    };
    serde_json::from_str(text).map_err(|error| {
        format!(
            "value is not valid JSON ({error}); a JSON string needs its own quotes, for example '\"100m\"'"
        )
    })
}

/// Parses the source of `move` and `copy`.
pub(super) fn parse_source(operation: &JsonPatchBlock) -> Result<Vec<String>, String> {
    match operation.from.as_deref() {
        None | Some("") => Err(format!("from is missing; {} requires it", operation.op.as_str())),
        Some(from) => parse_path(from),
    }
}

/// Parses a path into its tokens.
pub(super) fn parse_path(path: &str) -> Result<Vec<String>, String> {
    let tokens = pointer::tokens(path)?;
    if tokens.len() > MAX_PATH_TOKENS {
        return Err(format!("a path may have at most {MAX_PATH_TOKENS} parts"));
    }
    Ok(tokens)
}

/// Whether [`add`] creates the missing parents of a value or fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MissingParents {
    Create,
    Reject,
}

fn add(
    document: &mut Value,
    path: &[String],
    value: Value,
    missing_parents: MissingParents,
) -> Result<(), String> {
    let Some((last, ancestors)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    let mut parent = document;
    for (depth, token) in ancestors.iter().enumerate() {
        if missing_parents == MissingParents::Create {
            create_if_missing(parent, token, &path[depth + 1]);
        }
        parent = child(parent, token).ok_or_else(|| no_such_path(&path[..=depth]))?;
    }
    match parent {
        Value::Object(members) => {
            members.insert(last.clone(), value);
        }
        Value::Array(items) => {
            let index = insertion_index(last, items.len())?;
            items.insert(index, value);
        }
        _ => return Err(no_such_path(path)),
    }
    Ok(())
}

/// Creates the member `token` of `parent` if the member is missing or null. The new member is a list if `next`, the
/// token after `token`, is an index or `-`. Otherwise it is an object.
fn create_if_missing(parent: &mut Value, token: &str, next: &str) {
    let Value::Object(members) = parent else {
        return;
    };
    let member = members.entry(token.to_owned()).or_insert(Value::Null);
    if member.is_null() {
        *member = if next == "-" || parse_index(next).is_some() {
            Value::Array(Vec::new())
        } else {
            Value::Object(Map::new())
        };
    }
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, String> {
    let Some((last, ancestors)) = path.split_last() else {
        return Err("the whole container cannot be removed".to_owned());
    };
    let parent = value_at(document, ancestors)?;
    let removed = match parent {
        Value::Object(members) => members.remove(last),
        Value::Array(items) => existing_index(last, items.len()).map(|index| items.remove(index)),
        _ => None,
    };
    removed.ok_or_else(|| no_such_path(path))
}

fn value_at<'v>(document: &'v mut Value, path: &[String]) -> Result<&'v mut Value, String> {
    let mut value = document;
    for (depth, token) in path.iter().enumerate() {
        value = child(value, token).ok_or_else(|| no_such_path(&path[..=depth]))?;
    }
    Ok(value)
}

fn child<'v>(parent: &'v mut Value, token: &str) -> Option<&'v mut Value> {
    match parent {
        Value::Object(members) => members.get_mut(token),
        Value::Array(items) => existing_index(token, items.len()).and_then(|index| items.get_mut(index)),
        _ => None,
    }
}

fn no_such_path(path: &[String]) -> String {
    format!("there is no {}", pointer::join(path))
}

/// Parses a decimal index, possibly negative, without leading zeros.
fn parse_index(token: &str) -> Option<i64> {
    let digits = token.strip_prefix('-').unwrap_or(token);
    let is_index =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if is_index { token.parse().ok() } else { None }
}

fn existing_index(token: &str, len: usize) -> Option<usize> {
    resolve_index(parse_index(token)?, len).filter(|index| *index < len)
}

fn insertion_index(token: &str, len: usize) -> Result<usize, String> {
    if token == "-" {
        return Ok(len);
    }
    let index = parse_index(token).ok_or_else(|| format!("{token:?} is not an index of a list"))?;
    // Index -1 is the position after the last element.
    resolve_index(index, len + 1)
        .filter(|index| *index <= len)
        .ok_or_else(|| format!("index {index} is outside of a list of {len} elements"))
}

/// Converts an index to a position, which may be `len` or above. A negative index is added to `len`.
fn resolve_index(index: i64, len: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?),
    }
}

fn check_bounds(document: &Value) -> Result<(), String> {
    let mut pending = vec![(document, 1)];
    let mut count = 0;
    while let Some((value, depth)) = pending.pop() {
        count += 1;
        if depth > MAX_DEPTH {
            return Err(format!(
                "the container would be nested deeper than {MAX_DEPTH} levels"
            ));
        }
        if count + pending.len() > MAX_VALUES {
            return Err(format!("the container would have more than {MAX_VALUES} values"));
        }
        match value {
            Value::Object(members) => pending.extend(members.values().map(|member| (member, depth + 1))),
            Value::Array(items) => pending.extend(items.iter().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

/// Drops null members of objects, at any depth. [`check_bounds`] limits the recursion depth.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, member)| !member.is_null())
                .map(|(key, member)| (key, without_nulls(member)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
