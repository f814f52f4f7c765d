//! `kumactl validate`: runs the checks of the control plane's webhooks before a resource is applied.

mod container_patch;
mod diff;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use container_patch::ContainerPatchArgs;

/// Subcommands of `kumactl validate`.
#[derive(Debug, Subcommand)]
pub(crate) enum ValidateCommand {
    /// Check ContainerPatches, and print the changes that they make to the containers of a Pod.
    #[command(name = "containerpatch", visible_alias = "container-patch")]
    ContainerPatch(ContainerPatchArgs),
}

/// Runs a subcommand.
pub(crate) fn run(command: &ValidateCommand) -> Result<ExitCode> {
    match command {
        ValidateCommand::ContainerPatch(args) => container_patch::run(args),
    }
}
