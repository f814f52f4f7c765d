//! Shared by this crate's tests.

pub(crate) mod golden;
