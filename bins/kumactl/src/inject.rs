//! `kumactl inject`: manifests in, manifests with sidecars out, or an explanation. The decision is that of the control
//! plane's webhook, made by the same crate; nothing here talks to a cluster.

pub(crate) mod config;
mod explanation;
mod manifests;
pub(crate) mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{documents, output};

use config::SettingsArgs;
use manifests::{Injector, Manifests, Workload};
use world::World;

/// Exit code for Pods that are refused.
const REFUSED: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a file cannot be read or means nothing
  2  wrong flags
  3  a Pod is refused; nothing is printed but the reasons";

/// The flags.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct InjectArgs {
    /// Manifests as YAML or JSON; - is the standard input. Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets,
    /// Jobs, CronJobs, and Lists of them get sidecars, anything else is passed through as it is.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Namespaces, Meshes and ContainerPatches of the cluster; repeatable. Those among the manifests count too.
    /// Without any Mesh, the Mesh default is taken to exist.
    #[arg(long, value_name = "FILE")]
    objects: Vec<PathBuf>,

    /// Namespace of manifests that name none.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,

    /// Print how it is decided, step by step, and not the result.
    #[arg(long)]
    explain: bool,

    /// The CA that sidecars check the control plane's certificate against, PEM.
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,

    #[command(flatten)]
    settings: SettingsArgs,
}

/// Does it.
pub(crate) fn run(args: &InjectArgs) -> Result<ExitCode> {
    let config = config::load(&args.settings)?;
    let ca_pem = config.ca_pem(args.ca_cert.as_deref())?;
    let documents = documents::read(&args.file)?;
    let mut objects = documents::objects(&documents);
    for file in &args.objects {
        objects.extend(documents::objects(&documents::read(file)?));
    }
    let world = World::new(&objects, config.system_namespace())?;
    let injector = Injector {
        config: &config,
        world: &world,
        ca_pem: &ca_pem,
        namespace: &args.namespace,
    };
    let manifests = injector.inject(documents)?;
    if args.explain {
        output::result(&explanation::text(&manifests.workloads))?;
    } else {
        report(&manifests, &ca_pem);
        if !manifests.is_refused() {
            output::result(&manifests.text)?;
        }
    }
    Ok(if manifests.is_refused() {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Says aloud what the manifests themselves do not.
fn report(manifests: &Manifests, ca_pem: &str) {
    for workload in &manifests.workloads {
        for warning in workload.warnings() {
            output::notice("Warning", &format!("{}: {warning}", workload.name));
        }
        if let Err(refusal) = &workload.explanation.result {
            output::notice("Refused", &format!("{}: {refusal}", workload.name));
        }
    }
    if ca_pem.is_empty() && manifests.workloads.iter().any(Workload::is_injected) {
        let text = "KUMA_CONTROL_PLANE_CA_CERT is left empty: to run the result, name the control plane's CA with --ca-cert";
        output::notice("Warning", text);
    }
}

#[cfg(test)]
mod tests;
