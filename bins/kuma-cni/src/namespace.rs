//! Runs functions in the network namespace of a pod.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Runs a function in the network namespace at a path. The function runs in a separate thread, because entering a
/// network namespace moves the calling thread into it.
pub(crate) fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(|| {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
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
