//! What is wrong with resources that people write, beyond what their schema tells (BEHAVIOUR section 8).
//!
//! Pure: the validating webhook asks, and answers with all problems at once. Objects are read as the JSON they are,
//! since a typed reading would stop at the first wrong member and hide the rest.

mod dataplane;
mod mesh;
mod tags;
mod traffic_permission;

use std::fmt;

pub use dataplane::dataplane;
pub use mesh::mesh;
pub use traffic_permission::traffic_permission;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a path into the object.
    pub field: String,
    /// What, and where it is not plain, what to do.
    pub message: String,
}

impl Problem {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl Problem {
    /// Of an error whose text begins with the field.
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
