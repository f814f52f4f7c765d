//! The control plane's program.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// glibc keeps what thousands of streams leave behind of their first, large messages, and what it hands out is spread
/// over pages that are then never given back.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    kuma_cp::main()
}
