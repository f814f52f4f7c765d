//! Kermode control plane.

fn main() {}
