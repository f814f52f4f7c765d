//! Runs the cases of a conformance corpus with the product's code, and compares the results with Kuma's results: corpus
//! → cases → runner of the suite → comparison → report.
//!
//! A corpus is a folder with one folder for each suite. The folder of a suite contains `cases.json`, and the other
//! files that its cases name. To add a suite, implement [`suite::Runner`] in a new module, and add the runner to
//! [`suite::all_runners`].

mod cni_exclusion;
pub mod compare;
mod container_patch;
pub mod corpus;
mod crds;
mod dataplane;
pub mod deviation;
mod direct_access;
mod dns_name;
mod drain_sequence;
mod init_arguments;
mod injection;
mod injection_decision;
mod injector;
mod install;
mod pod_lifecycle;
mod pod_to_dataplane;
pub mod report;
pub mod suite;
mod traffic;
mod webhook_match;
mod xds;
