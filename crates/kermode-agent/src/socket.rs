//! Unix socket between Envoy and the agent.
//!
//! The socket carries the private key, so only the agent's user can access the socket's directory. An abstract socket
//! would need no directory, but every container of the Pod could connect to it: the containers share the network
//! namespace.

use std::fs::{DirBuilder, read_dir, remove_dir_all};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tokio::net::UnixListener;

/// Limit on the length of the path, in bytes: `sockaddr_un` has room for 108 bytes, including a terminating zero.
const MAX_PATH_LENGTH: usize = 107;

/// Start of the name of the socket's directory. The process ID of the agent follows.
const DIRECTORY_PREFIX: &str = "kuma-dp-";
/// Name of the socket in its directory.
const FILE_NAME: &str = "agent.sock";
/// Path of the bound socket. Dropping this value removes the directory of the socket.
#[derive(Debug)]
pub struct AgentSocket {
    directory: PathBuf,
    path: PathBuf,
}

impl AgentSocket {
    /// Binds `<parent>/kuma-dp-<process ID>/agent.sock`. Replaces the directory of an earlier process with the same ID.
    ///
    /// # Errors
    /// Fails when `parent` does not exist or is not writable, or the path is too long.
    pub fn bind(parent: &Path) -> anyhow::Result<(Self, UnixListener)> {
        let directory = parent.join(format!("{DIRECTORY_PREFIX}{}", std::process::id()));
        let path = directory.join(FILE_NAME);
        let remedy =
            "check KUMA_DATAPLANE_RUNTIME_SOCKET_DIR: with a read-only root file system a volume is needed";
        let path_text = path.display().to_string();
        ensure!(
            path.as_os_str().len() <= MAX_PATH_LENGTH,
            "socket path {path_text} is longer than {MAX_PATH_LENGTH} bytes; {remedy}"
        );
        match remove_dir_all(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| {
                    format!(
                        "removing {}, which an earlier process left; {remedy}",
                        directory.display()
                    )
                });
            }
            _ => {}
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("creating {}; {remedy}", directory.display()))?;
        let socket = Self { directory, path };
        let listener =
            UnixListener::bind(&socket.path).with_context(|| format!("binding {path_text}; {remedy}"))?;
        Ok((socket, listener))
    }

    /// Returns the path, for Envoy's bootstrap.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the paths of the sockets that agents have bound below `parent`. Each killed agent leaves its socket behind.
///
/// # Errors
/// Fails when `parent` cannot be read.
pub(crate) fn paths(parent: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = read_dir(parent).with_context(|| {
        format!(
            "reading {}; check KUMA_DATAPLANE_RUNTIME_SOCKET_DIR",
            parent.display()
        )
    })?;
    let directories = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX));
    Ok(directories
        .map(|directory| directory.path().join(FILE_NAME))
        .collect())
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        if let Err(error) = remove_dir_all(&self.directory) {
            tracing::debug!(%error, "socket directory was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn socket_is_private_and_replaces_that_of_an_earlier_process_and_is_removed_on_drop() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join(format!("kuma-dp-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("agent.sock"), "").unwrap();
        let (socket, _listener) = AgentSocket::bind(parent.path()).unwrap();
        let mode = directory.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(socket);
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn error_names_the_missing_directory_and_its_setting() {
        let parent = tempfile::tempdir().unwrap();
        let error = AgentSocket::bind(&parent.path().join("absent")).err().unwrap();
        let text = format!("{error:#}");
        assert!(
            text.contains("absent") && text.contains("KUMA_DATAPLANE_RUNTIME_SOCKET_DIR"),
            "{text}"
        );
    }
}
