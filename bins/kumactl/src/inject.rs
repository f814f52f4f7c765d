//! `kumactl inject`: prints manifests with sidecars, or an explanation of the decisions. It injects with the code of
//! the control plane's webhook, through `kermode-manifests`, and contacts no cluster.

pub(crate) mod config;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use kermode_manifests::{ClusterObjects, InjectedManifests, Injector, WorkloadOutcome, documents};

use crate::output;

use config::ConfigArgs;

/// Exit code if a Pod is denied.
const EXIT_DENIED: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a file cannot be read or is not valid
  2  wrong flags
  3  a Pod is denied; only the reasons are printed";

/// Flags of `kumactl inject`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct InjectArgs {
    /// Manifests as YAML or JSON; - is the standard input. Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets,
    /// ReplicationControllers, Jobs, CronJobs, and Lists of them are injected. Other objects are printed unchanged.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Manifests of Namespaces, Meshes, ContainerPatches and Nodes of the cluster, in addition to those in --file;
    /// repeatable. Without any Mesh, the Mesh default is assumed to exist.
    #[arg(long, value_name = "FILE")]
    objects: Vec<PathBuf>,

    /// Namespace of objects without a namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,

    /// Print the steps of each decision in place of the manifests.
    #[arg(long)]
    explain: bool,

    /// CA certificate (PEM) with which sidecars verify the control plane.
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the command.
pub(crate) fn run(args: &InjectArgs) -> Result<ExitCode> {
    let config = config::load(&args.config)?;
    let ca_pem = config::ca_pem(&config, args.ca_cert.as_deref())?;
    let documents = documents::read(&args.file)?;
    let mut objects = documents::objects(&documents);
    for file in &args.objects {
        objects.extend(documents::objects(&documents::read(file)?));
    }
    let cluster = ClusterObjects::new(&objects, config.system_namespace())?;
    let injector = Injector {
        config: &config,
        cluster: &cluster,
        ca_pem: &ca_pem,
        namespace: &args.namespace,
    };
    let manifests = injector.inject(documents)?;
    if args.explain {
        output::print_result(&kermode_explain::injections_text(&manifests.outcomes))?;
    } else {
        print_notices(&manifests, &ca_pem);
        if !manifests.contains_denial() {
            output::print_result(&manifests.text)?;
        }
    }
    Ok(if manifests.contains_denial() {
        ExitCode::from(EXIT_DENIED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Prints warnings and the reasons of denials to the standard error.
fn print_notices(manifests: &InjectedManifests, ca_pem: &str) {
    for workload in &manifests.outcomes {
        for warning in workload.warnings() {
            output::print_notice("Warning", &format!("{}: {warning}", workload.name));
        }
        if let Err(denial) = &workload.explanation.result {
            output::print_notice("Denied", &format!("{}: {denial}", workload.name));
        }
    }
    if ca_pem.is_empty() && manifests.outcomes.iter().any(WorkloadOutcome::is_injected) {
        let text = "the sidecars have an empty KUMA_CONTROL_PLANE_CA_CERT: run the command again with --ca-cert and the CA certificate of the control plane, and apply that output";
        output::print_notice("Warning", text);
    }
}

#[cfg(test)]
mod tests;
