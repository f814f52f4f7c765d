//! `kumactl dataplane`: prints the Dataplanes that the control plane would write for Pods, or explains them. The
//! command uses the control plane's conversion and contacts no cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kermode_k8s::convert::ConvertSettings;
use kermode_k8s::offline::{self, NoDataplane, PLACEHOLDER_ADDRESS, PodOutcome};
use serde_json::Value;

use kermode_manifests::{documents, yaml};

use crate::output;

/// Exit code if a Pod cannot be converted.
const EXIT_INVALID: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a file cannot be read or is not valid
  2  wrong flags
  3  a Pod cannot be converted; the Dataplanes of the other Pods are printed";

/// Flags of `kumactl dataplane`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataplaneArgs {
    /// Manifests of Pods and of their Services, ReplicaSets, Jobs and Namespaces, as YAML or JSON; repeatable; - is the
    /// standard input. From a cluster: kubectl get pods,services,replicasets,jobs,namespaces -o yaml. Other objects are
    /// ignored.
    #[arg(short, long, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Namespace of objects without a namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,

    /// Name of the control plane's zone.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,

    /// Print the source of each inbound and tag, and the dropped labels, in place of the Dataplanes.
    #[arg(long)]
    explain: bool,
}

/// Runs the command.
pub(crate) fn run(args: &DataplaneArgs) -> Result<ExitCode> {
    let mut objects = Vec::new();
    for file in &args.file {
        objects.extend(documents::objects(&documents::read(file)?));
    }
    let outcomes = convert_pods(&objects, args)?;
    if args.explain {
        output::print_result(&kermode_explain::dataplanes_text(&outcomes))?;
    } else {
        outcomes.iter().for_each(print_notices);
        let dataplanes: Vec<Value> = outcomes
            .iter()
            .filter_map(|outcome| outcome.dataplane.as_ref().ok().cloned())
            .collect();
        output::print_result(&yaml::documents(&dataplanes)?)?;
    }
    let is_invalid = |outcome: &PodOutcome| matches!(outcome.dataplane, Err(NoDataplane::Invalid(_)));
    Ok(if outcomes.iter().any(is_invalid) {
        ExitCode::from(EXIT_INVALID)
    } else {
        ExitCode::SUCCESS
    })
}

fn convert_pods(objects: &[Value], args: &DataplaneArgs) -> Result<Vec<PodOutcome>> {
    let zone = args.zone.as_deref().map(Into::into);
    Ok(offline::convert_pods(
        objects,
        &args.namespace,
        &ConvertSettings { zone },
    )?)
}

/// Prints to the standard error why a Pod has no Dataplane, or the assumptions and warnings about its Dataplane.
fn print_notices(outcome: &PodOutcome) {
    let pod = &outcome.pod;
    if let Err(reason) = &outcome.dataplane {
        return output::print_notice("No Dataplane", &format!("{pod}: {reason}"));
    }
    if outcome.has_placeholder_address {
        output::print_notice(
            "Assumed",
            &format!("{pod} has no IP yet: {PLACEHOLDER_ADDRESS} is used in its place"),
        );
    }
    for warning in &outcome.warnings {
        output::print_notice("Warning", &format!("{pod}: {warning}"));
    }
}

#[cfg(test)]
mod tests;
