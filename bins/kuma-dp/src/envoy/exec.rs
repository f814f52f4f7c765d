//! `kuma-dp exec-envoy`: becomes Envoy after having tied itself to its parent's life.
//!
//! The kernel's parent-death signal is set by a process on itself and survives `exec`. Setting it between `fork` and
//! `exec` of the parent would need unsafe code; a step of our own between them does not.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::sys::{prctl, signal::Signal};
use nix::unistd::getppid;

use crate::cli::ExecArgs;

/// Returns only when it failed.
pub(crate) fn run(args: &ExecArgs) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("tying Envoy's life to kuma-dp's")?;
    // The parent may have ended before the line above; then nobody would ever send the signal.
    if getppid().as_raw() != args.parent {
        bail!("kuma-dp ended before Envoy was started");
    }
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("no program to run")
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| {
        format!(
            "Envoy cannot be run as {}; check KUMA_DATAPLANE_RUNTIME_BINARY_PATH",
            program.display()
        )
    })
}
