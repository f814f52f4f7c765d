//! Reads and writes files of the node. A reader never sees a partly written file.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::problem::Problem;

/// Beginning of the names of temporary files. No container runtime reads such files.
const TEMPORARY_PREFIX: &str = ".kuma-cni-";

/// Largest accepted size of a network configuration.
pub(crate) const MAX_NETWORK_SIZE: u64 = 1024 * 1024;

/// Number of exchanges after which a file that another process replaces all the time is left to that process.
const MAX_EXCHANGES: usize = 100;

/// Reads a file of bounded size as text.
pub(crate) fn read_text(path: &Path) -> Result<String, Problem> {
    let failed = |source| Problem::file("read", path, source);
    // A pipe would block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_NETWORK_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_NETWORK_SIZE {
        return Err(Problem::TooLarge {
            path: path.to_owned(),
            limit: MAX_NETWORK_SIZE,
        });
    }
    String::from_utf8(bytes).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Creates or replaces a file atomically.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Problem> {
    let temporary = write_temporary(path, content, mode)?;
    rename(&temporary, path)
}

/// Replaces the content of a file atomically if its content is still `old`. Returns whether it was.
///
/// The kernel exchanges the new file and the present one, so a change of another process between reading and writing is
/// noticed, and the file of the other process is put back.
pub(crate) fn replace(path: &Path, old: &str, new: &str) -> Result<bool, Problem> {
    let failed = |source| Problem::file("write", path, source);
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    let temporary = write_temporary(path, new.as_bytes(), mode)?;
    let replaced = exchange_expecting(&temporary, path, old, new);
    let _ = fs::remove_file(&temporary);
    sync_folder(path);
    replaced
}

/// Exchanges `temporary`, whose content is `new`, and `path`. If the content of `path` was not `old`, exchanges them
/// back. Another process may replace `path` between the exchanges, too; its file then stays.
fn exchange_expecting(temporary: &Path, path: &Path, old: &str, new: &str) -> Result<bool, Problem> {
    let failed = |error: Errno| Problem::file("write", path, error.into());
    let (mut expected, mut put) = (old.to_owned(), new.to_owned());
    for attempt in 0..MAX_EXCHANGES {
        match renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {}
            // The file system cannot exchange files.
            Err(Errno::EINVAL | Errno::ENOSYS) if attempt == 0 => {
                let is_expected = read_text(path)? == old;
                if is_expected {
                    rename(temporary, path)?;
                }
                return Ok(is_expected);
            }
            Err(error) => return Err(failed(error)),
        }
        // A file of another process that cannot be read is put back, too.
        let taken = read_text(temporary).unwrap_or_default();
        if taken == expected {
            return Ok(attempt == 0);
        }
        (expected, put) = (put, taken);
    }
    Ok(false)
}

/// Removes a file, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), Problem> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Problem::file("remove", path, error)),
        _ => Ok(()),
    }
}

/// Renames a file, and replaces a file of the new name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Problem> {
    fs::rename(from, to).map_err(|source| {
        if is_temporary(from) {
            let _ = fs::remove_file(from);
        }
        Problem::file("write", to, source)
    })?;
    sync_folder(to);
    Ok(())
}

/// Removes the temporary files that an earlier process left.
pub(crate) fn remove_temporary_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(TEMPORARY_PREFIX)
}

/// Writes a temporary file in the folder of `path`. A failure leaves no file.
fn write_temporary(path: &Path, content: &[u8], mode: u32) -> Result<PathBuf, Problem> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!("{TEMPORARY_PREFIX}{name}.{}", std::process::id()));
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        // The umask limits the mode of a new file.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Problem::file("write", path, source)
    })?;
    Ok(temporary)
}

/// Makes a rename durable. A failure has no consequence before the node crashes.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent() {
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}
