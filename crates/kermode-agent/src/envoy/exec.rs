//! `kuma-dp exec-envoy`: replaces this process by Envoy. The kernel kills Envoy when the parent process, `kuma-dp run`,
//! ends.
//!
//! A process sets the kernel's parent-death signal on itself, and the signal survives `exec`. Setting it between the
//! parent's `fork` and `exec` would need unsafe code, so this intermediate program sets it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::sys::{prctl, signal::Signal};
use nix::unistd::getppid;

/// Replaces this process by `command`, a program and its arguments. Returns only on failure. `parent` is the process ID
/// of the caller.
pub fn exec(parent: i32, command: &[OsString]) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("setting the parent-death signal of Envoy")?;
    // If the parent ended before the line above, the kernel never sends the signal.
    if getppid().as_raw() != parent {
        bail!("kuma-dp ended before Envoy was started");
    }
    let Some((program, arguments)) = command.split_first() else {
        bail!("no program to run; exec-envoy expects a program and its arguments after `--`")
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| {
        format!(
            "Envoy cannot be run as {}; check KUMA_DATAPLANE_RUNTIME_BINARY_PATH",
            program.display()
        )
    })
}
