//! Waits for changes of folders.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;

/// Size of the buffer for the kernel's records of changes. The records themselves are not used.
const BUFFER_SIZE: usize = 4096;

/// Watches folders for files that are created, replaced, changed or removed.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: Inotify,
    /// The same file descriptor. Like a pipe, it becomes readable.
    records: Receiver,
}

impl FolderWatch {
    /// Starts without folders. Requires a runtime of tokio.
    ///
    /// # Errors
    /// If the kernel has no capacity for another watch.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let records = Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, records })
    }

    /// Watches a folder. Does nothing if the folder is watched already.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be watched.
    pub fn add(&self, folder: &Path) -> io::Result<()> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        self.inotify.add_watch(folder, flags)?;
        Ok(())
    }

    /// Waits for a change. Changes since the last call count.
    ///
    /// # Errors
    /// If the kernel reports an error.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            self.records.readable().await?;
            match self.records.try_read(&mut [0; BUFFER_SIZE]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
