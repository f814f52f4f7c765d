//! Library of the program `kuma-cni`: the decision which pods get rules. Tests of other crates use the library.

pub mod decision;
