//! Envoy as a child process.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Running Envoy. Dropping this value kills Envoy. If this process ends without the drop, the kernel kills Envoy.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
}

impl Envoy {
    /// Starts Envoy in its own process group, so that signals to the agent's group do not reach Envoy.
    pub fn start(binary: &Path, arguments: Vec<OsString>) -> anyhow::Result<Self> {
        // The kernel sends the parent-death signal when the *thread* that started the child ends. The main thread
        // starts the child and lives as long as the process; the runtime has no other thread.
        let child = Command::new("/proc/self/exe")
            .args(["exec-envoy", "--parent", &std::process::id().to_string(), "--"])
            .arg(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting Envoy through /proc/self/exe")?;
        Ok(Self { child })
    }

    /// Waits until Envoy ends. Returns Envoy's exit code, or 128 plus the number of the signal that ended Envoy.
    /// Cancel-safe.
    pub(crate) async fn wait(&mut self) -> io::Result<u8> {
        Ok(exit_code(self.child.wait().await?))
    }

    /// Sends a signal. Has no effect on a process that has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            tracing::warn!(%signal, %error, "signalling Envoy failed");
        }
    }
}

/// Returns the exit code by which a shell would report the status.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_is_passed_on_and_a_signal_becomes_128_plus_its_number() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
