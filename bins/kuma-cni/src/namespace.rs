//! Runs functions in the network namespace of a pod.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Runs a function in the network namespace at a path. The function runs in a separate thread, because entering a
/// network namespace moves the calling thread into it.
pub(crate) fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(|| {
        // Without the flag, a pipe would block.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)?;
        setns(file, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Runs a function in a new network namespace, which ends with the function.
pub(crate) fn run_in_new<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let result = thread::scope(|scope| scope.spawn(work).join());
    result.unwrap_or_else(|_| Err(io::Error::other("the thread in the network namespace panicked")))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn path_that_is_no_network_namespace_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR).expect("a pipe");
        let paths = [
            Path::new(""),
            Path::new("/nonexistent"),
            Path::new("/dev/null"),
            folder.path(),
            &pipe,
        ];
        for path in paths {
            let result = run_in(path, || ());
            assert!(result.is_err(), "{}", path.display());
        }
    }
}
