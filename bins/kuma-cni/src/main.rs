//! CNI plugin that sets up transparent proxying.

fn main() {}
