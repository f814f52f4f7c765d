//! The program `kumactl`. Its code is in the library, which tests of other crates use, too.

use std::process::ExitCode;

fn main() -> ExitCode {
    kumactl::main()
}
