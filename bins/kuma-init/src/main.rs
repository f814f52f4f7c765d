//! Sets up transparent proxying in a pod.

fn main() {}
