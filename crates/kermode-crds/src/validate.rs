//! Validation of custom resources beyond their schema, see `docs/reference/resources.md#validation`.
//!
//! The validating webhook calls this module and reports all problems at once. Dataplanes are read as JSON, because
//! deserialization stops at the first problem.

mod dataplane;
mod mesh;
mod tags;
mod traffic_permission;

use std::fmt;

pub use dataplane::dataplane;
pub use mesh::mesh;
pub use traffic_permission::traffic_permission;

/// A problem of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// Problem, and the remedy if it is not obvious.
    pub message: String,
}

impl Problem {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Splits the text of an error into field and message. Texts without a field are about `spec`.
    pub(crate) fn of(error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        match text.split_once(": ") {
            Some((field, message)) => Self::new(field, message),
            None => Self::new("spec", text),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
