//! Kermode sidecar agent.

fn main() {}
