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

/// A running Envoy. It is killed when this is dropped, and by the kernel when this process ends in any other way.
pub(crate) struct Envoy {
    child: Child,
}

impl Envoy {
    /// Starts Envoy in a process group of its own, so that signals meant for this process do not reach it.
    pub(crate) fn start(binary: &Path, arguments: Vec<OsString>) -> anyhow::Result<Self> {
        // This must run on a thread that lives as long as the process: the kernel sends the parent-death signal when
        // the *thread* that started the child ends. The runtime has the main thread only.
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

    /// Waits for its end; the exit code as a shell would give it. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> io::Result<u8> {
        Ok(exit_code(self.child.wait().await?))
    }

    /// Sends a signal; a process that has already ended is no error.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else {
            return;
        };
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            tracing::warn!(%signal, %error, "signalling Envoy failed");
        }
    }
}

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
    fn exit_codes_are_passed_on_and_signals_become_128_and_their_number() {
        assert_eq!(exit_code(ExitStatus::from_raw(0)), 0);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
