//! RPC by which the sidecar of a removed endpoint follows its removal.

pub mod service;
