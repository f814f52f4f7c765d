//! Runs a conformance corpus through the product's own code: corpus → cases → runner of the suite → comparison →
//! report.
//!
//! A corpus is a folder with one folder for each suite, which contains a `cases.json`. The cases name all
//! other files. To add a suite, implement [`suite::Runner`] in a module of its own and register it in
//! [`suite::registered`].

pub mod compare;
mod container_patch;
pub mod corpus;
mod crds;
pub mod deviation;
mod direct_access;
mod init_arguments;
mod injection;
mod injector;
mod install;
mod page_examples;
mod pod_lifecycle;
mod pod_to_dataplane;
pub mod report;
pub mod suite;
mod traffic;
mod webhook_match;
