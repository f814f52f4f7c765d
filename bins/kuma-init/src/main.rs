//! The program `kuma-init`. Its code is in the library, which tests of other crates use.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuma_init::main()
}
