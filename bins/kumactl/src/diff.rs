//! `kumactl diff`: compares the sidecars of Pods with those that would be injected today. `kermode-explain` compares; this
//! module reads the Pods and the settings of the control plane.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use kermode_explain::{ObservedCluster, PodReviewer, SidecarDifferences};
use kermode_install::{CONFIG_MAP, NAME};
use kermode_k8s::controller::registration::MUTATING;

use crate::cluster::{self, ClusterArgs, ClusterClient, Resource, Selection};
use crate::control_plane::{config_in_cluster, get, list, system_namespace};
use crate::output::{self, Format};
use crate::progress::Progress;

/// Exit code if a sidecar differs.
const EXIT_DIFFERENCES: u8 = 3;

const EXIT_CODES: &str = "\
Exit codes:
  0  no sidecar differs
  1  the Pods or the settings of the control plane cannot be read
  2  wrong flags
  3  at least one sidecar differs";

/// Flags of `kumactl diff`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct DiffArgs {
    /// Namespace of the Pods, and name of one of them. By default, all Pods of all namespaces.
    #[arg(value_name = "NAMESPACE[/POD]")]
    pods: Option<String>,

    /// Namespace of the control plane. By default, the Namespace with the label kuma.io/system-namespace, else the default
    /// of kumactl install control-plane.
    #[arg(long, value_name = "NAME")]
    control_plane_namespace: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
pub(crate) fn run(args: &DiffArgs) -> Result<ExitCode> {
    let differences = cluster::run(async {
        let client = ClusterClient::connect(&args.cluster).await?;
        compare(&client, args, &Progress::start()).await
    })?;
    let text = output::formatted(args.output, &differences, || differences.to_text())?;
    output::print_result(&text)?;
    Ok(if differences.workloads.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_DIFFERENCES)
    })
}

async fn compare(client: &ClusterClient, args: &DiffArgs, progress: &Progress) -> Result<SidecarDifferences> {
    let observed = progress
        .during("reading the control plane", Box::pin(observe(client, args)))
        .await?;
    let reviewer = PodReviewer::new(&observed)?;
    let (namespace, name) = match args.pods.as_deref().map(|pods| pods.split_once('/').ok_or(pods)) {
        None => (None, None),
        Some(Err(namespace)) => (Some(namespace), None),
        Some(Ok((namespace, name))) => (Some(namespace), Some(name)),
    };
    let fields = name.map(|name| format!("metadata.name={name}"));
    let selection = Selection {
        namespace,
        fields: fields.as_deref().unwrap_or_default(),
        ..Selection::default()
    };
    let (mut differences, mut count, mut problem) = (SidecarDifferences::default(), 0, None);
    let pods = client.visit(&Resource::POD, selection, |pod| {
        count += 1;
        if let Err(error) = differences.add_pod(&reviewer, &pod) {
            problem = Some(error);
        }
    });
    progress.during("reading Pods", pods).await?;
    if let Some(problem) = problem {
        return Err(problem.into());
    }
    if let (0, Some(pod)) = (count, &args.pods)
        && name.is_some()
    {
        bail!("Pod {pod} does not exist; check its name and namespace");
    }
    Ok(differences)
}

/// Reads what the injector reads. All of it is required, because a comparison with defaults would be wrong.
async fn observe(client: &ClusterClient, args: &DiffArgs) -> Result<ObservedCluster> {
    let namespace = match &args.control_plane_namespace {
        Some(namespace) => namespace.clone(),
        None => system_namespace(client).await?,
    };
    let patches = Selection {
        namespace: Some(&namespace),
        ..Selection::default()
    };
    let all = Selection::default();
    let (namespaces, nodes, meshes, patches, webhooks, config_map, deployment, version) = tokio::try_join!(
        list(client, Resource::NAMESPACE, all),
        list(client, Resource::NODE, all),
        list(client, Resource::MESH, all),
        list(client, Resource::CONTAINER_PATCH, patches),
        get(client, Resource::MUTATING_WEBHOOKS, None, MUTATING),
        get(client, Resource::CONFIG_MAP, Some(&namespace), CONFIG_MAP),
        get(client, Resource::DEPLOYMENT, Some(&namespace), NAME),
        client.version(),
    )?;
    let mut observed = ObservedCluster {
        is_live: true,
        config_is_known: true,
        ..ObservedCluster::default()
    };
    let (config_maps, unread) = &config_map;
    if let Some(unread) = unread {
        bail!(
            "the settings of the control plane are required: {}",
            unread.reason
        );
    }
    let config_map = config_maps.first().with_context(|| {
        format!(
            "ConfigMap {CONFIG_MAP} does not exist in namespace {namespace}; name the namespace of the control plane with \
             --control-plane-namespace"
        )
    })?;
    observed.config = config_in_cluster(config_map, deployment.0.first())?;
    namespace.clone_into(&mut observed.config.store.kubernetes.system_namespace);
    let injector = &mut observed.config.runtime.kubernetes.injector;
    injector.set_api_server_version(version);
    for (objects, unread) in [namespaces, nodes, meshes, patches, webhooks] {
        if let Some(unread) = unread {
            bail!(
                "a comparison needs all objects of kind {}: {}",
                unread.kind,
                unread.reason
            );
        }
        observed.objects.extend(objects);
    }
    Ok(observed)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::cluster::tests::cluster;

    fn args(flags: &[&str]) -> DiffArgs {
        let line = ["kumactl", "diff"].iter().chain(flags);
        let Command::Diff(args) = Cli::try_parse_from(line).expect("flags").command else {
            panic!("the subcommand is not diff");
        };
        args
    }

    /// Compares with an API server that has the settings of a control plane and one Pod.
    async fn compared(flags: &[&str], has_settings: bool) -> Result<SidecarDifferences> {
        let client = cluster(Duration::from_mins(1), move |path| {
            let label = json!({"kuma.io/sidecar-injection": "enabled"});
            let body = if path.ends_with("/configmaps/kuma-control-plane-config") {
                if !has_settings {
                    let status = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "m"});
                    return (404, status.to_string());
                }
                json!({"data": {"config.yaml": "{}"}})
            } else if path.starts_with("/api/v1/namespaces?") {
                json!({"items": [{"metadata": {"name": "shop", "labels": label}}]})
            } else if path.starts_with("/api/v1/namespaces/shop/pods") && !path.contains("other") {
                let spec = json!({"containers": [{"name": "app"}]});
                json!({"items": [{"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}]})
            } else if path == "/version" {
                json!({"major": "1", "minor": "34"})
            } else {
                json!({"items": []})
            };
            (200, body.to_string())
        });
        compare(&client, &args(flags), &Progress::with(None)).await
    }

    #[tokio::test]
    async fn pods_of_a_namespace_are_compared_with_the_settings_of_the_control_plane() {
        let differences = compared(&["shop"], true).await.expect("differences");
        let workloads: Vec<&String> = differences.workloads.keys().collect();
        assert_eq!(workloads, ["Pod shop/web"]);
        let differences = compared(&["other-namespace"], true).await.expect("differences");
        assert_eq!(differences.compared, 0);
    }

    #[tokio::test]
    async fn missing_settings_and_a_missing_pod_are_errors() {
        let error = compared(&["shop"], false).await.expect_err("no settings");
        assert!(
            error
                .to_string()
                .contains("ConfigMap kuma-control-plane-config does not exist"),
            "{error}"
        );
        let error = compared(&["shop/other"], true).await.expect_err("no Pod");
        assert!(
            error.to_string().contains("Pod shop/other does not exist"),
            "{error}"
        );
    }
}
