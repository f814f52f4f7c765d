//! `kumactl install`: manifests of the control plane. Arguments become settings, settings become objects,
//! objects become text; nothing here talks to a cluster.

mod args;
mod assignment;
mod config;
mod env_var;
mod manifests;
mod rbac;
mod settings;
mod webhooks;
mod workload;

#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::{output, yaml};

use args::ControlPlaneArgs;
use settings::Settings;

/// What can be installed.
#[derive(Debug, Subcommand)]
pub(crate) enum InstallCommand {
    /// Print the manifests of the control plane, ready for `kubectl apply -f -`.
    ///
    /// The output is complete and in the order in which it has to be applied: namespace, custom resource
    /// definitions, access rights, configuration, control plane, webhooks. It can be applied again at any
    /// time: the certificates that the control plane adds to its webhooks stay.
    ControlPlane(ControlPlaneArgs),
}

/// Prints what was asked for.
pub(crate) fn run(command: InstallCommand) -> Result<()> {
    match command {
        InstallCommand::ControlPlane(args) => output::result(&control_plane(args)?),
    }
}

/// The objects that `kumactl install control-plane` with these flags prints, in their order.
///
/// # Errors
/// For flags that the command refuses.
pub fn control_plane_objects(flags: &[&str]) -> Result<Vec<Value>> {
    let args = Alone::try_parse_from(["control-plane"].iter().chain(flags))?.args;
    manifests::all(&Settings::try_from(args)?)
}

/// The flags without the commands before them.
#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    args: ControlPlaneArgs,
}

fn control_plane(args: ControlPlaneArgs) -> Result<String> {
    let settings = Settings::try_from(args)?;
    yaml::documents(&manifests::all(&settings)?)
}
