//! Manifests of Kubernetes objects: read from files, injected without a cluster, written as YAML.
//!
//! `kumactl` and `kermode-install` use this crate. `kermode-inject`, which the control plane's webhook also uses,
//! decides on injection and builds the patch.

mod cluster;
pub mod documents;
mod injector;
pub mod yaml;

use std::path::PathBuf;

pub use cluster::{ClusterObjects, NamespaceMetadata};
pub use injector::{InjectedManifests, Injector, WorkloadOutcome};

/// Reason why manifests cannot be read, injected or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Reading a file failed.
    #[error("cannot read {}", .file.display())]
    Read {
        /// The file; `-` is the standard input.
        file: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file contains a document that is not YAML.
    #[error("{}", .file.display())]
    File {
        /// The file; `-` is the standard input.
        file: PathBuf,
        /// The problem of the document.
        source: Box<Self>,
    },
    /// A document is not YAML.
    #[error("the document from line {line} on is not valid YAML")]
    Yaml {
        /// First line of the document.
        line: usize,
        /// The problem, with its position in the document.
        source: serde_saphyr::Error,
    },
    /// An object does not have the form of its kind.
    #[error("{object}")]
    Object {
        /// Kind and name of the object. For a Namespace, the text continues with the field and its expected form.
        object: String,
        /// The first problem.
        source: serde_json::Error,
    },
    /// The patch of the injector does not apply to the manifest.
    #[error("{object}: the injector's patch does not apply")]
    Patch {
        /// Kind, namespace and name of the object.
        object: String,
        /// The operation that failed.
        source: json_patch::PatchError,
    },
    /// An object cannot be written as YAML.
    #[error("cannot write an object as YAML")]
    Write(#[from] serde_saphyr::ser::Error),
}
