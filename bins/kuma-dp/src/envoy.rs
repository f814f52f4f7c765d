//! Running Envoy: its command line, its process, its admin interface.

pub(crate) mod admin;
pub(crate) mod arguments;
pub(crate) mod exec;
pub(crate) mod process;
