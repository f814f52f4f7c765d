//! `kumactl validate`: checks a resource as the control plane's webhook would, before it is applied.

mod container_patch;
mod diff;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use container_patch::ContainerPatchArgs;

/// What can be checked.
#[derive(Debug, Subcommand)]
pub(crate) enum ValidateCommand {
    /// Check ContainerPatches, and show what they change in the containers of a Pod.
    #[command(name = "containerpatch", visible_alias = "container-patch")]
    ContainerPatch(ContainerPatchArgs),
}

/// Checks what was asked for.
pub(crate) fn run(command: &ValidateCommand) -> Result<ExitCode> {
    match command {
        ValidateCommand::ContainerPatch(args) => container_patch::run(args),
    }
}
