//! Helpers of the tests of this crate: inputs in YAML, resources as JSON, and the real Envoy.

#![allow(dead_code, reason = "each test binary uses some of the helpers")]

pub(crate) mod access_log;
pub(crate) mod certificates;
pub(crate) mod envoy;
pub(crate) mod input;
pub(crate) mod process;
pub(crate) mod readable;
pub(crate) mod secrets;
pub(crate) mod sidecar;
