//! Reasons for which the plugin is not installed on a node, or cannot run there.

use std::io;
use std::path::{Path, PathBuf};

use crate::conflist::InvalidNetwork;

/// Reason for which the plugin is not installed, or for which the container runtime cannot run it. Its text names the
/// object, the problem and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The node has no network configuration.
    #[error(
        "{} contains no valid network configuration: install the cluster's network plugin, or select its folder with \
         --cni-net-dir; kuma-cni waits for it",
        .0.display()
    )]
    NoNetwork(PathBuf),
    /// The plugin cannot be added to the network configuration.
    #[error("kuma-cni cannot be added to {}: {reason}", path.display())]
    InvalidNetwork {
        /// Path of the configuration.
        path: PathBuf,
        /// Problem of the configuration.
        reason: InvalidNetwork,
    },
    /// A file of the node is larger than any network configuration.
    #[error("{} is larger than {limit} bytes, so it is not a network configuration", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Largest accepted size.
        limit: u64,
    },
    /// The configuration is a symbolic link to a folder that the installer does not see.
    #[error(
        "{} is a symbolic link out of its folder: replace the link by a file, or select the folder of its target with \
         --cni-net-dir",
        .0.display()
    )]
    LinkOutside(PathBuf),
    /// The program of a chained plugin is missing, so the container runtime can start no Pod.
    #[error(
        "{} has no program {}, which the network configuration of this node names, so no Pod can start: install the \
         plugin, or link its program into this folder if the container runtime finds it in another one",
        folder.display(),
        programs.join(", ")
    )]
    ChainedPluginMissing {
        /// Folder of the node with plugins.
        folder: PathBuf,
        /// Names of the missing programs.
        programs: Vec<String>,
    },
    /// A folder of the node cannot be written.
    #[error(
        "{} cannot be written because it is read-only: mount it writable on this node, or select another folder with \
         --cni-net-dir and --cni-bin-dir",
        .0.display()
    )]
    ReadOnly(PathBuf),
    /// The disk is full.
    #[error("{} cannot be written because the disk of this node is full: free space on it", .0.display())]
    DiskFull(PathBuf),
    /// The service account's token or the API server's roots cannot be read.
    #[error("the credentials {} cannot be read: {source}; check the volumes of this Pod", path.display())]
    Credentials {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The kernel cannot redirect traffic.
    #[error("this node cannot redirect traffic: {0}")]
    Kernel(String),
    /// Another error of the operating system.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// Verb of the failed operation.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
}

impl Problem {
    /// Returns the problem of an operation on a file.
    pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path),
            _ => Self::File { action, path, source },
        }
    }

    /// Returns the reason of the Event about this problem.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoNetwork(_) => "NetworkConfigurationMissing",
            Self::InvalidNetwork { .. } | Self::TooLarge { .. } | Self::LinkOutside(_) => {
                "NetworkConfigurationInvalid"
            }
            Self::ChainedPluginMissing { .. } => "ChainedPluginMissing",
            Self::ReadOnly(_) => "NodeFolderReadOnly",
            Self::DiskFull(_) => "NodeDiskFull",
            Self::Credentials { .. } => "CredentialsMissing",
            Self::Kernel(_) => "KernelUnsupported",
            Self::File { .. } => "NodeFileFailed",
        }
    }
}
