//! The program `kumactl`. Its code is in the library, which tests of other crates use.

use std::process::ExitCode;

fn main() -> ExitCode {
    kumactl::main()
}
