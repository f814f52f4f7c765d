//! Binary of the control plane.

use std::process::ExitCode;

fn main() -> ExitCode {
    kuma_cp::main()
}
