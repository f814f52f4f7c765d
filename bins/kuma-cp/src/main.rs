//! The control plane's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuma_cp::main()
}
