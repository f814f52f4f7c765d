//! Envoy configuration: generated resources and the bootstrap.
