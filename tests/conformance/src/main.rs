//! Runs a conformance corpus through the product's own code paths.

fn main() {}
