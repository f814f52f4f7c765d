//! CNI plugin that sets up transparent proxying in a pod's network namespace, instead of the init container, and its
//! installer.
//!
//! ```text
//! CNI_ARGS ──environment──▶ pod's name ──pods──▶ Pod ──decision──▶ annotations ──netfilter──▶ nftables rules
//! stdin ──network──▶ kubeconfig, by which `pods` reaches the API server
//! ```
//!
//! The words within the arrows are modules of [`plugin`].
//!
//! The container runtime executes the plugin once for each pod and operation, without arguments, chained after the plugin
//! that creates the interfaces. The rules are deleted with the pod's network namespace. With arguments, the program is the
//! installer, which runs on each node ([`agent`]).

mod agent;
mod namespace;
mod plugin;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        agent::main()
    } else {
        plugin::main()
    }
}
