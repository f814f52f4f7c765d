//! Parts that the tests on a real Kubernetes share (`tests/e2e`, `tests/lifecycle`): kubectl, waits with time limits,
//! Deployments and Pods, and the demo program.

pub mod demo;
pub mod deployment;
pub mod kubectl;
pub mod local;
pub mod wait;
