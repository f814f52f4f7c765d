//! `kumactl install`: prints the manifests of the control plane, or writes the Helm chart. The flags are converted to an
//! installation, which `kermode-install` renders. The command contacts no cluster.

mod args;
mod chart;
mod observability;

#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kermode_manifests::yaml;
use serde_json::Value;

use crate::output;

use args::ControlPlaneArgs;
pub(crate) use args::DEFAULT_NAMESPACE;
use chart::ChartArgs;
use observability::ObservabilityArgs;

/// Subcommands of `kumactl install`.
#[derive(Debug, Subcommand)]
pub(crate) enum InstallCommand {
    /// Print the manifests of the control plane for `kubectl apply -f -`.
    ///
    /// The output is complete and in the order in which it must be applied: namespace, custom resource definitions,
    /// access rights, configuration, control plane, webhooks. The manifests can be applied again at any time; the CA
    /// certificates that the control plane adds to its webhooks are kept.
    ControlPlane(ControlPlaneArgs),
    /// Write the Helm chart of the control plane to a folder.
    ///
    /// The chart has the same options and installs the same objects as `kumactl install control-plane`. Only the
    /// namespace is not part of it by default: `helm install --create-namespace` creates it.
    Chart(ChartArgs),
    /// Print alert rules, scrape configuration and dashboards for `kubectl apply -f -`.
    ///
    /// By default, the objects are for the Prometheus Operator and for Grafana.
    Observability(ObservabilityArgs),
}

/// Runs a subcommand.
pub(crate) fn run(command: InstallCommand) -> Result<()> {
    match command {
        InstallCommand::ControlPlane(args) => output::print_result(&yaml::documents(&objects(&args)?)?),
        InstallCommand::Chart(args) => chart::write(&args),
        InstallCommand::Observability(args) => {
            output::print_result(&yaml::documents(&observability::objects(args)?)?)
        }
    }
}

/// Returns the objects that `kumactl install control-plane` prints for these flags, in the printed order.
///
/// # Errors
/// For flags that the command rejects.
pub fn control_plane_objects(flags: &[&str]) -> Result<Vec<Value>> {
    objects(&Flags::try_parse_from(["control-plane"].iter().chain(flags))?.args)
}

/// Command line that consists only of the flags of `kumactl install control-plane`.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: ControlPlaneArgs,
}

fn objects(args: &ControlPlaneArgs) -> Result<Vec<Value>> {
    Ok(args.installation()?.objects()?)
}
