//! Keeps the plugin installed: installs it again after each change of the node's folders.

use std::io;
use std::path::PathBuf;
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
    /// Time in which further changes are awaited after a change. While each change leads to a failure or to a repair, the
    /// time doubles up to `retry`: a failed write and a second process that undoes each repair are changes, too.
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
/// redirect traffic. `report` gets the result of each installation and repair. If the folders of the node cannot be
/// watched, changes are noticed only by the regular checks.
pub async fn keep_installed(
    installer: &mut Installer,
    intervals: &Intervals,
    check: impl Fn() -> Result<(), Problem>,
    report: impl FnMut(&Result<Vec<String>, Problem>),
    shutdown: impl Future<Output = ()>,
) {
    keep_installed_with(FolderWatch::new, installer, intervals, check, report, shutdown).await;
}

async fn keep_installed_with(
    open: impl Fn() -> io::Result<FolderWatch>,
    installer: &mut Installer,
    intervals: &Intervals,
    check: impl Fn() -> Result<(), Problem>,
    mut report: impl FnMut(&Result<Vec<String>, Problem>),
    shutdown: impl Future<Output = ()>,
) {
    let mut watch = OptionalWatch::default();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut is_checked = false;
    let mut settle = intervals.settle;
    loop {
        watch.add(&open, installer.watched_folders());
        let checked = if is_checked { Ok(()) } else { check() };
        is_checked = checked.is_ok();
        let result = match checked {
            Ok(()) => installer.install(),
            Err(problem) => {
                remove_earlier_entry(installer);
                Err(problem)
            }
        };
        report(&result);
        let pause = if result.is_ok() {
            intervals.recheck
        } else {
            intervals.retry
        };
        tokio::select! {
            () = &mut shutdown => return,
            () = watch.changed() => {}
            () = tokio::time::sleep(pause) => {
                settle = intervals.settle;
                continue;
            }
        }
        let is_quiet = result.is_ok_and(|changes| changes.is_empty());
        if !is_quiet {
            settle = (settle * 2).min(intervals.retry);
        }
        tokio::select! {
            () = &mut shutdown => return,
            () = tokio::time::sleep(settle) => {}
        }
    }
}

/// Removes the entry of an earlier process from a node that cannot redirect traffic. With the entry, the plugin would
/// let no injected Pod start, and no Pod at all once the token of the earlier process has expired.
fn remove_earlier_entry(installer: &mut Installer) {
    if let Err(problem) = installer.remove_entry() {
        tracing::warn!("the entry of an earlier process is not removed: {problem}");
    }
}

/// A watch of the node's folders, if the kernel has the capacity for one.
#[derive(Default)]
struct OptionalWatch {
    watch: Option<FolderWatch>,
    /// Whether the log says that there is no watch.
    is_reported: bool,
}

impl OptionalWatch {
    /// Watches folders. Without a watch, tries again to open one.
    fn add(&mut self, open: impl Fn() -> io::Result<FolderWatch>, folders: Vec<PathBuf>) {
        if self.watch.is_none() {
            match open() {
                Ok(watch) => (self.watch, self.is_reported) = (Some(watch), false),
                Err(error) => self.report(&error),
            }
        }
        let Some(watch) = &self.watch else {
            return;
        };
        for folder in folders {
            if let Err(error) = watch.add(&folder) {
                tracing::debug!(folder = %folder.display(), %error, "folder not watched");
            }
        }
    }

    /// Waits for a change. Never completes without a watch.
    async fn changed(&mut self) {
        if let Some(watch) = &self.watch {
            match watch.changed().await {
                Ok(()) => return,
                Err(error) => self.report(&error),
            }
            self.watch = None;
        }
        std::future::pending::<()>().await;
    }

    fn report(&mut self, error: &io::Error) {
        if !self.is_reported {
            tracing::warn!(
                %error,
                "folders of the node not watched, changes are noticed by regular checks only; raise the sysctl \
                 fs.inotify.max_user_instances of the node"
            );
        }
        self.is_reported = true;
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
