//! Keeps the plugin installed: installs it again after each change of the node's folders.

use std::io;
use std::time::Duration;

use crate::installer::Installer;
use crate::problem::Problem;
use crate::watch::FolderWatch;

/// Times of the supervisor.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Time between two checks if no change was noticed.
    pub recheck: Duration,
    /// The same, while the plugin cannot be installed.
    pub retry: Duration,
    /// Time in which further changes are awaited after a change.
    pub settle: Duration,
    /// Time between the removal of the entry and that of the program. A container runtime that has read the entry before
    /// its removal runs the program within this time.
    pub grace: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            recheck: Duration::from_mins(1),
            retry: Duration::from_secs(5),
            settle: Duration::from_millis(20),
            grace: Duration::from_secs(2),
        }
    }
}

/// Installs the plugin, and repairs the installation until `shutdown` completes. `check` tells whether the node can
/// redirect traffic. `report` gets the result of each installation and repair.
///
/// # Errors
/// If the folders of the node cannot be watched.
pub async fn keep_installed(
    installer: &mut Installer,
    intervals: &Intervals,
    check: impl Fn() -> Result<(), Problem>,
    mut report: impl FnMut(&Result<Vec<String>, Problem>),
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let watch = FolderWatch::new()?;
    let mut shutdown = std::pin::pin!(shutdown);
    let mut is_checked = false;
    loop {
        for folder in installer.watched_folders() {
            if let Err(error) = watch.add(&folder) {
                tracing::debug!(folder = %folder.display(), %error, "folder not watched");
            }
        }
        let checked = if is_checked { Ok(()) } else { check() };
        is_checked = checked.is_ok();
        let result = checked.and_then(|()| installer.install());
        report(&result);
        let pause = if result.is_ok() {
            intervals.recheck
        } else {
            intervals.retry
        };
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            changed = watch.changed() => changed?,
            () = tokio::time::sleep(pause) => continue,
        }
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = tokio::time::sleep(intervals.settle) => {}
        }
    }
}

/// Removes the plugin: first its entry, then its credentials and programs.
///
/// # Errors
/// If the entry cannot be removed, in which case everything else stays, or a file cannot be removed.
pub async fn remove(installer: &mut Installer, intervals: &Intervals) -> Result<(), Problem> {
    installer.remove_entry()?;
    tokio::time::sleep(intervals.grace).await;
    installer.remove_files()
}

#[cfg(test)]
mod tests;
