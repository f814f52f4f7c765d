//! Programs of this machine: kumactl and kuma-cp outside of the cluster, and others in a network namespace of the
//! cluster.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Time within which a program must exit, after SIGTERM or after a start that must fail.
const EXIT_TIMEOUT: Duration = Duration::from_mins(1);

/// Runs a program and returns its standard output.
///
/// # Errors
/// The exit code is not 0; the error contains the standard error of the program.
pub(crate) async fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{} cannot be started: run make images", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} {}: {}",
            program.display(),
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns a command that runs a program of this machine in the network namespace of a process.
pub(crate) fn in_network_of(process: impl std::fmt::Display, program: &str) -> Command {
    in_namespace_of(process, "--net", program)
}

/// Returns a command that runs a program of this machine in the mount namespace of a process.
pub(crate) fn in_mounts_of(process: impl std::fmt::Display, program: &str) -> Command {
    in_namespace_of(process, "--mount", program)
}

/// `nsenter` replaces itself by the program, so signals to the child process reach the program.
fn in_namespace_of(process: impl std::fmt::Display, kind: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={process}"))
        .args([kind, "--", program]);
    command.kill_on_drop(true);
    command
}

/// Returns a command for a control plane outside of the cluster, with exactly this environment.
pub(crate) fn control_plane_command(program: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .arg("run")
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a program that must exit with status 1. Returns the last line of its standard error that is not blank, or of
/// its standard output if the standard error has no such line.
///
/// # Errors
/// The program keeps running, exits with another status, or prints nothing.
pub(crate) async fn run_expecting_failure(mut command: Command) -> Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = tokio::time::timeout(EXIT_TIMEOUT, command.output())
        .await
        .with_context(|| format!("{program} still runs after {EXIT_TIMEOUT:?}"))??;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.code() == Some(1),
        "{program} exited with {} instead of exit status 1; output: {text}",
        output.status
    );
    let last_line = text.lines().rfind(|line| !line.trim().is_empty());
    Ok(last_line
        .with_context(|| format!("{program} printed nothing"))?
        .to_owned())
}

/// Returns a port that is currently free at an IP address of this machine.
pub(crate) fn free_port(ip: &str) -> Result<u16> {
    let listener = TcpListener::bind(SocketAddr::new(ip.parse()?, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Stops a program with SIGTERM, as Kubernetes does, and checks that its exit code is 0.
pub(crate) async fn terminate(mut child: Child) -> Result<()> {
    let pid = child.id().context("the program has already ended")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    let status = tokio::time::timeout(EXIT_TIMEOUT, child.wait())
        .await
        .context("the program still runs after SIGTERM")??;
    ensure!(status.success(), "the program ended with {status} after SIGTERM");
    Ok(())
}
