//! Installation of the CNI plugin `kuma-cni` on a node, by the installer, which runs on each node.
//!
//! ```text
//! folder of network configurations ──network──▶ file of the runtime ──conflist──▶ text with the plugin ──files──▶ file
//! token of the service account ──credentials──▶ kubeconfig
//! ```
//!
//! The words within the arrows are modules. `conflist` is pure. `installer` connects the modules; `supervisor` calls
//! the installer again after each change of the node's folders.

pub mod conflist;
mod credentials;
mod files;
mod installer;
mod network;
mod problem;
mod supervisor;
mod watch;

pub use installer::{Installer, Settings};
pub use problem::Problem;
pub use supervisor::{Intervals, keep_installed, remove};
pub use watch::FolderWatch;
