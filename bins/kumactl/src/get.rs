//! `kumactl get`: lists the resources of the mesh in a cluster. The API server formats the columns, which the
//! CustomResourceDefinitions declare.

mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kermode_manifests::yaml;
use serde_json::{Value, json};

use crate::cluster::{self, ClusterArgs, ClusterClient, Resource, Selection};
use crate::output;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the cluster cannot be read, or no object has the name
  2  wrong flags";

/// Flags of `kumactl get`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct GetArgs {
    /// Kind of the objects.
    #[arg(value_enum, value_name = "KIND")]
    kind: Kind,

    /// Name of one object. By default, all objects.
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Namespace of the objects. By default, all namespaces. A Mesh belongs to no namespace.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,

    /// Label selector, such as app=web,kuma.io/mesh=default.
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "")]
    selector: String,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: ListFormat,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Kind of the listed objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Proxies of the mesh, one for each Pod with a sidecar.
    #[value(alias = "dataplane")]
    Dataplanes,
    /// Meshes.
    #[value(alias = "mesh")]
    Meshes,
    /// Permissions of clients to call services.
    #[value(name = "meshtrafficpermissions", alias = "meshtrafficpermission")]
    MeshTrafficPermissions,
    /// Changes of the injected containers.
    #[value(name = "containerpatches", alias = "containerpatch")]
    ContainerPatches,
}

/// Format of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// Table with the most important columns.
    #[default]
    Table,
    /// Table with all columns.
    Wide,
    /// YAML documents.
    Yaml,
    /// A JSON object of kind List.
    Json,
}

/// Runs the command.
pub(crate) fn run(args: &GetArgs) -> Result<ExitCode> {
    output::print_result(&cluster::run(list(args))?)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &GetArgs) -> Result<String> {
    let client = ClusterClient::connect(&args.cluster).await?;
    let resource = args.kind.resource();
    let fields = args.name.as_deref().map(|name| format!("metadata.name={name}"));
    let selection = Selection {
        namespace: args.namespace.as_deref().filter(|_| args.kind != Kind::Meshes),
        labels: &args.selector,
        fields: fields.as_deref().unwrap_or_default(),
    };
    if matches!(args.output, ListFormat::Table | ListFormat::Wide) {
        let table = client.table(&resource, selection).await?;
        require_found(args, table.rows.len())?;
        let has_namespaces = args.kind != Kind::Meshes && args.namespace.is_none();
        return Ok(table::text(
            &table,
            has_namespaces,
            args.output == ListFormat::Wide,
        ));
    }
    let objects = client.list(&resource, selection).await?;
    require_found(args, objects.len())?;
    formatted(args.output, objects)
}

fn formatted(format: ListFormat, objects: Vec<Value>) -> Result<String> {
    if format == ListFormat::Yaml {
        return Ok(yaml::documents(&objects)?);
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    Ok(format!("{}\n", serde_json::to_string_pretty(&list)?))
}

/// Fails if the command line names an object that does not exist.
fn require_found(args: &GetArgs, count: usize) -> Result<()> {
    if let (Some(name), 0) = (&args.name, count) {
        let kind = args.kind.resource().kind;
        let place = args
            .namespace
            .as_deref()
            .map(|namespace| format!(" in namespace {namespace}"));
        bail!(
            "{kind} {name} does not exist{}; check its name and namespace",
            place.unwrap_or_default()
        );
    }
    Ok(())
}

// === impl Kind ===

impl Kind {
    fn resource(self) -> Resource {
        match self {
            Self::Dataplanes => Resource::DATAPLANE,
            Self::Meshes => Resource::MESH,
            Self::MeshTrafficPermissions => Resource::MESH_TRAFFIC_PERMISSION,
            Self::ContainerPatches => Resource::CONTAINER_PATCH,
        }
    }
}
