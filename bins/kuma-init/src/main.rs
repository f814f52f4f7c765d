//! The program `kuma-init`; all of it is in the library beside it, where tests of other crates reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuma_init::main()
}
