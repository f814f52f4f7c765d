//! `kumactl explain`: explains a Pod, Deployment or Namespace of a cluster or of files. `kermode-explain` composes the
//! explanation; this module collects the objects.

mod files;
mod live;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kermode_explain::{Explanation, ObservedCluster, explain_deployment, explain_namespace, explain_pod};

use crate::cluster::{self, CLUSTER_FLAGS, ClusterArgs, ClusterClient, Resource};
use crate::output::{self, Format};

/// Exit code if something is wrong with the object.
const EXIT_FINDINGS: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  done, nothing is wrong
  1  the cluster, an object or a file cannot be read
  2  wrong flags
  3  something is wrong with the object: the section Problems is not empty";

/// Subcommands of `kumactl explain`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Explain a Pod: why it has a sidecar or none, ContainerPatches, inbounds and tags, the sidecar's state, termination.
    Pod(ObjectArgs),
    /// Explain a Deployment: the injection of its Pod template, its Pods, and why it creates none.
    Deployment(ObjectArgs),
    /// Explain a Namespace: whether it requests injection, and which of its Pods have a sidecar.
    Namespace(NamespaceArgs),
}

/// Flags of `kumactl explain` for a namespaced object.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ObjectArgs {
    /// Namespace and name of the object, or its name alone. It may be left out if --file contains one object of the kind.
    #[arg(value_name = "[NAMESPACE/]NAME", required_unless_present = "file")]
    object: Option<String>,

    /// Namespace of the object, and of objects in files without a namespace. By default, the namespace of the context,
    /// and with --file the namespace default.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    source: SourceArgs,
}

/// Flags of `kumactl explain namespace`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct NamespaceArgs {
    /// Name of the Namespace. It may be left out if --file contains one Namespace.
    #[arg(value_name = "NAME", required_unless_present = "file")]
    name: Option<String>,

    #[command(flatten)]
    source: SourceArgs,
}

/// Flags for the source of the objects, and for the output.
#[derive(Args, Clone, Debug)]
struct SourceArgs {
    /// Read the objects from a file in place of a cluster, as YAML or JSON; repeatable; - is the standard input. Useful
    /// are Pods, Deployments, ReplicaSets, Jobs, Services, Namespaces, Nodes, Events, Dataplanes, Meshes,
    /// ContainerPatches, the MutatingWebhookConfiguration and the ConfigMap kuma-control-plane-config.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = CLUSTER_FLAGS)]
    file: Vec<PathBuf>,

    /// With --file: configuration file of the control plane.
    #[arg(long, value_name = "FILE", requires = "file")]
    config: Option<PathBuf>,

    /// With --file: version of the API server. By default, a version that supports native sidecars.
    #[arg(long, value_name = "MAJOR.MINOR", requires = "file")]
    kubernetes_version: Option<String>,

    /// Namespace of the control plane. By default, the Namespace with the label kuma.io/system-namespace.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    control_plane_namespace: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Namespace and name of an object; empty for a Namespace.
struct ObjectName {
    namespace: String,
    name: String,
}

/// Runs a subcommand.
pub(crate) fn run(command: &ExplainCommand) -> Result<ExitCode> {
    let source = command.source();
    let explanation = if source.file.is_empty() {
        cluster::run(explain_live(command))?
    } else {
        explain_files(command)?
    };
    let text = output::formatted(source.output, &explanation, || explanation.to_text())?;
    output::print_result(&text)?;
    Ok(if explanation.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FINDINGS)
    })
}

async fn explain_live(command: &ExplainCommand) -> Result<Explanation> {
    let source = command.source();
    let client = ClusterClient::connect(&source.cluster).await?;
    let object = command.object_name(client.default_namespace());
    let object = object.context("the name of the object is missing")?;
    let control_plane_namespace = source.control_plane_namespace.as_deref();
    let namespace = match command {
        ExplainCommand::Namespace(_) => &object.name,
        _ => &object.namespace,
    };
    let reader = live::Reader::new(&client, namespace, control_plane_namespace).await?;
    let cluster = match command {
        ExplainCommand::Pod(_) => reader.pod(&object.name).await,
        ExplainCommand::Deployment(_) => reader.deployment(&object.name).await,
        ExplainCommand::Namespace(_) => reader.namespace().await,
    }?;
    explain(command, &cluster, &object)
}

fn explain_files(command: &ExplainCommand) -> Result<Explanation> {
    let source = command.source();
    let default_namespace = match command {
        ExplainCommand::Namespace(_) => None,
        ExplainCommand::Pod(args) | ExplainCommand::Deployment(args) => args.namespace.as_deref(),
    };
    let default_namespace = default_namespace.unwrap_or("default");
    let cluster = files::read(source, default_namespace)?;
    let object = match command.object_name(default_namespace) {
        Some(object) => object,
        None => files::only_object(&cluster, command.resource().kind)?,
    };
    explain(command, &cluster, &object)
}

fn explain(command: &ExplainCommand, cluster: &ObservedCluster, object: &ObjectName) -> Result<Explanation> {
    let ObjectName { namespace, name } = object;
    Ok(match command {
        ExplainCommand::Pod(_) => explain_pod(cluster, namespace, name)?,
        ExplainCommand::Deployment(_) => explain_deployment(cluster, namespace, name)?,
        ExplainCommand::Namespace(_) => explain_namespace(cluster, name)?,
    })
}

// === impl ExplainCommand ===

impl ExplainCommand {
    fn source(&self) -> &SourceArgs {
        match self {
            Self::Pod(args) | Self::Deployment(args) => &args.source,
            Self::Namespace(args) => &args.source,
        }
    }

    fn resource(&self) -> Resource {
        match self {
            Self::Pod(_) => Resource::POD,
            Self::Deployment(_) => Resource::DEPLOYMENT,
            Self::Namespace(_) => Resource::NAMESPACE,
        }
    }

    /// Returns the object that the command line names; `None` if it names none.
    fn object_name(&self, default_namespace: &str) -> Option<ObjectName> {
        match self {
            Self::Namespace(args) => args.name.clone().map(|name| ObjectName {
                namespace: String::new(),
                name,
            }),
            Self::Pod(args) | Self::Deployment(args) => {
                let object = args.object.as_deref()?;
                let of_flag = args.namespace.as_deref().unwrap_or(default_namespace);
                let (namespace, name) = object.split_once('/').unwrap_or((of_flag, object));
                Some(ObjectName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
        }
    }
}
