//! Command line tool of Kermode.

fn main() {}
