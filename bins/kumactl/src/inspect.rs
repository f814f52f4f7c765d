//! `kumactl inspect dataplane`: the state of one sidecar, read from Envoy's admin interface by a port-forward with the
//! rights of the user. `kermode-explain` makes the reports; this module collects responses and objects.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kermode_explain::inspect::{
    Certificates, Clusters, Configuration, Permissions, Statistics, Summary, admin_port, summary,
};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{self, ClusterArgs, ClusterClient, PodHttp, PodPort, Resource, Selection};
use crate::control_plane::system_namespace;
use crate::output::{self, Format};

/// Maximum size of a response of Envoy. The configuration of a sidecar with 1,000 services has about 5 MB.
const MAX_RESPONSE: usize = 128 * 1024 * 1024;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the cluster or the sidecar cannot be read
  2  wrong flags";

/// Subcommands of `kumactl inspect`.
#[derive(Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// Inspect the sidecar of a Pod: without a flag, a summary.
    Dataplane(DataplaneArgs),
}

/// Flags of `kumactl inspect dataplane`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DataplaneArgs {
    /// Namespace and name of the Dataplane, which are those of its Pod, or its name alone.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    dataplane: String,

    /// Namespace of the Dataplane. By default, the namespace of the context.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    #[command(flatten)]
    topic: Topic,

    /// With --stats: all statistics that have changed since Envoy's start.
    #[arg(long, requires = "stats")]
    all: bool,

    /// With --stats: all statistics whose name contains a match of this regular expression (RE2).
    #[arg(long, value_name = "REGEX", requires = "stats", conflicts_with = "all")]
    filter: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What to print.
#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
#[allow(clippy::struct_excessive_bools, reason = "clap sets at most one of the flags")]
struct Topic {
    /// The resources of the configuration with versions and rejections; with -o yaml or json, Envoy's whole configuration
    /// without keys.
    #[arg(long)]
    config: bool,

    /// The clusters with their endpoints and why an endpoint gets no requests.
    #[arg(long)]
    clusters: bool,

    /// The certificates: SPIFFE IDs, serial numbers and validity. No keys.
    #[arg(long)]
    certs: bool,

    /// The MeshTrafficPermissions that apply to each inbound, in the order in which they decide.
    #[arg(long)]
    permissions: bool,

    /// Requests, errors, denials, durations and connections of each inbound and outbound.
    #[arg(long)]
    stats: bool,
}

/// Runs a subcommand.
pub(crate) fn run(command: &InspectCommand) -> Result<ExitCode> {
    let InspectCommand::Dataplane(args) = command;
    output::print_result(&cluster::run(inspect(args))?)?;
    Ok(ExitCode::SUCCESS)
}

async fn inspect(args: &DataplaneArgs) -> Result<String> {
    let client = ClusterClient::connect(&args.cluster).await?;
    let default_namespace = args.namespace.as_deref().unwrap_or(client.default_namespace());
    let name = args.dataplane.split_once('/');
    let (namespace, name) = name.unwrap_or((default_namespace, args.dataplane.as_str()));
    if args.topic.permissions {
        let report = permissions(&client, namespace, name).await?;
        return formatted(args, &report, || report.to_text());
    }
    let pod = client.get(&Resource::POD, Some(namespace), name).await?;
    let port = PodPort {
        namespace: namespace.to_owned(),
        pod: name.to_owned(),
        port: admin_port(&pod)?,
    };
    let mut envoy = client.open_http(port).await?;
    if args.topic.config {
        let report = Configuration::parse(&envoy.get(Configuration::PATH, MAX_RESPONSE).await?)?;
        formatted(args, &report, || report.to_text())
    } else if args.topic.clusters {
        let report = clusters(&mut envoy).await?;
        formatted(args, &report, || report.to_text())
    } else if args.topic.certs {
        let report = certificates(&mut envoy).await?;
        formatted(args, &report, || report.to_text())
    } else if args.topic.stats {
        let report = statistics(&mut envoy, args.filter.as_deref()).await?;
        if args.all || args.filter.is_some() {
            return formatted(args, &report, || report.to_text());
        }
        formatted(args, &report.traffic(), || report.traffic_text())
    } else {
        let dataplane = client
            .get_opt(&Resource::DATAPLANE, Some(namespace), name)
            .await?;
        let report = summary(
            format!("{namespace}/{name}"),
            dataplane.as_ref(),
            &envoy.get(Summary::PATH, MAX_RESPONSE).await?,
            &certificates(&mut envoy).await?,
            &clusters(&mut envoy).await?,
            &statistics(&mut envoy, None).await?,
        )?;
        formatted(args, &report, || report.to_text())
    }
}

fn formatted(args: &DataplaneArgs, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<String> {
    output::formatted(args.output, report, text)
}

async fn clusters(envoy: &mut PodHttp) -> Result<Clusters> {
    Ok(Clusters::parse(&envoy.get(Clusters::PATH, MAX_RESPONSE).await?)?)
}

async fn certificates(envoy: &mut PodHttp) -> Result<Certificates> {
    let response = envoy.get(Certificates::PATH, MAX_RESPONSE).await?;
    Ok(Certificates::parse(&response, SystemTime::now())?)
}

async fn statistics(envoy: &mut PodHttp, filter: Option<&str>) -> Result<Statistics> {
    let path = Statistics::path(filter);
    Ok(Statistics::parse(&envoy.get(&path, MAX_RESPONSE).await?))
}

/// Reads the objects that decide which callers the Dataplane allows.
async fn permissions(client: &ClusterClient, namespace: &str, name: &str) -> Result<Permissions> {
    let dataplane = client.get(&Resource::DATAPLANE, Some(namespace), name).await?;
    let mesh = dataplane["mesh"]
        .as_str()
        .context("the Dataplane names no mesh")?;
    let mesh: Option<Value> = client.get_opt(&Resource::MESH, None, mesh).await?;
    let system_namespace = system_namespace(client).await?;
    let in_system = Selection {
        namespace: Some(&system_namespace),
        ..Selection::default()
    };
    let permissions = client.list(&Resource::MESH_TRAFFIC_PERMISSION, in_system).await?;
    Ok(Permissions::new(&dataplane, mesh.as_ref(), &permissions)?)
}
