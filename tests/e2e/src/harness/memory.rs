//! Memory limits of containers: uses memory in the cgroup of a container until the kernel kills a process of the
//! container. Works with cgroup v1, where the kernel kills one process, and v2, where the kubelet lets it kill all.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::Command;

/// Memory that remains below the limit, in bytes: usually enough for kuma-dp, and not enough for Envoy, which needs 14 MB.
const REMAINDER: u64 = 8 << 20;
/// Size of the blocks that are written, in bytes. The limit is a multiple of it.
const BLOCK: u64 = 1 << 20;

/// Folder of a memory cgroup.
struct MemoryCgroup {
    folder: PathBuf,
    /// Limit in bytes.
    limit: u64,
}

/// Uses memory in the container of this process, up to 8 MiB below the memory limit of the container, and frees it. The
/// kernel kills processes of the container meanwhile, and perhaps all of them. Returns the limit in bytes.
///
/// The memory is a file in a tmpfs, so that no process has it and is killed for it.
///
/// # Errors
/// The container has no memory limit, or the file cannot be written.
pub(crate) async fn exhaust_memory_of(process: Pid) -> Result<u64> {
    let cgroup = MemoryCgroup::of(process)?;
    let size = cgroup
        .limit
        .checked_sub(REMAINDER)
        .with_context(|| format!("the memory limit of {} bytes is too low", cgroup.limit))?;
    let folder = tempfile::tempdir_in("/dev/shm")?;
    // The kernel charges the file to the cgroup of the process that writes it.
    let script = format!(
        "echo $$ > {}/cgroup.procs
         exec dd if=/dev/zero of={}/file bs={BLOCK} count={}",
        cgroup.folder.display(),
        folder.path().display(),
        size / BLOCK
    );
    let output = Command::new("sh")
        .args(["-e", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .await
        .context("sh cannot be started")?;
    folder.close()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    // The kernel kills dd when no other process is left in the cgroup: kuma-dp may have been killed, too.
    let is_killed = output.status.signal() == Some(Signal::SIGKILL as i32);
    ensure!(
        output.status.success() || is_killed,
        "{size} bytes cannot be written: {}: {errors}",
        output.status
    );
    Ok(cgroup.limit)
}

impl MemoryCgroup {
    /// Returns the memory cgroup of a process.
    fn of(process: Pid) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        let candidates = text.lines().filter_map(memory_folder);
        let mut limited = candidates.filter_map(|(folder, file)| {
            let limit = std::fs::read_to_string(folder.join(file)).ok()?;
            Some((folder, limit))
        });
        let (folder, limit) = limited
            .next()
            .with_context(|| format!("no memory cgroup is mounted for {text}"))?;
        let limit = limit.trim().parse();
        let limit = limit.with_context(|| format!("{} has no limit", folder.display()))?;
        Ok(Self { folder, limit })
    }
}

/// Returns the folder of a memory cgroup and the name of the file with its limit, from a line of `/proc/PID/cgroup`:
/// `ID:CONTROLLERS:PATH`. Without controllers, the line is about cgroup v2.
fn memory_folder(line: &str) -> Option<(PathBuf, &'static str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (tree, file) = if controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    Some((Path::new(tree).join(path.trim_start_matches('/')), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_a_memory_cgroup_depends_on_the_version() {
        let folder = |line| memory_folder(line).map(|(folder, file)| folder.join(file));
        assert_eq!(
            folder("4:cpu,memory:/pods/a"),
            Some("/sys/fs/cgroup/memory/pods/a/memory.limit_in_bytes".into())
        );
        assert_eq!(
            folder("0::/pods/a"),
            Some("/sys/fs/cgroup/pods/a/memory.max".into())
        );
        assert_eq!(folder("9:name=systemd:/pods/a"), None);
    }
}
